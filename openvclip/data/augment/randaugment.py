"""RandAugment on the uint8 frames of a clip, before cropping: all frames get the same draws."""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from openvclip.utils.errors import ConfigError
from openvclip.utils.torchvision_ops import import_torchvision

MAX_LEVEL = 10.0
# Each operation of RandAugment is skipped half of the time, as in timm and PySlowFast.
OPERATION_PROB = 0.5
GREY = 128.0


@functools.cache
def _transforms() -> ModuleType:
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2")


def _functional() -> ModuleType:
    return _transforms().functional


def _affine(
    frames: torch.Tensor, mode: str, matrix: Sequence[Sequence[float]] = ((1, 0), (0, 1)),
    shift: Sequence[float] = (0.0, 0.0),
) -> torch.Tensor:
    """Map uint8 frames (T, 3, H, W) by ``matrix`` around their centre, then move by ``shift``.

    Done by grid sampling, since torchvision's affine map of tensors has no bicubic. ``matrix`` is
    in pixels, x to the right and y down; ``shift`` is (x, y) in pixels. Grey comes in at the edges.
    """
    height, width = frames.shape[-2:]
    half = np.array([width, height]) / 2
    inverse = np.linalg.inv(np.asarray(matrix, np.float64))
    # From an output place to where its value comes from, both in units of half a side.
    theta = np.column_stack([inverse * half[None] / half[:, None], -(inverse @ shift) / half])
    grid = F.affine_grid(
        torch.from_numpy(theta).float()[None], [1, 3, height, width], align_corners=False
    )
    moved = F.grid_sample(
        frames.float() - GREY, grid.expand(len(frames), -1, -1, -1), mode=mode,
        padding_mode="zeros", align_corners=False,
    )
    return (moved + GREY).round_().clamp_(0, 255).to(torch.uint8)


def _signed(value: float, rng: np.random.Generator) -> float:
    return value if rng.uniform() < 0.5 else -value


def _enhance(name: str, frames: torch.Tensor, level: float, inc: bool, rng) -> torch.Tensor:
    factor = 1.0 + _signed(level * 0.9, rng) if inc else level * 1.8 + 0.1
    return getattr(_functional(), f"adjust_{name}")(frames, max(factor, 0.0))


def _shear(name: str, frames: torch.Tensor, slope: float, mode: str) -> torch.Tensor:
    """Shear around the upper left corner, as PIL does, whose row or column stays."""
    height, width = frames.shape[-2:]
    if name == "shear_x":
        return _affine(frames, mode, ((1, slope), (0, 1)), (slope * height / 2, 0.0))
    return _affine(frames, mode, ((1, 0), (slope, 1)), (0.0, slope * width / 2))


def _solarize_add(frames: torch.Tensor, addend: int) -> torch.Tensor:
    brighter = (frames.int() + addend).clamp_(max=255).to(torch.uint8)
    return torch.where(frames < 128, brighter, frames)


def apply_operation(
    name: str, frames: torch.Tensor, level: float, *, inc: bool, mode: str,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Apply one operation of RandAugment to all frames of a clip.

    Args:
        name: one of :data:`OPERATIONS`.
        frames: uint8 (T, 3, H, W).
        level: magnitude in 0..1.
        inc: use the set in which a higher level always distorts more.
        mode: interpolation of geometric operations.
        rng: for the direction of those that have two.
    """
    f = _functional()
    if name in ("autocontrast", "equalize", "invert"):
        return getattr(f, name)(frames)
    if name in ("brightness", "contrast", "saturation", "sharpness"):
        return _enhance(name, frames, level, inc, rng)
    if name == "posterize":
        return f.posterize(frames, 4 - int(level * 4) if inc else int(level * 4))
    if name == "solarize":
        return f.solarize(frames, min(256 - int(level * 256) if inc else int(level * 256), 255))
    if name == "solarize_add":
        return _solarize_add(frames, int(level * 110))
    if name == "rotate":
        angle = math.radians(_signed(level * 30.0, rng))
        cos, sin = math.cos(angle), math.sin(angle)
        return _affine(frames, mode, ((cos, -sin), (sin, cos)))
    if name in ("shear_x", "shear_y"):
        return _shear(name, frames, _signed(level * 0.3, rng), mode)
    share = _signed(level * 0.45, rng)
    height, width = frames.shape[-2:]
    shift = (share * width, 0.0) if name == "translate_x" else (0.0, share * height)
    return _affine(frames, mode, shift=shift)


OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "saturation", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y",
)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment on clips, described by a text such as ``rand-m9-n4-mstd0.5-inc1``.

    Attributes:
        magnitude: ``m``, of 10.
        layers: ``n``, operations drawn (with repetition) for each clip.
        std: ``mstd``, standard deviation of the magnitude.
        inc: ``inc``, whether every operation grows with the magnitude.
        mode: interpolation of geometric operations.
    """

    magnitude: float = 10.0
    layers: int = 2
    std: float = 0.0
    inc: bool = False
    mode: str = "bilinear"

    @classmethod
    def parse(cls, text: str, mode: str = "bilinear") -> RandAugment:
        """Read timm's notation.

        Raises:
            ConfigError: the text is not in it.
        """
        values: dict[str, float] = {}
        head, *parts = text.split("-")
        for part in parts:
            match = re.fullmatch(r"(mstd|inc|m|n)(\d{1,9}(?:\.\d+)?)", part)
            if match is None:
                head = ""
                break
            values[match[1]] = float(match[2])
        if head != "rand" or values.get("n", 2) % 1 or values.get("m", 0) > MAX_LEVEL:
            raise ConfigError(
                f"AUG.AA_TYPE is {text!r}; expected a text like 'rand-m9-n2-mstd0.5-inc1' "
                "(m magnitude up to 10, n operations, mstd its deviation, inc 0 or 1), "
                "or '' for none"
            )
        return cls(
            values.get("m", MAX_LEVEL), int(values.get("n", 2)), values.get("mstd", 0.0),
            bool(values.get("inc", 0)), mode,
        )

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment uint8 (T, 3, H, W)."""
        for choice in rng.integers(0, len(OPERATIONS), size=self.layers):
            if rng.uniform() > OPERATION_PROB:
                continue
            magnitude = self.magnitude + (self.std * rng.standard_normal() if self.std else 0.0)
            frames = apply_operation(
                OPERATIONS[choice], frames, float(np.clip(magnitude, 0.0, MAX_LEVEL)) / MAX_LEVEL,
                inc=self.inc, mode=self.mode, rng=rng,
            )
        return frames
