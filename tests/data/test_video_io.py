from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from openvclip.data import video_io
from openvclip.data.sampling import ClipRequest, Sampling, clip_window, counted_indices
from openvclip.data.video_io import read_clips
from openvclip.utils.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampling.json").read_text())
VIEWS = [ClipRequest(view, 3) for view in range(3)]
SAMPLING = Sampling(num_frames=4, sampling_rate=4, target_fps=25)


def numbers(frames: np.ndarray) -> list[int]:
    """Return which frames of the fixture these are: frame i has the brightness 20 + 5 i."""
    found = (frames.reshape(len(frames), -1).mean(1) - 20) / 5
    np.testing.assert_allclose(found, found.round(), atol=0.4)
    return found.round().astype(int).tolist()


def clip_numbers(path: Path, requests=VIEWS, sampling=SAMPLING, **options) -> list[list[int]]:
    clips = read_clips(str(path), requests, sampling, **options)
    names = numbers(clips.frames)
    return [[names[i] for i in clip] for clip in clips.indices]


def published(pts, count, fps, duration, requests=VIEWS, sampling=SAMPLING) -> list[list[int]]:
    """Choose frames by the formulas, from the ticks of frames that come in their order."""
    out = []
    for request in requests:
        window = clip_window(sampling, request, count=count, fps=fps, duration=duration)
        kept = [i for i, tick in enumerate(pts) if window.start <= tick <= window.end]
        kept += [i for i, tick in enumerate(pts) if tick > window.end][:1]
        out.append([kept[min(p, len(kept) - 1)] for p in window.wanted])
    return out


def counted(count, requests=VIEWS, sampling=SAMPLING, fps=25.0) -> list[list[int]]:
    return [
        list(counted_indices(sampling, request, count=count, fps=fps)) for request in requests
    ]


@pytest.mark.parametrize("multi_thread", [False, True])
def test_h264_with_b_frames(videos, multi_thread):
    pts = [512 * i for i in range(40)]
    expected = published(pts, 40, 25.0, 512 * 40)
    assert clip_numbers(videos["bframes"], multi_thread=multi_thread) == expected
    assert expected[1] == [10, 15, 20, 21]


def test_mpeg4_in_avi_counts_ticks_from_one(videos):
    assert clip_numbers(videos["avi"]) == published(range(1, 41), 40, 25.0, 40)


@pytest.mark.parametrize("name", ["mkv", "ts", "raw"])
def test_frames_are_counted_without_a_duration_or_a_count(videos, name):
    assert clip_numbers(videos[name]) == counted(40)


def test_variable_frame_rate_follows_the_ticks(videos):
    with av.open(str(videos["vfr"])) as container:
        stream = container.streams.video[0]
        fps, count, duration = float(stream.average_rate), stream.frames, stream.duration
        pts = [frame.pts for frame in container.decode(stream)]
    assert len({b - a for a, b in zip(pts, pts[1:], strict=False)}) > 1
    assert clip_numbers(videos["vfr"]) == published(pts, count, fps, duration)


@pytest.mark.parametrize("name", ["bframes", "opengop", "avi", "mkv"])
def test_seeking_changes_neither_the_choice_nor_a_pixel(videos, name, monkeypatch):
    for draw in np.linspace(0, 0.999, 12):
        request = [ClipRequest(draw=float(draw))]
        with monkeypatch.context() as patch:
            patch.setattr(video_io, "SEEK_MARGIN", 0)
            near = read_clips(str(videos[name]), request, SAMPLING)
            patch.setattr(video_io, "SEEK_MARGIN", 10**6)
            whole = read_clips(str(videos[name]), request, SAMPLING)
        np.testing.assert_array_equal(near.frames, whole.frames)
        assert near.indices == whole.indices


class Unseekable:
    """A container on a medium that cannot be wound back."""

    def __init__(self, container):
        self.container = container

    def demux(self, stream):
        return self.container.demux(stream)

    def seek(self, *_, **__):
        raise OSError("illegal seek")


@pytest.mark.parametrize("name", ["bframes", "mkv"])
def test_files_that_cannot_be_sought_are_read_from_the_start(videos, name, monkeypatch):
    late = [ClipRequest(draw=0.999)]
    expected = clip_numbers(videos[name], late)
    assert expected[0][0] > 20
    original = video_io._Reader.__post_init__

    def wrap(reader):
        original(reader)
        reader.container = Unseekable(reader.container)

    monkeypatch.setattr(video_io._Reader, "__post_init__", wrap)
    assert clip_numbers(videos[name], late) == expected


