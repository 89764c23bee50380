"""With torchcodec where it is installed; else with a decoder that has its interface, on PyAV."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch

from openvclip.data.video import torchcodec_io, video_io
from openvclip.data.video.sampling import EXACT, ClipRequest, Sampling
from openvclip.utils.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampling.json").read_text())
INSTALLED = torchcodec_io.available()
VIEWS = [ClipRequest(view, 3) for view in range(3)]
REQUESTS = [VIEWS, *([ClipRequest(draw=draw)] for draw in (0.0, 0.31, 0.5, 0.77, 0.999))]
SAMPLINGS = [Sampling(4, 4, 25), Sampling(4, 4, 25, use_offset=True, compat=EXACT)]
GOOD = ("bframes", "opengop", "mkv", "vfr", "odd", "tenbit", "short", "single")
# Some versions of torchcodec read short transport streams ("ts"), others fail.
ELSEWHERE = {"ts": "", "avi": "mpeg4 packets", "raw": "no time", "turned": "turn"}


class PyAVDecoder:
    """The part of torchcodec's VideoDecoder that is used, by decoding all frames with PyAV."""

    threads: list[int] = []

    def __init__(
        self, source, *, stream_index, dimension_order, device, num_ffmpeg_threads, seek_mode
    ):
        assert (dimension_order, device, seek_mode) == ("NHWC", "cpu", "exact")
        self.threads.append(num_ffmpeg_threads)
        self.frames = {}
        with av.open(source) as container:
            stream = container.streams[stream_index]
            for frame in container.decode(stream):
                # Torchcodec goes on after errors and frames without a time; this need not.
                self.frames[float(frame.pts * stream.time_base)] = frame
        self.times = sorted(self.frames)
        turned = frame.rotation or None
        self.metadata = SimpleNamespace(begin_stream_seconds=self.times[0], rotation=turned)

    def __len__(self):
        return len(self.times)

    def get_frames_at(self, indices):
        assert indices == sorted(set(indices))
        times = [self.times[i] for i in indices]
        images = [self.frames[time].reformat(format="rgb24").to_ndarray() for time in times]
        return SimpleNamespace(
            data=torch.from_numpy(np.stack(images)),
            pts_seconds=torch.tensor(times, dtype=torch.float64),
        )


def install(monkeypatch, decoder: type) -> None:
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = decoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)


