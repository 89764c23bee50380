"""Where clips are cropped from their frames: PySlowFast's spatial sampling.

Geometry is drawn as a ``Crop`` by functions that take the random generator, so that a test can
replay recorded draws; cutting and resizing (``resample.py``) then has nothing random in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LEFT, CENTRE, RIGHT = 0, 1, 2
# How a frame becomes a square: its short side is resized and the rest cut off, it is stretched,
# or its long side is resized and the rest filled with a colour (open_clip's names).
SHORTEST, SQUASH, LONGEST = "shortest", "squash", "longest"
# How pixels are resized: as published, without antialiasing; or as Pillow does, with it.
BILINEAR, ANTIALIASED, BICUBIC = "bilinear", "bilinear_antialias", "bicubic"


class Draws(Protocol):
    """The part of ``numpy.random.Generator`` that is used here."""

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float: ...

    def integers(self, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class Crop:
    """How each frame of a clip is resized and cropped.

    The region (``top``, ``left``, ``height``, ``width``) of the frame is resized to
    ``resized`` and of that the square of ``size`` pixels at ``y``, ``x`` is taken. What of the
    square is outside the resized region is filled with a colour.

    Attributes:
        region: top, left, height and width in the source frame.
        resized: height and width that the region is resized to.
        y: first row of the crop in the resized region; negative: rows of colour come first.
        x: first column of the crop in the resized region, likewise.
        size: side of the crop.
        flip: whether the crop is mirrored.
        filter: how pixels are resized.
    """

    region: tuple[int, int, int, int]
    resized: tuple[int, int]
    y: int
    x: int
    size: int
    flip: bool = False
    filter: str = BILINEAR

    def inside(self) -> tuple[slice, slice]:
        """Return the rows and columns of the square, mirrored or not, that show the region."""
        rows, columns = (
            slice(max(-first, 0), min(length - first, self.size))
            for first, length in zip((self.y, self.x), self.resized, strict=True))
        if self.flip:
            columns = slice(self.size - columns.stop, self.size - columns.start)
        return rows, columns


def scaled_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Return the size with the short side ``short`` and the long side rounded down."""
    if min(height, width) == short:
        return height, width
    if width < height:
        return math.floor(height / width * short), short
    return short, math.floor(width / height * short)


def fixed_crop(height: int, width: int, *, scale: int, size: int, position: int = CENTRE) -> Crop:
    """Return one of three crops along the long side, after scaling the short side to ``scale``.

    Args:
        height: of the frame.
        width: of the frame.
        scale: the short side after resizing.
        size: side of the crop, at most ``scale``.
        position: 0 left (or top), 1 centre, 2 right (or bottom).
    """
    new_h, new_w = scaled_size(height, width, scale)
    y, x = math.ceil((new_h - size) / 2), math.ceil((new_w - size) / 2)
    if new_h > new_w:
        y = {LEFT: 0, CENTRE: y, RIGHT: new_h - size}[position]
    else:
        x = {LEFT: 0, CENTRE: x, RIGHT: new_w - size}[position]
    return Crop((0, 0, height, width), (new_h, new_w), y, x, size)


def square_crop(
    height: int, width: int, *, mode: str, side: int, size: int, y: int = 0, x: int = 0,
    flip: bool = False,
) -> Crop:
    """Return a crop of the square of ``side`` pixels that shows a whole frame.

    Args:
        height: of the frame.
        width: of the frame.
        mode: ``squash`` or ``longest``.
        side: of the square.
        size: side of the crop, at most ``side``.
        y: first row of the crop in the square.
        x: first column of the crop in the square.
        flip: whether the crop is mirrored.
    """
    region = (0, 0, height, width)
    if mode == SQUASH:
        return Crop(region, (side, side), y, x, size, flip)
    ratio = max(height, width) / side
    new_h, new_w = max(round(height / ratio), 1), max(round(width / ratio), 1)
    top, left = (side - new_h) // 2, (side - new_w) // 2
    return Crop(region, (new_h, new_w), y - top, x - left, size, flip)


def jitter_crop(
    height: int, width: int, *,
    scales: Sequence[int], size: int, rng: Draws, inverse: bool = False, flip: bool = True,
    mode: str = SHORTEST,
) -> Crop:
    """Draw a scale, a place and a flip, in this order.

    Unless ``mode`` is ``shortest``, the scale is that of the square which shows the whole frame,
    as tests show it, and the crop is a part of this square.

    Args:
        height: of the frame.
        width: of the frame.
        scales: smallest and largest short side.
        size: side of the crop, at most the smallest short side.
        rng: the random generator.
        inverse: draw the inverse of the scale uniformly (``DATA.INV_UNIFORM_SAMPLE``).
        flip: mirror with probability 1/2 (``DATA.RANDOM_FLIP``).
        mode: how a frame becomes a square (``DATA.RESIZE_MODE``).
    """
    low, high = scales
    if inverse:
        short = round(1.0 / rng.uniform(1.0 / high, 1.0 / low))
    else:
        short = round(rng.uniform(low, high))
    new_h, new_w = scaled_size(height, width, short) if mode == SHORTEST else (short, short)
    # The end is left out, so that the last offset is never drawn: published behaviour.
    y = int(rng.integers(0, new_h - size)) if new_h > size else 0
    x = int(rng.integers(0, new_w - size)) if new_w > size else 0
    mirrored = bool(flip and rng.uniform() < 0.5)
    if mode == SHORTEST:
        return Crop((0, 0, height, width), (new_h, new_w), y, x, size, mirrored)
    return square_crop(height, width, mode=mode, side=short, size=size, y=y, x=x, flip=mirrored)


def relative_crop(
    height: int, width: int, *,
    area: Sequence[float], aspect: Sequence[float], size: int, rng: Draws, flip: bool = True,
) -> Crop:
    """Draw a random resized crop: a part of the frame, stretched to the square.

    It makes ten attempts to fit a region of random area and aspect ratio into the frame, then
    takes the largest central one within the ratios.

    Args:
        height: of the frame.
        width: of the frame.
        area: smallest and largest share of the frame (``DATA.TRAIN_JITTER_SCALES_RELATIVE``).
        aspect: smallest and largest width / height, drawn uniformly in its logarithm
            (``DATA.TRAIN_JITTER_ASPECT_RELATIVE``).
        size: side of the result.
        rng: the random generator.
        flip: mirror with probability 1/2.
    """
    region = _central_region(height, width, aspect)
    for _ in range(10):
        target = rng.uniform(area[0], area[1]) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            region = (int(top), int(left), h, w)
            break
    mirrored = flip and rng.uniform() < 0.5
    return Crop(region, (size, size), 0, 0, size, bool(mirrored))


def _central_region(height: int, width: int, aspect: Sequence[float]) -> tuple[int, int, int, int]:
    h, w = height, width
    if width / height < min(aspect):
        h = min(round(width / min(aspect)), height)
    elif width / height > max(aspect):
        w = min(round(height * max(aspect)), width)
    return (height - h) // 2, (width - w) // 2, h, w
