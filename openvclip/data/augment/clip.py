"""Augmentation of training clips, as PySlowFast's ``AUG`` keys define it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from openvclip.data.augment.erasing import RandomErasing
from openvclip.data.augment.randaugment import RandAugment

# Bytes of frames that are augmented together.
AT_ONCE = 32 << 20


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