@pytest.fixture(params=["torchcodec", "pyav"])
def decoder(request, monkeypatch):
    """Use torchcodec itself or what stands for it."""
    if request.param == "pyav":
        install(monkeypatch, PyAVDecoder)
    elif not INSTALLED:
        pytest.skip("torchcodec is not installed")
    return request.param


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that makes a changed stand-in the decoder."""

    def change(**changes):
        install(monkeypatch, type("Changed", (PyAVDecoder,), changes))

    return change


def assert_same(found: video_io.Clips, expected: video_io.Clips) -> None:
    assert found.indices == expected.indices
    assert found.frames.dtype == np.uint8 and found.frames.flags.c_contiguous
    np.testing.assert_array_equal(found.frames, expected.frames)


def forbid(*_, **__):
    raise AssertionError("was left to PyAV")


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["published", "exact"])
@pytest.mark.parametrize("name", GOOD)
def test_frames_are_those_of_pyav(videos, name, sampling, decoder, monkeypatch):
    path = str(videos[name])
    expected = [video_io.read_clips(path, requests, sampling) for requests in REQUESTS]
    monkeypatch.setattr(video_io, "read_clips", forbid)
    for requests, clips in zip(REQUESTS, expected, strict=True):
        assert_same(torchcodec_io.read_clips(path, requests, sampling), clips)


@pytest.mark.parametrize("name", ["mjpeg.mkv", "vp9.mkv", "hevc.mp4", "wide.mp4", "b:c.mp4"])
def test_other_codecs_sizes_and_names(videos, name, decoder, monkeypatch, tmp_path):
    path = tmp_path / name
    if name == "b:c.mp4":
        path.write_bytes(videos["short"].read_bytes())
    else:
        write_other(path)
    expected = video_io.read_clips(str(path), VIEWS, SAMPLINGS[0])
    monkeypatch.setattr(video_io, "read_clips", forbid)
    assert_same(torchcodec_io.read_clips(str(path), VIEWS, SAMPLINGS[0]), expected)


def write_other(path: Path) -> None:
    codec, pix_fmt, width = {
        "mjpeg": ("mjpeg", "yuvj420p", 64), "vp9": ("libvpx-vp9", "yuv420p", 64),
        "hevc": ("libx265", "yuv420p", 64), "wide": ("libx264", "yuv420p", 90),
    }[path.stem]
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, 48, pix_fmt
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for _ in range(20):
            image = rng.integers(0, 256, (48, width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("name", GOLDEN["videos"])
@pytest.mark.skipif(not INSTALLED, reason="torchcodec is not installed")
def test_real_videos_give_pyavs_pixels(shared, name):
    path = str(shared / "videos" / name)
    for requests, sampling in (
        (VIEWS, Sampling(8, 16, 30, use_offset=True)),
        ([ClipRequest(draw=0.77)], Sampling(8, 8, 30)),
        ([ClipRequest(draw=0.31)], Sampling(8, 8, 30, compat=EXACT)),
    ):
        try:
            expected = video_io.read_clips(path, requests, sampling)
        except DataError as error:
            with pytest.raises(DataError) as found:
                torchcodec_io.read_clips(path, requests, sampling)
            assert str(found.value) == str(error)
        else:
            assert_same(torchcodec_io.read_clips(path, requests, sampling), expected)


@pytest.mark.parametrize("name", [n for n in GOLDEN["videos"] if n != "corrupted.mp4"])
def test_packets_of_real_videos_give_the_published_choice(shared, name, monkeypatch):
    chosen = []
    original = torchcodec_io.choose_frames

    def record(*args, **options):
        chosen.append(original(*args, **options))
        raise RuntimeError

    monkeypatch.setattr(torchcodec_io, "choose_frames", record)
    sampling = Sampling(8, 16, 30, use_offset=True)
    with nullcontext() if name.endswith(".avi") else pytest.raises(RuntimeError):
        torchcodec_io.read_clips(str(shared / "videos" / name), VIEWS, sampling)
    assert chosen == ([] if name.endswith(".avi") else [GOLDEN["videos"][name]])


@pytest.fixture
def turned(videos, tmp_path) -> Path:
    """A video that its metadata turn by a quarter."""
    raw = bytearray(videos["short"].read_bytes())
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 16
    matrix = [0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30]
    raw[at:at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("name", ELSEWHERE)
def test_files_that_tell_too_little_are_left_to_pyav(videos, turned, name, decoder, caplog):
    path = str({**videos, "turned": turned}[name])
    caplog.set_level("DEBUG", logger="openvclip")
    for requests in REQUESTS:
        expected = video_io.read_clips(path, requests, SAMPLINGS[0])
        assert_same(torchcodec_io.read_clips(path, requests, SAMPLINGS[0]), expected)
    if ELSEWHERE[name]:
        assert "read by PyAV" in caplog.text and ELSEWHERE[name] in caplog.text


def fail(*_, **__):
    raise RuntimeError("Could not decode\nframe 3")


def moved(seconds):
    def get_frames_at(self, indices):
        batch = PyAVDecoder.get_frames_at(self, indices)
        return SimpleNamespace(data=batch.data, pts_seconds=batch.pts_seconds + seconds)

    return get_frames_at


def begins_late(self, source, **options):
    PyAVDecoder.__init__(self, source, **options)
    self.metadata.begin_stream_seconds += 0.04


def as_floats(self, indices):
    batch = PyAVDecoder.get_frames_at(self, indices)
    return SimpleNamespace(data=batch.data.float(), pts_seconds=batch.pts_seconds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"__len__": lambda _: 39}, "torchcodec counts 39 frames of 40"),
        ({"__init__": fail}, "torchcodec: Could not decode"),
        ({"get_frames_at": fail}, "torchcodec: Could not decode"),
        ({"get_frames_at": moved(0.04)}, "torchcodec's frames have other times"),
        ({"get_frames_at": moved(-0.04)}, "torchcodec's frames have other times"),
        ({"__init__": begins_late}, "torchcodec's frames have other times"),
        ({"get_frames_at": as_floats}, "torchcodec gives float32"),
    ],
    ids=["count", "open", "decode", "later", "earlier", "start", "type"],
)
def test_a_decoder_that_disagrees_is_not_believed(videos, changes, reason, stand_in, caplog):
    caplog.set_level("DEBUG", logger="openvclip")
    stand_in(**changes)
    path = str(videos["bframes"])
    expected = video_io.read_clips(path, VIEWS, SAMPLINGS[0])
    assert_same(torchcodec_io.read_clips(path, VIEWS, SAMPLINGS[0]), expected)
    assert f"bframes.mp4: read by PyAV: {reason}" in caplog.text


def test_a_container_that_promises_another_number_is_left_to_pyav(
    videos, stand_in, monkeypatch, caplog
):
    caplog.set_level("DEBUG", logger="openvclip")
    stand_in()
    original = video_io.VideoReader.__post_init__

    def lie(reader):
        original(reader)
        reader.count, reader.duration = 4000, 512 * 4000

    monkeypatch.setattr(video_io.VideoReader, "__post_init__", lie)
    path = str(videos["bframes"])
    expected = video_io.read_clips(path, VIEWS, SAMPLINGS[0])
    assert_same(torchcodec_io.read_clips(path, VIEWS, SAMPLINGS[0]), expected)
    assert "promises 4000 frames of 40" in caplog.text


@pytest.mark.parametrize("name", ["empty", "garbage", "headless", "missing", "audio", "damaged"])
def test_bad_files_are_named_as_by_pyav(videos, name, decoder):
    with pytest.raises(DataError) as expected:
        video_io.read_clips(str(videos[name]), VIEWS, SAMPLINGS[0])
    with pytest.raises(DataError) as found:
        torchcodec_io.read_clips(str(videos[name]), VIEWS, SAMPLINGS[0])
    assert str(found.value) == str(expected.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_truncated_files_give_what_pyav_gives(videos, name, decoder):
    first = [ClipRequest(0, 3)]
    expected = video_io.read_clips(str(videos[name]), first, SAMPLINGS[0])
    assert_same(torchcodec_io.read_clips(str(videos[name]), first, SAMPLINGS[0]), expected)


@pytest.mark.parametrize(("multi_thread", "threads"), [(False, 1), (True, 0)])
def test_threads(videos, stand_in, multi_thread, threads):
    seen = []
    stand_in(threads=seen)
    torchcodec_io.read_clips(str(videos["short"]), VIEWS, SAMPLINGS[0], multi_thread=multi_thread)
    assert seen == [threads]


def test_what_cannot_be_imported_is_said_in_one_line(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not torchcodec_io.available()
    with pytest.raises(ConfigError) as missing:
        torchcodec_io.load_decoder()
    assert str(missing.value) == (
        "DATA.DECODING_BACKEND torchcodec: there is no module torchcodec; pip install torchcodec "
        "(it also needs FFmpeg's shared libraries), or set DATA.DECODING_BACKEND pyav"
    )
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(
        "raise RuntimeError('Could not load libtorchcodec.\\nMany lines.')"
    )
    with pytest.raises(ConfigError, match="cannot be loaded .Could not load libtorchcodec") as bad:
        torchcodec_io.load_decoder()
    assert "\n" not in str(bad.value)
    assert not torchcodec_io.available()
