from __future__ import annotations

import numpy as np

from openvclip.data.video.crops import Crop, jitter_crop, relative_crop, scaled_size, square_crop


def test_the_long_side_is_rounded_down():
    assert scaled_size(240, 427, 224) == (224, 398)
    assert scaled_size(427, 240, 224) == (398, 224)
    assert scaled_size(33, 33, 224) == (224, 224)
    assert scaled_size(224, 301, 224) == (224, 301)


def test_inverse_scales_lie_in_the_range_and_favour_small_ones():
    rng = np.random.default_rng(0)
    sides = [
        jitter_crop(100, 100, scales=(64, 128), size=64, rng=rng, inverse=True).resized[0]
        for _ in range(500)
    ]
    assert min(sides) >= 64 and max(sides) <= 128
    # 1/side is uniform between 1/128 and 1/64, so the median side is 85, not 96.
    assert 81 < np.median(sides) < 89


def test_flips_come_half_of_the_time_or_never():
    rng = np.random.default_rng(0)
    given = {"scales": (32, 40), "size": 32, "rng": rng}
    flips = [jitter_crop(50, 60, **given).flip for _ in range(400)]
    assert 150 < sum(flips) < 250
    assert not any(jitter_crop(50, 60, **given, flip=False).flip for _ in range(50))


def test_relative_crops_keep_area_and_aspect():
    rng = np.random.default_rng(1)
    for _ in range(200):
        crop = relative_crop(
            240, 320, area=(0.2, 0.6), aspect=(0.75, 1.5), size=32, rng=rng
        )
        top, left, h, w = crop.region
        assert top >= 0 and left >= 0 and top + h <= 240 and left + w <= 320
        assert 0.19 < h * w / (240 * 320) < 0.61
        assert 0.73 < w / h < 1.53
        assert crop.resized == (32, 32)


def test_relative_crop_falls_back_to_the_centre():
    rng = np.random.default_rng(0)
    crop = relative_crop(20, 200, area=(0.9, 1.0), aspect=(0.75, 1.25), size=16, rng=rng)
    assert crop.region == (0, 87, 20, 25) and crop.resized == (16, 16)


def test_a_squashed_frame_is_shown_whole_and_jitter_crops_the_squashed_square():
    crop = square_crop(120, 200, mode="squash", side=64, size=64)
    assert crop == Crop((0, 0, 120, 200), (64, 64), 0, 0, 64)
    rng = np.random.default_rng(0)
    drawn = [jitter_crop(120, 200, scales=(64, 80), size=64, rng=rng, mode="squash")
             for _ in range(100)]
    assert all(c.resized[0] == c.resized[1] for c in drawn)
    assert len({c.resized for c in drawn}) > 8 and len({(c.y, c.x) for c in drawn}) > 20


def test_the_long_side_fills_the_square_and_the_frame_is_in_its_middle():
    crop = square_crop(120, 200, mode="longest", side=64, size=64)
    assert crop.resized == (38, 64) and (crop.y, crop.x) == (-13, 0)
    assert crop.inside() == (slice(13, 51), slice(0, 64))
    tall = square_crop(200, 101, mode="longest", side=64, size=64, flip=True)
    assert tall.resized == (64, 32) and tall.inside() == (slice(0, 64), slice(16, 48))
    odd = square_crop(64, 31, mode="longest", side=64, size=64)
    flipped = square_crop(64, 31, mode="longest", side=64, size=64, flip=True)
    assert odd.inside()[1] == slice(16, 47) and flipped.inside()[1] == slice(17, 48)
