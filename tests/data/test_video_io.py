from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from openvclip.data.video import video_io, video_reader
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from tests.data.conftest import write_video
from tests.data.frame_numbers import (
    PTS,
    SAMPLING,
    VIEWS,
    change,
    clip_numbers,
    counted,
    numbers,
    published,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampling.json").read_text())


@pytest.mark.parametrize("multi_thread", [False, True])
@pytest.mark.parametrize("name", ["bframes", "opengop"])
def test_h264_with_b_frames(videos, name, multi_thread):
    expected = published(PTS, 40, 25.0, 512 * 40)
    assert clip_numbers(videos[name], multi_thread=multi_thread) == expected
    assert expected[1] == [10, 15, 20, 21]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"x265-params": "log-level=none:bframes=3:keyint=10:open-gop=1"}),
        ("libsvtav1", {"g": "10"}),
        ("libvpx-vp9", {"g": "10"}),
    ],
)
def test_newer_codecs(tmp_path, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV comes without {codec}")
    path = write_video(tmp_path / "v.mp4", 40, codec=codec, width=128, height=96, options=options)
    requests = [*VIEWS, ClipRequest(draw=0.999)]
    assert clip_numbers(path, requests) == published(PTS, 40, 25.0, 512 * 40, requests)


@pytest.mark.parametrize("cut", [10, 13])
def test_what_an_edit_list_cuts_away_does_not_exist(tmp_path, cut):
    path = write_video(tmp_path / "v.mp4", 40, options={"bf": "3", "g": "10", "b-adapt": "0"})
    # Two frames of delay for the B-frames, then the cut; in ticks of the track.
    edited = change(path, b"elst", 16, (512 * (2 + cut)).to_bytes(4, "big"))
    edited = change(edited, b"elst", 12, (40 * (40 - cut)).to_bytes(4, "big"))
    with av.open(str(edited)) as container:
        count, duration = container.streams.video[0].frames, container.streams.video[0].duration
    assert (count, duration) == (40, 512 * (40 - cut))
    requests = [*VIEWS, ClipRequest(draw=0.999)]
    expected = published(PTS[: 40 - cut], count, 25.0, duration, requests)
    found = clip_numbers(edited, requests)
    assert found == [[n + cut for n in clip] for clip in expected]
    assert found[0][0] == cut


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
            patch.setattr(video_reader, "SEEK_MARGIN", 0)
            near = read_clips(str(videos[name]), request, SAMPLING)
            patch.setattr(video_reader, "SEEK_MARGIN", 10**6)
            whole = read_clips(str(videos[name]), request, SAMPLING)
        np.testing.assert_array_equal(near.frames, whole.frames)
        assert near.indices == whole.indices


class Wrapped:
    """A container whose packets get other timestamps, or that cannot be wound back."""

    def __init__(self, container, stamp=lambda pts: pts, seek=None):
        self.container, self.stamp = container, stamp
        self.seek = seek or container.seek

    def demux(self, stream):
        for packet in self.container.demux(stream):
            if packet.size:
                packet.pts = self.stamp(packet.pts)
            yield packet


def wrap_containers(monkeypatch, **wrapping):
    original = video_io.VideoReader.__post_init__

    def wrap(reader):
        original(reader)
        reader.container = Wrapped(reader.container, **wrapping)

    monkeypatch.setattr(video_io.VideoReader, "__post_init__", wrap)


def test_frames_before_tick_zero_are_left_out(videos, monkeypatch):
    wrap_containers(monkeypatch, stamp=lambda pts: pts - 6 * 512)
    shifted = published([512 * (i - 6) for i in range(40)], 40, 25.0, 512 * 40)
    assert clip_numbers(videos["bframes"]) == shifted
    assert shifted[0][0] == 6


@pytest.mark.parametrize("compat", ["published", "exact"])
def test_counting_begins_at_tick_zero_but_for_exact_sampling(videos, monkeypatch, compat):
    wrap_containers(monkeypatch, stamp=lambda pts: pts - 6 * 40)
    sampling = Sampling(4, 4, 25, compat=compat)
    cut = 6 if compat == "published" else 0
    expected = counted(40 - cut, sampling=sampling)
    found = clip_numbers(videos["mkv"], sampling=sampling)
    assert found == [[n + cut for n in clip] for clip in expected]


@pytest.mark.parametrize("name", ["bframes", "mkv"])
@pytest.mark.parametrize("lacks", [lambda tick: True, lambda tick: tick % 3 == 1])
def test_frames_without_a_timestamp_follow_each_other(videos, name, lacks, monkeypatch):
    requests = [*VIEWS, ClipRequest(draw=0.999)]
    expected = clip_numbers(videos[name], requests)
    ticks = {"bframes": 512, "mkv": 40}[name]
    wrap_containers(monkeypatch, stamp=lambda pts: None if lacks(pts // ticks) else pts)
    assert clip_numbers(videos[name], requests) == expected


def test_order_counts_where_the_first_frames_have_no_timestamp(tmp_path):
    path = write_video(
        tmp_path / "v.mkv", 40, shown_at=[i - 6 for i in range(40)],
        container_options={"avoid_negative_ts": "disabled"},
    )
    with av.open(str(path)) as container:
        pts = [frame.pts for frame in container.decode(video=0)]
    assert pts[5:8] == [None, 0, 40]
    assert clip_numbers(path) == counted(40)


@pytest.mark.parametrize("name", ["bframes", "mkv"])
def test_files_that_cannot_be_sought_are_read_from_the_start(videos, name, monkeypatch):
    late = [ClipRequest(draw=0.999)]
    expected = clip_numbers(videos[name], late)
    assert expected[0][0] > 20

    def illegal_seek(*_, **__):
        raise OSError("illegal seek")

    wrap_containers(monkeypatch, seek=illegal_seek)
    assert clip_numbers(videos[name], late) == expected


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The ticks of all frames that the decoder gives, as it gives them."""
    seen = []
    original = video_io.VideoReader._decoded

    def note(reader):
        for frame in original(reader):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_io.VideoReader, "_decoded", note)
    return seen


@pytest.mark.parametrize(
    ("name", "start", "ticks", "keyframe", "last"),
    [("bframes", 20.5, 512, 20, 32), ("bframes", 27.9, 512, 20, 39), ("mkv", 20.5, 40, 20, 35)],
)
def test_training_decodes_from_the_keyframe_before_the_clip_to_its_last_frame(
    videos, decoded, name, start, ticks, keyframe, last
):
    room = 28 if name == "bframes" else 24
    read_clips(str(videos[name]), [ClipRequest(draw=start / room)], SAMPLING)
    assert [tick // ticks for tick in decoded] == list(range(keyframe, last + 1))


@pytest.mark.parametrize("name", ["bframes", "mkv", "avi"])
def test_views_are_decoded_once_and_only_their_frames_are_converted(
    videos, decoded, name, monkeypatch
):
    converted = []

    class Counting:
        def __init__(self):
            self.reformatter = VideoReformatter()

        def reformat(self, frame, **options):
            converted.append(frame.pts)
            return self.reformatter.reformat(frame, **options)

    monkeypatch.setattr(video_io, "VideoReformatter", Counting)
    clips = read_clips(str(videos[name]), VIEWS, SAMPLING)
    assert len(decoded) == len(set(decoded)) <= 40
    assert len(converted) == len(set(converted)) == len(clips.frames)
    assert len(clips.frames) == len({place for clip in clips.indices for place in clip})


def test_distant_views_are_reached_by_seeking(videos, monkeypatch):
    monkeypatch.setattr(video_io, "GAP_FRAMES", 0)
    monkeypatch.setattr(video_reader, "SEEK_MARGIN", 1)
    sampling = Sampling(num_frames=2, sampling_rate=2, target_fps=25)
    pts = [512 * i for i in range(40)]
    expected = published(pts, 40, 25.0, 512 * 40, sampling=sampling)
    assert clip_numbers(videos["bframes"], sampling=sampling) == expected


def test_frames_out_of_order_are_found_again(videos, monkeypatch):
    original = video_io.VideoReader._decoded

    def swapped(reader):
        frames = list(original(reader))
        yield from frames[:9] + frames[12:9:-1] + [frames[9]] + frames[13:]

    monkeypatch.setattr(video_io.VideoReader, "_decoded", swapped)
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


def test_names_with_a_colon_or_a_pattern_are_files(videos, tmp_path):
    for name in ("http:x.mp4", "a%03d.mp4"):
        (tmp_path / name).write_bytes(videos["short"].read_bytes())
        assert clip_numbers(tmp_path / name)[0] == [0, 2, 2, 2]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared videos")
@pytest.mark.parametrize("name", [n for n in GOLDEN["videos"] if n != "corrupted.mp4"])
def test_real_videos_give_the_published_frames(name, monkeypatch):
    chosen = []
    original = video_io._convert

    def record(reader, stamps, *rest):
        chosen.extend(stamps)
        return original(reader, stamps, *rest)

    monkeypatch.setattr(video_io, "_convert", record)
    sampling = Sampling(8, 16, 30, use_offset=True)
    clips = read_clips(str(SHARED / name), VIEWS, sampling)
    with av.open(str(SHARED / name)) as container:
        stamps = sorted(frame.pts for frame in container.decode(video=0))
    assert [[stamps.index(s) for s in clip] for clip in chosen] == GOLDEN["videos"][name]
    assert len(clips.frames) == len({n for clip in GOLDEN["videos"][name] for n in clip})
