"""Cutting, resizing and normalising: against recordings, against torch, on both paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from openvclip.data.dataset import Pixels
from openvclip.data.video.crops import Crop, fixed_crop, jitter_crop, relative_crop, square_crop
from openvclip.data.video.resample import (
    Cut,
    Normalisation,
    PackedBatch,
    PackedClips,
    compute_taps,
    crop_taps,
    cut,
    resample_on,
)
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from openvclip.utils.torchvision_ops import import_torchvision

GOLDEN = Path(__file__).parents[1] / "golden" / "spatial.pt"
SHARED = Path(__file__).resolve().parents[3] / "shared"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def on_the_cpu(
    frames: np.ndarray, crop: Crop, reverse: bool = False,
    normalisation: Normalisation | None = None,
) -> torch.Tensor:
    """The finished crop (3, U, size, size) of uint8 frames (U, H, W, 3), frame by frame."""
    parts = [Cut.of(frames, crop, [(0, range(len(frames)))])]
    clips = PackedClips(parts, num_frames=len(frames), size=crop.size,
                        normalisation=normalisation or Normalisation.of(MEAN, STD, reverse))
    return clips.finish()[0]


def on_a_device(
    frames: np.ndarray, crop: Crop, reverse: bool = False,
    normalisation: Normalisation | None = None,
) -> torch.Tensor:
    """The same as a GPU computes it, here on the CPU."""
    parts = torch.from_numpy(np.ascontiguousarray(cut(frames, crop)))
    return resample_on(parts, crop, normalisation or Normalisation.of(MEAN, STD, reverse))


both = pytest.mark.parametrize("finish", [on_the_cpu, on_a_device])


def by_torch(frames: np.ndarray, crop: Crop) -> torch.Tensor:
    """What published code does: normalise, resize, crop whole float frames."""
    top, left, height, width = crop.region
    whole = (torch.from_numpy(frames).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    whole = whole[:, top:top + height, left:left + width].permute(3, 0, 1, 2)
    if crop.resized != (height, width):
        whole = F.interpolate(whole, size=crop.resized, mode="bilinear", align_corners=False)
    part = whole[..., crop.y:crop.y + crop.size, crop.x:crop.x + crop.size]
    return part.flip(3) if crop.flip else part


def rounding(crop: Crop) -> float:
    """How far the results may differ from torch's.

    torch's kernel computes where a pixel lies in the source with one rounding where the processor
    multiplies and adds at once, as ``compute_taps`` does; otherwise with two more, which shift it
    by up to the distance of two such fp32 numbers, and the result by that share of the contrast.
    """
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        return 2e-6
    return 2e-6 + float(np.spacing(np.float32(max(crop.region[2:])))) / min(STD)


def noise(*size: int, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, *size, 3), np.uint8)


class Recorded:
    """Draws of a recorded case, checked for their kind and limits."""

    def __init__(self, rng):
        self.draws = list(rng)

    def uniform(self, low=0.0, high=1.0):
        kind, limits, value = self.draws.pop(0)
        assert kind == "uniform" and tuple(limits or (0.0, 1.0)) == (low, high)
        return value

    def integers(self, low, high):
        kind, limits, value = self.draws.pop(0)
        assert kind == "randint" and tuple(limits) == (low, high)
        return int(value)


@both
def test_recorded_crops(finish):
    golden = torch.load(GOLDEN, weights_only=True)
    assert len(golden["cases"]) == 35
    for case in golden["cases"]:
        frames = golden["frames"][case["frames"]]
        height, width = frames.shape[1:3]
        if case["mode"] == "test":
            crop = fixed_crop(
                height, width, scale=case["scale"], size=case["crop"],
                position=case["spatial_idx"],
            )
        else:
            rng = Recorded(case["draws"])
            scales = (case["min_scale"], case["max_scale"])
            crop = jitter_crop(height, width, scales=scales, size=case["crop"], rng=rng)
            assert not rng.draws
        clip = finish(frames.numpy(), crop)
        assert clip.shape == (3, 2, 32, 32)
        torch.testing.assert_close(clip[:, :, ::3, ::3], case["out"], atol=1e-5, rtol=0)


CROPS = [
    fixed_crop(256, 340, scale=224, size=224),
    fixed_crop(240, 426, scale=224, size=224, position=2),
    fixed_crop(224, 300, scale=224, size=224),
    fixed_crop(180, 320, scale=256, size=224),
    fixed_crop(33, 47, scale=224, size=200, position=0),
    fixed_crop(1080, 1920, scale=224, size=224),
    fixed_crop(608, 344, scale=224, size=112, position=1),
    Crop((0, 0, 300, 200), (355, 236), 31, 11, 224, True),
    Crop((13, 7, 100, 150), (64, 64), 0, 0, 64, True),
    Crop((5, 0, 3, 1), (32, 32), 0, 0, 32),
]


@both
@pytest.mark.parametrize("crop", CROPS, ids=lambda c: f"{c.region[2:]}-{c.resized}-{c.size}")
def test_crops_are_those_of_whole_resized_frames(finish, crop):
    top, left, height, width = crop.region
    frames = noise(top + height, left + width, frames=2)
    expected = by_torch(frames, crop)
    torch.testing.assert_close(finish(frames, crop), expected, atol=rounding(crop), rtol=0)


@both
def test_drawn_crops_are_those_of_whole_resized_frames(finish):
    rng = np.random.default_rng(3)
    for _ in range(40):
        height, width = (int(x) for x in rng.integers(20, 200, 2))
        if rng.uniform() < 0.5:
            crop = jitter_crop(height, width, scales=(32, 90), size=32, rng=rng)
        else:
            crop = relative_crop(height, width, area=(0.1, 1.0), aspect=(0.5, 2.0), size=32,
                                 rng=rng)
        frames = noise(height, width, frames=1)
        torch.testing.assert_close(
            finish(frames, crop), by_torch(frames, crop), atol=rounding(crop), rtol=0)


@pytest.mark.parametrize("crop", CROPS, ids=lambda c: f"{c.region[2:]}-{c.resized}-{c.size}")
def test_only_what_the_crop_reads_travels(crop):
    """Pixels that do not travel make no difference, and no row or column travels in vain."""
    top, left, height, width = crop.region
    frames = noise(top + height, left + width, frames=1)
    rows, columns = crop_taps(crop)
    kept = cut(frames, crop)
    assert kept.shape == (1, len(rows.source), len(columns.source), 3)
    assert len(rows.source) <= min(height, 2 * crop.size)
    other = 255 - frames
    y, x = top + rows.source, left + columns.source
    other[:, y[:, None], x] = frames[:, y[:, None], x]
    assert torch.equal(on_the_cpu(frames, crop), on_the_cpu(other, crop))
    for taps in (rows, columns):
        read = np.concatenate([taps.low, taps.high])
        assert set(read.tolist()) == set(range(len(taps.source)))


def test_equal_sizes_are_not_resized():
    taps = compute_taps(40, 40, 3, 32)
    assert taps.weight is None and taps.source.tolist() == list(range(3, 35))
    frames = noise(40, 40)
    crop = fixed_crop(40, 40, scale=40, size=32)
    assert np.shares_memory(cut(frames, crop), frames)


@both
def test_flip_mirrors_columns(finish):
    frames = noise(8, 8, frames=2)
    plain = Crop((0, 0, 8, 8), (8, 8), 0, 0, 8)
    mirrored = Crop((0, 0, 8, 8), (8, 8), 0, 0, 8, flip=True)
    assert torch.equal(finish(frames, mirrored), finish(frames, plain).flip(3))


@both
def test_reversed_channels_keep_each_channels_own_mean(finish):
    frames, crop = noise(4, 4), Crop((0, 0, 4, 4), (4, 4), 0, 0, 4)
    assert torch.equal(finish(frames, crop, reverse=True), finish(frames, crop)[[2, 1, 0]])


def packed(seed: int, clips: int, size: tuple[int, int]) -> PackedClips:
    """``clips`` clips of two crops each, of 5 shared frames in different orders."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (5, *size, 3), np.uint8)
    cuts = [
        Cut.of(frames, fixed_crop(*size, scale=32, size=32, position=position),
               [(2 * n + place, rng.integers(0, 5, 4)) for n in range(clips)])
        for place, position in enumerate((0, 2))
    ]
    return PackedClips(cuts, num_frames=4, size=32, normalisation=Normalisation.of(MEAN, STD))