def test_training_decodes_from_the_keyframe_before_the_clip(videos, monkeypatch):
    seen = []
    original = video_io._Reader._decoded

    def count(reader):
        for frame in original(reader):
            seen.append(frame.pts // 512)
            yield frame

    monkeypatch.setattr(video_io._Reader, "_decoded", count)
    monkeypatch.setattr(video_io, "SEEK_MARGIN", 2)
    assert clip_numbers(videos["bframes"], [ClipRequest(draw=0.999)]) == [[28, 33, 38, 39]]
    assert seen[0] == 20


def test_views_are_decoded_once(videos, monkeypatch):
    seen = []
    original = video_io._Reader._decoded

    def count(reader):
        for frame in original(reader):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_io._Reader, "_decoded", count)
    clips = read_clips(str(videos["bframes"]), VIEWS, SAMPLING)
    assert len(seen) == len(set(seen)) <= 40
    assert len(clips.frames) == len({n for clip in clip_numbers(videos["bframes"]) for n in clip})


def test_distant_views_are_reached_by_seeking(videos, monkeypatch):
    monkeypatch.setattr(video_io, "GAP_FRAMES", 0)
    monkeypatch.setattr(video_io, "SEEK_MARGIN", 1)
    sampling = Sampling(num_frames=2, sampling_rate=2, target_fps=25)
    pts = [512 * i for i in range(40)]
    expected = published(pts, 40, 25.0, 512 * 40, sampling=sampling)
    assert clip_numbers(videos["bframes"], sampling=sampling) == expected


def test_frames_out_of_order_are_found_again(videos, monkeypatch):
    original = video_io._Reader._decoded

    def swapped(reader):
        frames = list(original(reader))
        yield from frames[:9] + frames[12:9:-1] + [frames[9]] + frames[13:]

    monkeypatch.setattr(video_io._Reader, "_decoded", swapped)
    monkeypatch.setattr(video_io, "DISORDER", 0)
    sampling = Sampling(num_frames=16, sampling_rate=1, target_fps=25)
    assert clip_numbers(videos["bframes"], [ClipRequest()], sampling) == [list(range(16))]


def test_exact_sampling_ends_at_the_last_frame(videos):
    sampling = Sampling(4, 4, 25, use_offset=True, compat="exact")
    assert clip_numbers(videos["bframes"], sampling=sampling) == [
        [0, 4, 8, 12], [13, 17, 21, 25], [27, 31, 35, 39],
    ]


@pytest.mark.parametrize(("name", "shape"), [("odd", (33, 47)), ("tenbit", (48, 64))])
def test_odd_sizes_and_ten_bits(videos, name, shape):
    clips = read_clips(str(videos[name]), VIEWS, SAMPLING)
    assert clips.frames.shape[1:] == (*shape, 3)
    assert clips.frames.dtype == np.uint8
    with av.open(str(videos[name])) as container:
        frames = [frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]
    for number, frame in zip(numbers(clips.frames), clips.frames, strict=True):
        np.testing.assert_array_equal(frame, frames[number])


@pytest.mark.parametrize(("name", "count"), [("short", 3), ("single", 1)])
def test_a_video_shorter_than_the_clip_repeats_its_last_frame(videos, name, count):
    clips = clip_numbers(videos[name])
    assert clips == [[min(4 * i, count - 1) for i in range(4)]] * 3


