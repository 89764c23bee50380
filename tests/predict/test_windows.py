"""A video as a stream of windows."""

from __future__ import annotations

import pytest

from openvclip.data.dataset import Pixels
from openvclip.predict import windows
from openvclip.predict.windows import stream_windows
from openvclip.utils.errors import DataError
from tests.data.conftest import write_video

DAY = 86400
FPS = 25
# Frame i of these videos has the brightness 20 + 5 i.
PLAIN = Pixels(scales=(48, 48), size=48, mean=(0, 0, 0), std=(1 / 255,) * 3)


def numbers(clip) -> list[int]:
    """Numbers of the frames of float (3, T, H, W), values 0 to 255."""
    return [round((float(value) - 20) / 5) for value in clip.mean(dim=(0, 2, 3))]


@pytest.mark.parametrize("name", ["bframes", "mkv"])
def test_windows_slide_and_each_frame_is_decoded_once(videos, name, monkeypatch):
    counts = {"frames": 0, "opened": 0}
    whole, opening = windows.VideoReader.frames, windows.open_video

    def counting(self):
        for item in whole(self):
            counts["frames"] += 1
            yield item

    def noting(*args):
        counts["opened"] += 1
        return opening(*args)

    monkeypatch.setattr(windows.VideoReader, "frames", counting)
    monkeypatch.setattr(windows, "open_video", noting)
    found = list(stream_windows(str(videos[name]), PLAIN, num_frames=4, window=0.64, stride=0.32))
    assert [window.start for window in found] == pytest.approx([0, 0.32, 0.64, 0.96, 1.28])
    assert [window.end for window in found] == pytest.approx([0.64, 0.96, 1.28, 1.6, 1.6])
    assert [numbers(window.clip) for window in found] == [
        [0, 4, 8, 12], [8, 12, 16, 20], [16, 20, 24, 28], [24, 28, 32, 36], [32, 36, 36, 36]]
    assert found[1].picture.shape == (48, 64, 3) and abs(found[1].picture.mean() - 100) < 5
    assert counts == {"frames": 40, "opened": 1}


def test_what_waits_is_bounded_however_long_the_video(videos, monkeypatch):
    most = 0
    offer = windows._Open.offer

    def watching(self, *args):
        nonlocal most
        most = max(most, self.start)
        offer(self, *args)

    monkeypatch.setattr(windows._Open, "offer", watching)
    for window in stream_windows(str(videos["bframes"]), PLAIN, num_frames=2, window=0.2,
                                 stride=0.2):
        assert most - window.start < 0.41  # no more than the next one has been opened


def test_a_video_shorter_than_a_window_is_one_window(videos):
    (window,) = stream_windows(str(videos["short"]), PLAIN, num_frames=4, window=4, stride=2)
    assert numbers(window.clip) == [0, 0, 0, 0]  # the second one would be at 1 s
    assert window.end == pytest.approx(0.12)


def test_broken_videos_give_what_they_have_or_say_why(videos, caplog):
    found = list(stream_windows(str(videos["cut.mkv"]), PLAIN, num_frames=2, window=0.2,
                                stride=0.2))
    assert 1 < len(found) < 8
    for name in ("garbage", "empty", "audio", "missing"):
        with pytest.raises(DataError, match=videos[name].name):
            list(stream_windows(str(videos[name]), PLAIN, num_frames=2, window=1, stride=1))


def test_windows_are_turned_as_the_file_says(videos, monkeypatch):
    monkeypatch.setattr(windows, "count_turns", lambda frame: 3)
    window = next(stream_windows(str(videos["bframes"]), PLAIN, num_frames=2, window=1, stride=1))
    assert window.picture.shape == (64, 48, 3)


def offered(monkeypatch) -> list[int]:
    """Count the windows that are opened."""
    counts = [0]

    class Counting(windows._Open):
        def __init__(self, *given):
            counts[0] += 1
            super().__init__(*given)

    monkeypatch.setattr(windows, "_Open", Counting)
    return counts


