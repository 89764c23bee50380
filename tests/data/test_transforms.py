from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openvclip.data.sampling import ClipRequest, Sampling
from openvclip.data.transforms import (
    Crop,
    apply_crops,
    fixed_crop,
    jitter_crop,
    normalise,
    relative_crop,
    scaled_size,
)
from openvclip.data.video_io import read_clips

GOLDEN = Path(__file__).parents[1] / "golden" / "spatial.pt"
SHARED = Path(__file__).resolve().parents[3] / "shared"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Recorded:
    """Draws of a recorded case, checked for their kind and limits."""

    def __init__(self, draws):
        self.draws = list(draws)

    def uniform(self, low=0.0, high=1.0):
        kind, limits, value = self.draws.pop(0)
        assert kind == "uniform" and tuple(limits or (0.0, 1.0)) == (low, high)
        return value

    def integers(self, low, high):
        kind, limits, value = self.draws.pop(0)
        assert kind == "randint" and tuple(limits) == (low, high)
        return int(value)


def test_recorded_crops():
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
            draws = Recorded(case["draws"])
            scales = (case["min_scale"], case["max_scale"])
            crop = jitter_crop(height, width, scales=scales, size=case["crop"], draws=draws)
            assert not draws.draws
        clip = normalise(apply_crops(frames, [crop])[0], MEAN, STD)
        assert clip.shape == (3, 2, 32, 32)
        torch.testing.assert_close(clip[:, :, ::3, ::3], case["out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(37, 53), (96, 40), (32, 32)])
def test_the_published_order_gives_the_same(size):
    frames = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8)
    crop = fixed_crop(*size, scale=34, size=32, position=2)
    whole = (frames.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    whole = F.interpolate(
        whole.permute(3, 0, 1, 2), size=crop.resized, mode="bilinear", align_corners=False
    )
    expected = whole[..., crop.y:crop.y + 32, crop.x:crop.x + 32]
    found = normalise(apply_crops(frames, [crop])[0], MEAN, STD)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_large_frames_are_resized_in_parts(monkeypatch):
    frames = torch.randint(0, 256, (5, 40, 60, 3), dtype=torch.uint8)
    crops = [fixed_crop(40, 60, scale=32, size=32, position=p) for p in range(3)]
    whole = apply_crops(frames, crops)
    monkeypatch.setattr("openvclip.data.transforms.CHUNK_PIXELS", 5000)
    for part, expected in zip(apply_crops(frames, crops), whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-3, rtol=0)
    assert not torch.equal(whole[0], whole[2])


def test_the_long_side_is_rounded_down():
    assert scaled_size(240, 427, 224) == (224, 398)
    assert scaled_size(427, 240, 224) == (398, 224)
    assert scaled_size(33, 33, 224) == (224, 224)
    assert scaled_size(224, 301, 224) == (224, 301)


def test_inverse_scales_lie_in_the_range_and_favour_small_ones():
    draws = np.random.default_rng(0)
    sides = [
        jitter_crop(100, 100, scales=(64, 128), size=64, draws=draws, inverse=True).resized[0]
        for _ in range(500)
    ]
    assert min(sides) >= 64 and max(sides) <= 128
    # 1/side is uniform between 1/128 and 1/64, so the median side is 85, not 96.
    assert 81 < np.median(sides) < 89


def test_flips_come_half_of_the_time_or_never():
    draws = np.random.default_rng(0)
    given = {"scales": (32, 40), "size": 32, "draws": draws}
    flips = [jitter_crop(50, 60, **given).flip for _ in range(400)]
    assert 150 < sum(flips) < 250
    assert not any(jitter_crop(50, 60, **given, flip=False).flip for _ in range(50))


def test_flip_mirrors_columns():
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    plain = Crop((0, 0, 8, 8), (8, 8), 0, 0, 8)
    mirrored = Crop((0, 0, 8, 8), (8, 8), 0, 0, 8, flip=True)
    torch.testing.assert_close(
        apply_crops(frames, [mirrored])[0], apply_crops(frames, [plain])[0].flip(3)
    )


def test_relative_crops_keep_area_and_aspect():
    draws = np.random.default_rng(1)
    for _ in range(200):
        crop = relative_crop(
            240, 320, area=(0.2, 0.6), aspect=(0.75, 1.5), size=32, draws=draws
        )
        top, left, h, w = crop.region
        assert top >= 0 and left >= 0 and top + h <= 240 and left + w <= 320
        assert 0.19 < h * w / (240 * 320) < 0.61
        assert 0.73 < w / h < 1.53
        assert crop.resized == (32, 32)


def test_relative_crop_falls_back_to_the_centre():
    draws = np.random.default_rng(0)
    crop = relative_crop(20, 200, area=(0.9, 1.0), aspect=(0.75, 1.25), size=16, draws=draws)
    assert crop.region == (0, 87, 20, 25)
    frames = torch.arange(200, dtype=torch.uint8).view(1, 1, 200, 1).expand(1, 20, 200, 3)
    clip = apply_crops(frames, [crop])[0]
    assert clip.shape == (3, 1, 16, 16)
    assert math.isclose(clip.mean().item(), 87 + 12, abs_tol=0.6)


def test_reversed_channels_keep_each_channels_own_mean():
    frames = torch.randint(0, 256, (3, 2, 4, 4)).float()
    plain = normalise(frames, MEAN, STD)
    torch.testing.assert_close(
        normalise(frames, MEAN, STD, reverse_channels=True), plain[[2, 1, 0]]
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared videos")
@pytest.mark.parametrize(
    "record", sorted((SHARED / "golden" / "test_tensors").glob("*.pt")), ids=lambda p: p.stem
)
def test_real_videos_give_the_published_tensors(record):
    golden = torch.load(record, weights_only=True)
    request = ClipRequest(golden["view"], golden["num_views"])
    path = str(SHARED / "videos" / golden["video"])
    clips = read_clips(path, [request], Sampling(8, 16, 30, use_offset=True))
    frames = torch.from_numpy(clips.frames)
    crop = fixed_crop(*frames.shape[1:3], scale=224, size=224)
    clip = normalise(apply_crops(frames, [crop])[0], MEAN, STD)[:, list(clips.indices[0])]
    expected = golden["frames_every_8th_pixel"]
    torch.testing.assert_close(clip[:, :, ::8, ::8], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(clip.mean((2, 3)), golden["frame_mean"], atol=1e-3, rtol=0)
    torch.testing.assert_close(clip.std((2, 3)), golden["frame_std"], atol=1e-3, rtol=0)
