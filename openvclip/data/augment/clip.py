"""Augmentation of training clips, as PySlowFast's ``AUG`` keys define it, with random erasing."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch

from openvclip.data.augment.randaugment import RandAugment

# Bytes of frames that are augmented together.
AT_ONCE = 32 << 20
# Share of the frame and height / width of an erased rectangle, and how often a fit is tried.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 100


@dataclass(frozen=True)
class RandomErasing:
    """Fill rectangles of a clip, at the same places in all frames.

    Attributes:
        prob: probability that a clip is erased at all.
        mode: ``pixel`` noise for each pixel, ``rand`` one random colour per frame, ``const`` zeros.
        count: most rectangles; their number is drawn from 1 to this. With more than 1 the first
            T // count frames are left unchanged, as published.
    """

    prob: float
    mode: str = "pixel"
    count: int = 1

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Erase in a normalised clip (3, T, H, W); returns a new tensor if anything changes."""
        if rng.uniform() >= self.prob:
            return clip
        clip = clip.clone()
        frames = clip[:, clip.shape[1] // self.count:] if self.count > 1 else clip
        count = int(rng.integers(1, self.count + 1))
        for _ in range(count):
            box = self._draw_box(clip.shape[2], clip.shape[3], count, rng)
            if box is not None:
                top, left, h, w = box
                frames[:, :, top:top + h, left:left + w] = self._fill(frames.shape[1], h, w, rng)
        return clip

    @staticmethod
    def _draw_box(
        height: int, width: int, count: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int] | None:
        for _ in range(ATTEMPTS):
            area = rng.uniform(*AREA) * height * width / count
            aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top = int(rng.integers(0, height - h + 1))
                return top, int(rng.integers(0, width - w + 1)), h, w
        return None

    def _fill(self, frames: int, h: int, w: int, rng: np.random.Generator) -> torch.Tensor:
        if self.mode == "const":
            return torch.zeros(())
        shape = (3, frames, h, w) if self.mode == "pixel" else (3, frames, 1, 1)
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


@dataclass(frozen=True)
class ClipAugment:
    """What ``AUG`` does to one training clip, besides cropping.

    Attributes:
        color: RandAugment, or None.
        erasing: random erasing, or None.
    """

    color: RandAugment | None = None
    erasing: RandomErasing | None = None

    def frames(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment uint8 frames (T, H, W, 3), all with the same draws."""
        if self.color is None:
            return frames
        if frames.nbytes <= AT_ONCE:
            planes = frames.permute(0, 3, 1, 2).contiguous()
            return self.color(planes, rng).permute(0, 2, 3, 1)
        # Large frames one by one, each with a copy of the draws: operations take several floats
        # a pixel.
        changed = torch.empty_like(frames)
        start = copy.deepcopy(rng)
        for number, frame in enumerate(frames):
            own = copy.deepcopy(start) if number else rng
            planes = frame.permute(2, 0, 1)[None].contiguous()
            changed[number] = self.color(planes, own)[0].permute(1, 2, 0)
        return changed

    def erase(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Erase in a normalised clip (3, T, H, W)."""
        return clip if self.erasing is None else self.erasing(clip, rng)


def build_augment(cfg) -> ClipAugment:
    """Build what the ``AUG`` keys ask for."""
    aug = cfg.AUG
    color = RandAugment.parse(aug.AA_TYPE, aug.INTERPOLATION) if aug.AA_TYPE else None
    erasing = RandomErasing(aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) if aug.RE_PROB > 0 else None
    return ClipAugment(color, erasing)