@pytest.mark.parametrize("name, gap", [("day.mp4", DAY), ("ten_years.mkv", 3652 * DAY)])
def test_a_gap_in_the_times_is_one_window(tmp_path, monkeypatch, name, gap):
    shown_at = [i if i < 20 else i + gap * FPS for i in range(40)]
    path = write_video(tmp_path / name, 40, shown_at=shown_at)
    counts = offered(monkeypatch)
    found = list(stream_windows(str(path), PLAIN, num_frames=4, window=0.64, stride=0.32))
    assert len(found) < 10 and counts[0] < 20
    (long,) = [window for window in found if window.count > 1]
    assert numbers(long.clip) == [19] * 4
    assert long.count == pytest.approx(gap / 0.32, rel=1e-3)
    assert 0.7 < long.start < 1 and 0.3 + gap < long.end < 0.9 + gap
    # The others are those of both halves, of which each has 20 frames.
    assert numbers(found[0].clip) == [0, 4, 8, 12]
    assert 36 <= numbers(found[-1].clip)[-1] <= 39 and found[-1].end == pytest.approx(gap + 1.6)


def test_a_frame_an_hour_is_a_few_windows_a_frame(tmp_path, monkeypatch):
    path = write_video(tmp_path / "slow.mp4", 30, shown_at=[i * 3600 * FPS for i in range(30)])
    counts = offered(monkeypatch)
    found = list(stream_windows(str(path), PLAIN, num_frames=8, window=4.0, stride=2.0))
    assert 30 <= len(found) <= counts[0] <= 4 * 30
    assert {tuple(numbers(window.clip)) for window in found} >= {(n,) * 8 for n in range(30)}
    assert sum(window.count for window in found) >= 29 * 1800


def test_tiny_windows_are_one_a_frame_and_few_where_it_changes(videos, monkeypatch):
    counts = offered(monkeypatch)
    found = list(stream_windows(str(videos["bframes"]), PLAIN, num_frames=8, window=1e-3,
                                stride=1e-3 / 16))
    assert 40 <= len(found) <= 40 * 9 and counts[0] <= 40 * 20
    assert sum(window.count for window in found) == pytest.approx(1.6 / (1e-3 / 16), rel=0.01)


def test_no_two_windows_in_a_row_have_the_same_frames(videos):
    found = list(stream_windows(str(videos["vfr"]), PLAIN, num_frames=2, window=0.04, stride=0.01))
    clips = [numbers(window.clip) for window in found]
    assert all(a != b for a, b in zip(clips, clips[1:], strict=False))
    assert max(window.count for window in found) > 5


@pytest.mark.parametrize("window, stride", [(1e6, 1e6), (1e6, 62_500.0), (0.2, 1e6)])
def test_windows_longer_than_the_video_are_one(videos, window, stride):
    (found,) = stream_windows(str(videos["bframes"]), PLAIN, num_frames=4, window=window,
                              stride=stride)
    assert found.start == 0 and found.end <= 1.6


def test_a_frame_of_a_million_years_later_is_not_shown(videos, monkeypatch, caplog):
    whole = windows.VideoReader.frames

    def late(self):
        for number, (stamp, frame) in enumerate(whole(self)):
            yield stamp if number < 20 else stamp + int(3e13 / self.tick), frame

    monkeypatch.setattr(windows.VideoReader, "frames", late)
    found = list(stream_windows(str(videos["bframes"]), PLAIN, num_frames=2, window=0.2,
                                stride=0.2))
    assert found[-1].end < 1 and "a frame has a timestamp" in caplog.text


def test_where_no_frame_is_shown_after_the_beginning_it_says_so(videos, monkeypatch):
    whole = windows.VideoReader.frames

    def early(self):
        self.start = 10**9
        yield from whole(self)

    monkeypatch.setattr(windows.VideoReader, "frames", early)
    with pytest.raises(DataError, match="no frame"):
        list(stream_windows(str(videos["bframes"]), PLAIN, num_frames=2, window=1, stride=1))