def test_a_batch_in_one_buffer_holds_the_clips_one_after_another():
    items = [packed(1, 3, (40, 60)), packed(2, 1, (33, 90)), packed(3, 2, (32, 32))]
    batch = PackedBatch(items)
    assert len(batch) == 12 and batch.buffer.dtype == torch.uint8 and batch.buffer.dim() == 1
    expected = torch.cat([item.finish() for item in items])
    assert expected.shape == (12, 3, 4, 32, 32)
    assert torch.equal(batch.finish(), expected)
    assert not torch.equal(expected[0], expected[6])


def test_a_batch_is_finished_on_another_device_without_reading_pixels_here():
    """No GPU is needed to see that shapes and places work out: "meta" computes nothing."""
    batch = PackedBatch([packed(1, 2, (40, 60))])
    out = batch.finish("meta")
    assert out.shape == (4, 3, 4, 32, 32) and out.device.type == "meta"


def test_a_device_finishes_a_batch_as_the_cpu_does():
    items = [packed(1, 3, (40, 60)), packed(2, 1, (33, 90))]
    batch = PackedBatch(items)
    expected = batch.finish()
    found = torch.empty_like(expected)
    for crop, clips, part in batch.split(batch.buffer):
        planes = resample_on(part, crop, batch.normalisation)
        for number, order in clips:
            found[number] = planes[:, list(order)]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared videos")
