"""What a dataset keeps of each frame during decoding: only the pixels that its crops read.

A whole frame of 8192 x 4320 pixels takes 106 MB; the pixels that a crop of 224 reads take 0.6.
Each class is a ``keep`` for :func:`openvclip.data.video.video_io.read_clips`: it is given the
frames of one video, and then makes a ``Cut`` of what was kept for each crop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from openvclip.data.augment.clip import ClipAugment
from openvclip.data.video.crops import Crop
from openvclip.data.video.resample import Cut, cut

ClipOrders = Sequence[tuple[int, Sequence[int]]]
# Frames with more pixels are reduced if whole ones are needed, as for augmentation, which
# takes several floats per pixel; to at most this many pixels.
LARGE = 4096 * 2304
REDUCED = 1280 * 720


def _cut_all(image: np.ndarray, crops: Sequence[Crop]) -> list[np.ndarray]:
    """Copy the pixels of a frame (H, W, 3) that each crop reads."""
    return [cut(image[None], crop)[0].copy() for crop in crops]


def _join(
    kept: Sequence[Sequence[np.ndarray]], crops: Sequence[Crop], clips: Sequence[ClipOrders]
) -> list[Cut]:
    """Join what was kept of each frame to one cut per crop."""
    return [Cut(crop, tuple((clip, tuple(order)) for clip, order in shown), np.stack(parts))
            for crop, shown, parts in zip(crops, clips, zip(*kept, strict=True), strict=True)]


class FixedCuts:
    """Keeps what given crops read.

    Args:
        choose: returns the crops for frames of a height and width.

    Attributes:
        size: height and width of the frames.
        crops: the crops chosen for them.
    """

    def __init__(self, choose: Callable[[int, int], Sequence[Crop]]) -> None:
        self.choose = choose
        self.size: tuple[int, int] = (0, 0)
        self.crops: Sequence[Crop] = ()

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        height, width, _ = image.shape
        if self.size != (height, width):
            self.size, self.crops = (height, width), self.choose(height, width)
        return _cut_all(image, self.crops)

    def cuts(self, kept: Sequence[list[np.ndarray]], clips: Sequence[ClipOrders]) -> list[Cut]:
        """Return the cut for each crop; ``clips`` are the (number, order) of those that show it."""
        return _join(kept, self.crops, clips)


class DrawnCuts:
    """Keeps what random crops read: each clip of a video has its own, the same in all its frames.

    Frames that are augmented are kept whole, since augmentation comes before the crop. Large
    ones are reduced first.

    Args:
        draw: draws the crop for frames of a height and width from a generator.
        augment: augments frames, or None.
        generators: one per clip.
    """

    def __init__(
        self,
        draw: Callable[[int, int, np.random.Generator], Crop],
        augment: ClipAugment | None,
        generators: Sequence[np.random.Generator],
    ) -> None:
        self.draw, self.generators = draw, generators
        self.augment = augment if augment is not None and augment.color is not None else None
        self.crops: list[Crop] = []

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        if self.augment is not None:
            return [whole_frame(image)]
        if not self.crops:
            height, width, _ = image.shape
            self.crops = [self.draw(height, width, rng) for rng in self.generators]
        return _cut_all(image, self.crops)

    def cuts(self, kept: Sequence[list[np.ndarray]], order: Sequence[int]) -> list[Cut]:
        """Return the cut for each clip; all show the frames in ``order``."""
        if self.augment is None:
            return _join(kept, self.crops, [[(clip, order)] for clip in range(len(self.crops))])
        frames = torch.from_numpy(np.stack([image for (image,) in kept]))
        cuts = []
        for clip, rng in enumerate(self.generators):
            changed = self.augment.frames(frames, rng).numpy()
            crop = self.draw(changed.shape[1], changed.shape[2], rng)
            cuts.append(Cut.of(changed, crop, [(clip, order)]))
        return cuts


def whole_frame(image: np.ndarray) -> np.ndarray:
    """Copy a frame, reduced if it is large: uint8 (H, W, 3) to (h, w, 3)."""
    return reduce(image) if image.shape[0] * image.shape[1] > LARGE else image.copy()


def reduce(image: np.ndarray) -> np.ndarray:
    """Average a frame over blocks of pixels until it has no more than ``REDUCED``, band by band."""
    height, width, _ = image.shape
    step = min(math.ceil(math.sqrt(height * width / REDUCED)), height, width)
    rows, columns = height // step, width // step
    small = np.empty((rows, columns, 3), np.uint8)
    for row in range(rows):
        band = image[row * step:(row + 1) * step, :columns * step]
        sums = band.sum(axis=0, dtype=np.uint32).reshape(columns, step, 3).sum(axis=1)
        small[row] = (sums + step * step // 2) // (step * step)
    return small
