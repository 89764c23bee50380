"""Files that are damaged, that lie or that are no videos at all."""

from __future__ import annotations

import gc
import os
from contextlib import suppress

import av
import pytest

from openvclip.data.check.video import check_video
from openvclip.data.video import video_io, video_reader
from openvclip.data.video.sampling import ClipRequest
from openvclip.data.video.video_io import read_clips
from openvclip.utils.errors import DataError
from tests.data.conftest import write_video
from tests.data.frame_numbers import SAMPLING, VIEWS, change, clip_numbers, counted, published


@pytest.mark.parametrize(
    ("length", "expected"),
    [(20, published(range(1, 41), 20, 25.0, 20)), (4000, counted(40))],
)
def test_containers_that_lie_about_their_length(videos, length, expected):
    liar = change(videos["avi"], b"strh", 40, length.to_bytes(4, "little"))
    with av.open(str(liar)) as container:
        assert container.streams.video[0].frames == length
    assert clip_numbers(liar) == expected


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


def test_a_decoders_complaint_has_no_numbers_or_functions_of_ffmpeg(videos):
    for name in ("damaged", "garbage", "headless"):
        with pytest.raises(DataError, match="Invalid data found when processing input$") as caught:
            read_clips(str(videos[name]), VIEWS, SAMPLING)
        assert str(caught.value).count(str(videos[name])) == 1
        assert check_video(str(videos[name]))["reason"].endswith("processing input")


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
    original = video_io.VideoReader.__post_init__

    def lie(reader):
        original(reader)
        reader.count, reader.duration = 4000, 512 * 4000

    monkeypatch.setattr(video_io.VideoReader, "__post_init__", lie)
    assert clip_numbers(videos["bframes"]) == counted(40)


@pytest.mark.parametrize("size", [(64, 48), (128, 96)])
def test_frames_that_are_too_large_are_not_decoded(tmp_path, size, monkeypatch):
    monkeypatch.setattr(video_reader, "MAX_PIXELS", 64 * 48 - 1)
    monkeypatch.setitem(video_reader.DECODER_OPTIONS, "max_pixels", str(64 * 48 - 1))
    path = write_video(tmp_path / "v.mp4", 20, width=size[0], height=size[1])
    with pytest.raises(DataError, match=f"v.mp4: has frames of {size[0]}x{size[1]}, more than"):
        read_clips(str(path), VIEWS, SAMPLING)


def test_frames_that_grow_too_large_end_the_video(tmp_path, monkeypatch):
    monkeypatch.setitem(video_reader.DECODER_OPTIONS, "max_pixels", str(64 * 48))
    small = write_video(tmp_path / "a.h264", 20).read_bytes()
    large = write_video(tmp_path / "b.h264", 20, width=128, height=96).read_bytes()
    path = tmp_path / "v.h264"
    path.write_bytes(small + large)
    assert clip_numbers(path) == counted(20)


@pytest.mark.parametrize("name", ["bframes", "mkv", "damaged", "cut.mp4", "cut.avi"])
def test_readers_and_frames_are_freed_at_once(videos, name):
    gc.collect()
    gc.disable()
    try:
        with suppress(DataError):
            read_clips(str(videos[name]), [*VIEWS, ClipRequest(draw=0.999)], SAMPLING)
        kinds = (video_io.VideoReader, video_io._Kept)
        assert not [thing for thing in gc.get_objects() if type(thing) in kinds]
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "NUL"])
def test_what_is_no_regular_file_is_a_line_and_does_not_hang(kind, tmp_path):
    path = {"device": "/dev/zero", "NUL": f"{tmp_path}/a\0b.mp4"}.get(kind, str(tmp_path / "a.mp4"))
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    said = "null" if kind == "NUL" else f"it is a {kind}"
    with pytest.raises(DataError, match=said) as caught:
        read_clips(path, VIEWS, SAMPLING)
    assert str(caught.value).isprintable()
    assert said in check_video(path)["reason"]