@pytest.mark.parametrize(
    "record", sorted((SHARED / "golden" / "test_tensors").glob("*.pt")), ids=lambda p: p.stem
)
@both
def test_real_videos_give_the_published_tensors(finish, record):
    golden = torch.load(record, weights_only=True)
    request = ClipRequest(golden["view"], golden["num_views"])
    path = str(SHARED / "videos" / golden["video"])
    clips = read_clips(path, [request], Sampling(8, 16, 30, use_offset=True))
    crop = fixed_crop(*clips.frames.shape[1:3], scale=224, size=224)
    clip = finish(clips.frames, crop)[:, list(clips.indices[0])]
    expected = golden["frames_every_8th_pixel"]
    torch.testing.assert_close(clip[:, :, ::8, ::8], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(clip.mean((2, 3)), golden["frame_mean"], atol=1e-3, rtol=0)
    torch.testing.assert_close(clip.std((2, 3)), golden["frame_std"], atol=1e-3, rtol=0)


def by_open_clip(image: np.ndarray, mode: str, interpolation: str, fill: int) -> torch.Tensor:
    """What open_clip's preprocessing makes of an image."""
    import_torchvision()
    from open_clip.transform import image_transform

    transform = image_transform(64, False, MEAN, STD, mode, interpolation, fill)
    return transform(Image.fromarray(image))


@both
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("name", ["bicubic", "bilinear_antialias"])
@pytest.mark.parametrize("size", [(96, 160), (160, 96), (200, 200), (40, 60)])
def test_clips_are_what_open_clips_preprocessing_makes(finish, mode, name, size):
    frames = np.random.default_rng(0).integers(64, 192, (2, *size, 3), dtype=np.uint8)
    pixels = Pixels(scales=(64, 64), size=64, mean=MEAN, std=STD, mode=mode, filter=name, fill=128)
    (crop,) = pixels.fixed(*size, 1)
    expected = torch.stack([
        by_open_clip(frame, mode, name.removesuffix("_antialias"), 128) for frame in frames], dim=1)
    result = finish(frames, crop, normalisation=pixels.normalisation())
    # Pillow rounds after each of its two passes, and may begin with either.
    assert (result - expected).abs().max() < 2.1 / 255 / min(STD)
    assert (result - expected).abs().mean() < 0.4 / 255 / min(STD)


@both
def test_a_mirrored_padded_crop_is_the_mirror_image(finish):
    frames = np.random.default_rng(1).integers(0, 256, (1, 50, 31, 3), dtype=np.uint8)
    given = {"mode": "longest", "side": 70, "size": 64, "y": 2, "x": 5}
    for name in ("bilinear", "bicubic"):
        plain, mirrored = (
            finish(frames, replace(square_crop(50, 31, **given, flip=flip), filter=name),
                   normalisation=Normalisation.of(MEAN, STD, fill=77))
            for flip in (False, True))
        assert torch.equal(mirrored.flip(3), plain)
        border = torch.tensor([(77 / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)])
        torch.testing.assert_close(plain[:, 0, :, 0], border[:, None].expand(3, 64))
