"""What is kept of frames while they are decoded is what was cut out of whole ones before."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from openvclip.data.augment import clip as augment
from openvclip.data.augment.clip import ClipAugment
from openvclip.data.augment.randaugment import OPERATIONS, RandAugment, apply_operation
from openvclip.data.dataset import Pixels
from openvclip.data.video import keeping, video_io, video_reader
from openvclip.data.video.keeping import DrawnCuts, FixedCuts, reduce
from openvclip.data.video.resample import Cut
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from openvclip.utils.errors import DataError
from tests.data.frame_numbers import SAMPLING, VIEWS

REPO = Path(__file__).resolve().parents[2]
PIXELS = Pixels(scales=(32, 40), size=32)
GOOD = ("bframes", "opengop", "avi", "mkv", "ts", "raw", "vfr", "odd", "tenbit", "short", "single",
        "cut.mp4")


@pytest.mark.parametrize("waiting", [0, 10_000, video_io.WAITING_BYTES])
@pytest.mark.parametrize("name", GOOD)
def test_kept_parts_are_those_of_whole_frames_whenever_they_are_converted(
    videos, name, waiting, monkeypatch
):
    monkeypatch.setattr(video_io, "WAITING_BYTES", waiting)
    whole = read_clips(str(videos[name]), VIEWS, SAMPLING)
    fixed = FixedCuts(partial(PIXELS.fixed, crops=3))
    clips = read_clips(str(videos[name]), VIEWS, SAMPLING, keep=fixed)
    assert clips.indices == whole.indices and clips.seconds == whole.seconds
    orders = [[(view, order) for view, order in enumerate(clips.indices)]] * 3
    assert fixed.size == whole.frames.shape[1:3]
    for found, crop in zip(fixed.cuts(clips.frames, orders), fixed.crops, strict=True):
        expected = Cut.of(whole.frames, crop, orders[0])
        assert found.crop == expected.crop and found.clips == expected.clips
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.pixels.base is None or found.pixels.base.nbytes <= found.pixels.nbytes


@pytest.mark.parametrize("coloured", [False, True])
def test_drawn_crops_are_those_of_whole_frames(videos, coloured):
    def generators():
        return [np.random.default_rng((5, sample)) for sample in range(3)]

    color = ClipAugment(lambda planes, rng: planes // rng.integers(2, 9)) if coloured else None
    request = [ClipRequest(draw=0.4)]
    drawn = DrawnCuts(PIXELS.draw, color, generators())
    clips = read_clips(str(videos["bframes"]), request, SAMPLING, keep=drawn)
    whole = read_clips(str(videos["bframes"]), request, SAMPLING)
    found = drawn.cuts(clips.frames, clips.indices[0])
    for number, rng in enumerate(generators()):
        frames = whole.frames
        if color is not None:
            frames = color.frames(torch.from_numpy(frames), rng).numpy()
        crop = PIXELS.draw(*frames.shape[1:3], rng)
        expected = Cut.of(frames, crop, [(number, clips.indices[0])])
        assert found[number].crop == crop and np.array_equal(found[number].pixels, expected.pixels)


def test_no_whole_frame_waits_while_others_are_decoded(videos, monkeypatch):
    """However many frames clips take, those that wait unconverted have a bound."""
    monkeypatch.setattr(video_io, "WAITING_BYTES", 3 * 64 * 48 * 3 // 2)
    raw, most = set(), 0
    init, convert = video_io._Frame.__init__, video_io._Converter.convert

    def noting(self, frame):
        nonlocal most
        init(self, frame)
        raw.add(id(self))

    def converting(self, frame):
        nonlocal most
        most = max(most, len(self.waiting))
        return convert(self, frame)

    monkeypatch.setattr(video_io._Frame, "__init__", noting)
    monkeypatch.setattr(video_io._Converter, "convert", converting)
    sampling = Sampling(num_frames=12, sampling_rate=1, target_fps=25)
    clips = read_clips(str(videos["bframes"]), [ClipRequest(v, 3) for v in range(3)], sampling,
                       keep=np.copy)
    assert len(clips.frames) > 30 and len(raw) >= 30 and most <= 5


def test_a_change_of_size_is_seen_before_frames_are_cut(videos, monkeypatch):
    monkeypatch.setattr(video_io, "WAITING_BYTES", 0)
    init = video_io._Frame.__init__
    count = 0

    def growing(self, frame):
        nonlocal count
        init(self, frame)
        count += 1
        if count > 9:
            self.size = (640, 480)

    monkeypatch.setattr(video_io._Frame, "__init__", growing)
    with pytest.raises(DataError, match="frame size changes"):
        read_clips(str(videos["bframes"]), VIEWS, SAMPLING, keep=np.copy)


@pytest.mark.parametrize("name", OPERATIONS)
def test_frames_augmented_one_by_one_are_those_augmented_together(name, monkeypatch):
    rng = np.random.default_rng(3)
    frames = torch.from_numpy(rng.integers(0, 256, (5, 33, 47, 3), dtype=np.uint8))

    def color(planes, rng):
        return apply_operation(name, planes, 0.7, inc=True, mode="bicubic", rng=rng)

    clip = ClipAugment(color)
    first, second = np.random.default_rng(8), np.random.default_rng(8)
    together = clip.frames(frames, first)
    monkeypatch.setattr(augment, "AT_ONCE", 0)
    assert torch.equal(clip.frames(frames, second), together)
    assert first.uniform() == second.uniform()  # As many draws were made.


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (500, 3), (1, 700)])
def test_reduced_frames_are_means_of_blocks(size, monkeypatch):
    monkeypatch.setattr(keeping, "REDUCED", 100)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    small = reduce(image)
    assert 0 < small.shape[0] * small.shape[1] <= max(100, *size)
    step = size[0] // small.shape[0]
    block = image[:step, :step].reshape(-1, 3).mean(axis=0)
    assert np.abs(small[0, 0] - block).max() <= 0.5


def test_large_frames_are_reduced_where_they_are_augmented_and_only_there(monkeypatch):
    monkeypatch.setattr(keeping, "LARGE", 63 * 48)
    monkeypatch.setattr(keeping, "REDUCED", 32 * 40)
    image = np.zeros((48, 64, 3), np.uint8)
    generators = [np.random.default_rng(0)]
    color = ClipAugment(RandAugment())
    assert DrawnCuts(PIXELS.draw, color, generators)(image)[0].shape == (24, 32, 3)
    assert DrawnCuts(PIXELS.draw, color, generators)(image[:, :62])[0].shape == (48, 62, 3)
    plain = DrawnCuts(PIXELS.draw, None, generators)
    plain(image)
    assert plain.crops[0].region == (0, 0, 48, 64)


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    """Frames of 8192 x 4320, the same one again and again."""
    path = tmp_path_factory.mktemp("huge") / "8k.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8192, 4320, "yuvj420p"
        frame = av.VideoFrame(8192, 4320, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes([90]) * plane.buffer_size)
        frame.pts = 0
        (packet,) = [*stream.encode(frame), *stream.encode(None)]
        data, base = bytes(packet), packet.time_base
        for number in range(8):
            again = av.Packet(data)
            again.stream, again.time_base = stream, base
            again.pts = again.dts = round(number / 10 / base)
            again.is_keyframe = True
            container.mux(again)
    return path


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from openvclip.data.dataset import Pixels, VideoDataset
from openvclip.data.lists.labels import VideoList
from openvclip.data.video.sampling import Sampling
from openvclip.predict.classifier import load_model
from tests.fuzz.reading import memory, reset_peak
from tests.integration.conftest_integration import write_tiny_clip

video, folder = sys.argv[2:]
write_tiny_clip(Path(folder) / "clip.pt")
model = load_model(f"{folder}/clip.pt", num_frames=3, sampling_rate=3, temporal_type="none")
model.encode_text(["a", "b"])
data = VideoDataset("test", VideoList([video], np.zeros(1, np.int64)), num_classes=1,
                    sampling=Sampling(3, 3, 30.0, True), pixels=Pixels(), views=3, crops=3)

def read_test():
    assert data[0]["video"].shape == (9, 3, 3, 224, 224)

def predict():
    (found,) = model.predict_many([video], ["a", "b"], keep_frames=True)
    assert not found.error and len(set(sum(found.times, ()))) == 7, found

for name, read in (("test", read_test), ("predict", predict),
                   ("timeline", lambda: model.timeline(video, ["a", "b"], window=0.5))):
    before = reset_peak()
    read()
    print(name, memory("VmHWM"), memory("VmHWM") - before)
"""


def test_three_views_of_8192_x_4320_take_less_than_a_gibibyte(huge, tmp_path):
    done = subprocess.run([sys.executable, "-c", CHILD, str(REPO), str(huge), str(tmp_path)],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in rows] == ["test", "predict", "timeline"]
    for name, peak, growth in rows:
        # Seven frames take 53 MB each as decoded and 106 in RGB.
        assert float(peak) < 1024 and float(growth) < 450, (name, peak, growth)


def test_threads_that_decode_large_frames_are_few(huge, videos, monkeypatch):
    monkeypatch.setattr(video_reader.os, "cpu_count", lambda: 64)
    with video_reader.open_video(str(huge), True) as reader:
        assert 1 <= reader.stream.codec_context.thread_count <= 4
    with video_reader.open_video(str(videos["bframes"]), True) as reader:
        auto = reader.stream.codec_context.thread_count
    with av.open(str(videos["bframes"])) as container:
        assert auto == container.streams.video[0].codec_context.thread_count
