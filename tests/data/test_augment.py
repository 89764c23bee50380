from __future__ import annotations

import numpy as np
import pytest
import torch

from openvclip.config import get_cfg
from openvclip.data.augment.clip import ClipAugment, RandomErasing, build_augment
from openvclip.data.augment.mixup import Mixup
from openvclip.data.augment.randaugment import OPERATIONS, RandAugment, apply_operation
from openvclip.utils.errors import ConfigError


def clip_of_frames(frames: int = 4) -> torch.Tensor:
    """Return uint8 (T, 3, 20, 24), all frames the same picture."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(40, 200, (1, 3, 20, 24), dtype=torch.uint8, generator=generator)
    return image.repeat(frames, 1, 1, 1)


@pytest.mark.parametrize("inc", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_treat_all_frames_alike(name, inc):
    frames = clip_of_frames()
    changed = 0
    for level in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(3)
        out = apply_operation(name, frames, level, inc=inc, mode="bicubic", rng=rng)
        assert out.shape == frames.shape and out.dtype == torch.uint8
        assert all(torch.equal(frame, out[0]) for frame in out)
        changed += not torch.equal(out, frames)
    assert changed


@pytest.mark.parametrize(
    "name", ["posterize", "solarize", "contrast", "brightness", "rotate", "shear_x"]
)
def test_increasing_operations_distort_more_at_a_higher_level(name):
    frames = clip_of_frames(1)

    def distance(level):
        rng = np.random.default_rng(1)
        out = apply_operation(name, frames, level, inc=True, mode="nearest", rng=rng)
        return (out.float() - frames.float()).abs().mean()

    assert distance(0.05) < distance(0.4) < distance(1.0)


def test_translation_moves_by_its_share_of_the_side():
    frames = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    frames[..., 10] = 255
    out = apply_operation(
        "translate_x", frames, 1.0, inc=True, mode="nearest", rng=np.random.default_rng(0)
    )
    column = int((out[0, 0, 5] == 255).nonzero())
    assert abs(column - 10) == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand-m9-mstd0.5-inc1", RandAugment(9, 2, 0.5, True)),
        ("rand-m7-n4-mstd0.5-inc1", RandAugment(7, 4, 0.5, True)),
        ("rand-m5", RandAugment(5, 2, 0.0, False)),
    ],
)
def test_notation(text, expected):
    assert RandAugment.parse(text) == expected


@pytest.mark.parametrize("text", ["augmix-m5", "rand-m99", "rand-mx", "rand-m5-n1.5", "rand-w0"])
def test_wrong_notation(text):
    with pytest.raises(ConfigError, match=f"AUG.AA_TYPE is '{text}'"):
        RandAugment.parse(text)


def test_augmentation_follows_its_generator():
    frames = clip_of_frames().permute(0, 2, 3, 1)
    augment = ClipAugment(RandAugment(9, 3, 0.5, True))
    outs = [augment.frames(frames, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(outs[0], outs[1])
    assert any(not torch.equal(outs[0], out) for out in outs[2:])
    assert all(out.shape == frames.shape and out.dtype == torch.uint8 for out in outs)


def test_no_type_of_augmentation_leaves_colours_alone_as_published():
    cfg = get_cfg()
    cfg.AUG.AA_TYPE = ""
    assert cfg.AUG.COLOR_JITTER == 0.4  # which published training on videos does not read
    augment = build_augment(cfg)
    frames = clip_of_frames().permute(0, 2, 3, 1)
    assert augment.color is None and augment.erasing is not None
    assert torch.equal(augment.frames(frames, np.random.default_rng(0)), frames)


@pytest.mark.parametrize("slope", [0.3, -0.2])
@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shearing_agrees_with_pil(name, slope):
    from PIL import Image

    from openvclip.data.augment import randaugment as augment

    coarse = torch.rand(1, 3, 6, 9, generator=torch.Generator().manual_seed(2)) * 255
    frames = torch.nn.functional.interpolate(coarse, (40, 60), mode="bicubic").clamp(0, 255).byte()
    ours = augment._shear(name, frames, slope, "bilinear")[0].permute(1, 2, 0).numpy()
    image = Image.fromarray(frames[0].permute(1, 2, 0).numpy())
    # PIL's matrix leads from an output pixel to where it comes from: the inverse.
    inverse = (1, -slope, 0, 0, 1, 0) if name == "shear_x" else (1, 0, 0, -slope, 1, 0)
    theirs = np.asarray(image.transform(image.size, Image.Transform.AFFINE, inverse,
                                        resample=Image.Resampling.BILINEAR,
                                        fillcolor=(128, 128, 128)))
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    # Only at the slanted edge does PIL not blend with the grey outside.
    assert np.median(difference) <= 1 and (difference > 2).mean() < 0.06


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erasing_fills_one_box_in_all_frames(mode):
    clip = torch.full((3, 4, 32, 32), 9.0)
    out = RandomErasing(1.0, mode)(clip, np.random.default_rng(0))
    erased = (out != 9.0).all(0)
    assert all(torch.equal(frame, erased[0]) for frame in erased)
    rows, columns = erased[0].any(1).sum(), erased[0].any(0).sum()
    assert erased[0].sum() == rows * columns
    assert 0.015 < erased[0].float().mean() < 0.35
    assert (clip == 9.0).all()
    inside = out[:, :, erased[0]]
    if mode == "const":
        assert (inside == 0).all()
    else:
        assert (inside[..., :1] == inside).all() == (mode == "rand")
        assert not torch.equal(inside[:, 0], inside[:, 1])


def test_erasing_by_probability_and_count():
    clip = torch.full((3, 1, 32, 32), 9.0)
    rng = np.random.default_rng(0)
    hit = sum(bool((RandomErasing(0.25)(clip, rng) != 9).any()) for _ in range(400))
    assert 70 < hit < 130
    assert RandomErasing(0.0)(clip, rng) is clip
    clip = torch.full((3, 4, 32, 32), 9.0)
    several = [RandomErasing(1.0, "const", count=4)(clip, rng) for _ in range(20)]
    assert max((out == 0).float().mean() for out in several) < 0.5


@pytest.mark.parametrize("count, spared", [(1, 0), (2, 4), (3, 2), (9, 0)])
def test_several_boxes_spare_the_first_frames_as_published(count, spared):
    clip = torch.full((3, 8, 32, 32), 9.0)
    erased = torch.zeros(8, dtype=torch.bool)
    for seed in range(5):
        out = RandomErasing(1.0, "const", count)(clip, np.random.default_rng(seed))
        erased |= (out != 9.0).any(dim=3).any(dim=2).any(dim=0)
    assert erased.tolist() == [False] * spared + [True] * (8 - spared)


def batch():
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16).contiguous()
    return video, torch.tensor([0, 1, 2, 3])


def test_mixup_blends_videos_and_labels_alike():
    video, label = batch()
    mixup = Mixup(0.8, 0.0, label_smoothing=0.0, num_classes=5)
    mixed, target = mixup(video, label, torch.Generator().manual_seed(0))
    share = target[0, 0]
    assert 0 < share < 1 and target[0, 1] == 1 - share
    torch.testing.assert_close(mixed[0], torch.full_like(mixed[0], 1 - share.item()))
    torch.testing.assert_close(mixed[3], torch.full_like(mixed[3], 2 + share.item()))
    assert torch.equal(video, batch()[0])


def test_cutmix_weighs_labels_by_the_area_that_is_left():
    video, label = batch()
    mixup = Mixup(0.0, 1.0, label_smoothing=0.0, num_classes=4)
    seen = set()
    for seed in range(10):
        mixed, target = mixup(video, label, torch.Generator().manual_seed(seed))
        assert set(mixed[0].unique().tolist()) <= {0.0, 1.0}
        assert target[0, 0].item() == pytest.approx((mixed[0] == 0).float().mean().item())
        assert torch.equal(mixed[0] == 0, mixed[3] == 3)
        assert torch.equal(mixed[0] == 1, mixed[1] == 0)
        seen.add(round(target[0, 0].item(), 3))
    assert len(seen) > 3


def test_mixed_labels_are_smoothed_and_sum_to_one():
    video, label = batch()
    mixup = Mixup(prob=0.0, label_smoothing=0.1, num_classes=4)
    same, target = mixup(video, label, torch.Generator().manual_seed(0))
    assert same is video
    assert target[1, 1].item() == pytest.approx(0.925)
    assert target[1, 0].item() == pytest.approx(0.025)
    _, target = Mixup(num_classes=4)(video, label, np.random.default_rng(0))
    torch.testing.assert_close(target.sum(1), torch.ones(4))


def test_mixup_switches_and_follows_its_generator():
    video, label = batch()
    mixup = Mixup(num_classes=4)
    first, again = (mixup(video, label, torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    kinds = [
        len(mixup(video, label, torch.Generator().manual_seed(seed))[0][0].unique()) == 1
        for seed in range(60)
    ]
    assert 15 < sum(kinds) < 45


@pytest.mark.parametrize("num_sample", [1, 2])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_parts_of_a_batch_are_mixed_like_the_whole(num_sample, alphas):
    video, label = torch.randn(8, 3, 2, 16, 16), torch.arange(8) // num_sample
    mixup = Mixup(*alphas, num_classes=8, num_sample=num_sample)
    wanted = mixup(video, label, np.random.default_rng(3))
    for part in (slice(0, 4), slice(4, 8)):
        mixed, target = mixup(video[part], label[part], np.random.default_rng(3))
        assert torch.equal(mixed, wanted[0][part])
        assert torch.equal(target, wanted[1][part])
        # A video's clips are mixed with the other video's, never with each other.
        assert (target > 0.05).sum(1).tolist() == [2] * 4


def test_mixup_of_float_labels():
    video, _ = batch()
    label = torch.eye(4)
    _, target = Mixup(label_smoothing=0.0, num_classes=4)(video, label, np.random.default_rng(0))
    torch.testing.assert_close(target.sum(1), torch.ones(4))


def test_mixup_without_anything_to_do():
    with pytest.raises(ConfigError, match="MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA"):
        Mixup(0.0, 0.0)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("matrix", "shift", "affine"), [
    (((0.9396926, -0.3420201), (0.3420201, 0.9396926)), (0, 0), {"angle": 20.0}),
    (((1, 0), (0, 1)), (7.0, -3.0), {"translate": [7.0, -3.0]}),
])
def test_affine_maps_agree_with_torchvision(mode, matrix, shift, affine):
    from openvclip.data.augment import randaugment as augment

    coarse = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(2)) * 255
    frames = torch.nn.functional.interpolate(coarse, (40, 60), mode="bicubic").clamp(0, 255).byte()
    ours = augment._affine(frames, mode, matrix, shift).float()
    modes = augment._transforms().InterpolationMode
    theirs = augment._functional().affine(
        frames, **{"angle": 0.0, "translate": [0.0, 0.0], "scale": 1.0, "shear": [0.0, 0.0],
                   **affine},
        interpolation=modes.NEAREST if mode == "nearest" else modes.BILINEAR, fill=[128.0] * 3,
    ).float()
    # Bicubic differs from bilinear where the picture bends; elsewhere only the edges do.
    inner = (ours - theirs).abs()[..., 8:-8, 12:-12]
    assert float(inner.mean()) < 2.0
    assert mode != "bilinear" or float(inner.max()) <= 1.0


def test_interpolation_modes_differ():
    from openvclip.data.augment import randaugment as augment

    frames = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(3))
    turned = {
        mode: augment._affine(frames, mode, ((0.96, -0.28), (0.28, 0.96)))
        for mode in ("nearest", "bilinear", "bicubic")
    }
    assert not torch.equal(turned["bilinear"], turned["bicubic"])
    assert not torch.equal(turned["nearest"], turned["bilinear"])