def test_rotation_metadata_are_ignored(videos, tmp_path):
    path = tmp_path / "turned.mp4"
    matrix = [0, 1, 0, -1, 0, 0, 0, 0, 1]
    raw = bytearray(videos["short"].read_bytes())
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 16
    plain = b"".join(
        int(v * (2**30 if i % 3 == 2 else 2**16)).to_bytes(4, "big", signed=True)
        for i, v in enumerate([1, 0, 0, 0, 1, 0, 0, 0, 1])
    )
    assert bytes(raw[at:at + 36]) == plain
    raw[at:at + 36] = b"".join(
        int(v * (2**30 if i % 3 == 2 else 2**16)).to_bytes(4, "big", signed=True)
        for i, v in enumerate(matrix)
    )
    path.write_bytes(raw)
    with av.open(str(path)) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90
    turned = read_clips(str(path), VIEWS, SAMPLING)
    np.testing.assert_array_equal(
        turned.frames, read_clips(str(videos["short"]), VIEWS, SAMPLING).frames
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "cannot be opened as a video: .*Invalid data"),
        ("garbage", "cannot be opened as a video: .*Invalid data"),
        ("headless", "cannot be opened as a video: .*Invalid data"),
        ("missing", "cannot be opened as a video: .*No such file"),
        ("audio", "has no video stream"),
    ],
)
def test_what_is_no_video_is_named(videos, name, reason):
    with pytest.raises(DataError, match=f"{videos[name].name}: {reason}"):
        read_clips(str(videos[name]), VIEWS, SAMPLING)


def test_a_damaged_file_names_the_decoders_complaint(videos):
    with pytest.raises(DataError, match="damaged.mp4: .*Invalid data found"):
        read_clips(str(videos["damaged"]), VIEWS, SAMPLING)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cut.mkv", [0, 5, 10, 15]), ("cut.avi", [0, 5, 6, 6]), ("cut.mp4", [0, 5, 10, 12])],
)
def test_a_truncated_file_gives_what_it_holds(videos, name, expected):
    clips = read_clips(str(videos[name]), [ClipRequest(0, 3)], SAMPLING)
    order = [round((clips.frames[i].mean() - 22) / 5) for i in clips.indices[0]]
    assert order == expected


def test_a_file_that_breaks_off_before_a_clip_is_bad(videos):
    late = [ClipRequest(0, 3), ClipRequest(draw=0.999)]
    with pytest.raises(DataError, match="cut.mp4: breaks off before the first frame of clip 1"):
        read_clips(str(videos["cut.mp4"]), late, SAMPLING)


def test_a_container_that_promises_too_much_is_counted(videos, monkeypatch):
    original = video_io._Reader.__post_init__

    def lie(reader):
        original(reader)
        reader.count, reader.duration = 4000, 512 * 4000

    monkeypatch.setattr(video_io._Reader, "__post_init__", lie)
    assert clip_numbers(videos["bframes"]) == counted(40)


def test_names_with_a_colon_or_a_pattern_are_files(videos, tmp_path):
    for name in ("http:x.mp4", "a%03d.mp4"):
        (tmp_path / name).write_bytes(videos["short"].read_bytes())
        assert clip_numbers(tmp_path / name)[0] == [0, 2, 2, 2]


def test_random_damage_gives_frames_or_a_data_error(videos, tmp_path):
    draws = np.random.default_rng(5)
    outcomes = {True: 0, False: 0}
    for number in range(60):
        source = videos[("bframes", "avi", "mkv")[number % 3]]
        raw = np.frombuffer(source.read_bytes(), np.uint8).copy()
        if number % 2:
            raw = raw[: draws.integers(0, len(raw))]
        else:
            raw[draws.integers(0, len(raw), 20)] ^= draws.integers(1, 256, 20, dtype=np.uint8)
        path = tmp_path / f"{number}{source.suffix}"
        path.write_bytes(raw.tobytes())
        try:
            clips = read_clips(str(path), VIEWS, SAMPLING)
            assert all(len(clip) == 4 for clip in clips.indices)
            outcomes[True] += 1
        except DataError as error:
            assert path.name in str(error)
            outcomes[False] += 1
    assert min(outcomes.values()) > 5


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared videos")
@pytest.mark.parametrize("name", [n for n in GOLDEN["videos"] if n != "corrupted.mp4"])
def test_real_videos_give_the_published_frames(name, monkeypatch):
    chosen = []
    original = video_io._convert

    def record(reader, stamps, frames):
        chosen.extend(stamps)
        return original(reader, stamps, frames)

    monkeypatch.setattr(video_io, "_convert", record)
    sampling = Sampling(8, 16, 30, use_offset=True)
    clips = read_clips(str(SHARED / name), VIEWS, sampling)
    with av.open(str(SHARED / name)) as container:
        stamps = sorted(frame.pts for frame in container.decode(video=0))
    assert [[stamps.index(s) for s in clip] for clip in chosen] == GOLDEN["videos"][name]
    assert len(clips.frames) == len({n for clip in GOLDEN["videos"][name] for n in clip})


