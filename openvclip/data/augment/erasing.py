"""Random erasing on a normalised clip: the same rectangles in all frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

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
