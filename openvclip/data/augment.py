"""Augmentation of training clips, as PySlowFast's ``AUG`` and ``MIXUP`` keys define it.

RandAugment works on the uint8 frames before cropping, random erasing on the normalised clip, mixup
and cutmix on a batch. All frames of a clip get the same draw.
"""

from __future__ import annotations

import copy
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
# Bytes of frames that are augmented at once.
AT_ONCE = 32 << 20
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
ERASE_ATTEMPTS = 100


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


@dataclass(frozen=True)
class RandomErasing:
    """Fill rectangles of a clip, at the same places in all frames.

    Attributes:
        prob: probability that a clip is erased at all.
        mode: ``pixel`` noise for each pixel, ``rand`` one random colour a frame, ``const`` zeros.
        count: most rectangles; how many is drawn from 1 to this. With more than 1 the first
            T // count frames stay as they are, as published.
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
        for _ in range(ERASE_ATTEMPTS):
            area = rng.uniform(*ERASE_AREA) * height * width / count
            aspect = math.exp(rng.uniform(*(math.log(a) for a in ERASE_ASPECT)))
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
        found = torch.empty_like(frames)
        start = copy.deepcopy(rng)
        for number, frame in enumerate(frames):
            own = copy.deepcopy(start) if number else rng
            planes = frame.permute(2, 0, 1)[None].contiguous()
            found[number] = self.color(planes, own)[0].permute(1, 2, 0)
        return found

    def erase(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Erase in a normalised clip (3, T, H, W)."""
        return clip if self.erasing is None else self.erasing(clip, rng)


class Mixup:
    """Mix the videos of a batch in pairs of neighbours, and their labels likewise.

    A batch's order is random, so that neighbours are as good partners as any; and they stay
    together however many processes share the batch. Mixup blends whole clips with weight
    lambda ~ Beta(alpha, alpha); cutmix pastes a box of the other clip and sets lambda to the share
    that is left.

    Args:
        alpha: of mixup; 0 leaves cutmix alone.
        cutmix_alpha: of cutmix; 0 leaves mixup alone.
        prob: probability that a batch is mixed.
        switch_prob: probability of cutmix where both are on.
        label_smoothing: share of each label that is spread over all classes.
        num_classes: C.
        num_sample: clips of a video, adjacent in the batch; each is mixed with one of the other
            video.
    """

    def __init__(
        self,
        alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
        num_classes: int = 400,
        num_sample: int = 1,
    ) -> None:
        if alpha <= 0 and cutmix_alpha <= 0:
            raise ConfigError("MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA are both 0; nothing would mix")
        self.alpha, self.cutmix_alpha = alpha, cutmix_alpha
        self.prob, self.switch_prob = prob, switch_prob
        self.label_smoothing, self.num_classes = label_smoothing, num_classes
        self.num_sample = num_sample

    def __call__(
        self,
        video: torch.Tensor,
        label: torch.Tensor,
        generator: torch.Generator | np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            video: (B, 3, T, H, W), an even number of videos.
            label: int64 (B,), or float (B, C).
            generator: of the draws.

        Returns:
            The mixed videos, as a new tensor, and soft labels (B, C).
        """
        rng = generator
        if isinstance(generator, torch.Generator):
            number = torch.randint(2**62, (), generator=generator, device=generator.device)
            rng = np.random.default_rng(int(number))
        target = self._smooth(label)
        if rng.uniform() >= self.prob:
            return video, target
        cut = self.alpha <= 0 or (self.cutmix_alpha > 0 and rng.uniform() < self.switch_prob)
        alpha = self.cutmix_alpha if cut else self.alpha
        share = float(rng.beta(alpha, alpha))
        if cut:
            video, share = self._paste(video, share, rng)
        else:
            video = torch.lerp(self._partners(video), video, share)
        return video, torch.lerp(self._partners(target), target, share)

    def _partners(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...): at each place what belongs to its partner."""
        return x.unflatten(0, (-1, 2, self.num_sample)).flip(1).flatten(0, 2)

    def _smooth(self, label: torch.Tensor) -> torch.Tensor:
        if not label.is_floating_point():
            label = torch.nn.functional.one_hot(label, self.num_classes).float()
        return label * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes

    def _paste(
        self, video: torch.Tensor, share: float, rng: np.random.Generator
    ) -> tuple[torch.Tensor, float]:
        height, width = video.shape[-2:]
        side = math.sqrt(1.0 - share)
        h, w = int(height * side), int(width * side)
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
        left, right = max(x - w // 2, 0), min(x + w // 2, width)
        mixed = video.clone()
        mixed[..., top:bottom, left:right] = self._partners(video)[..., top:bottom, left:right]
        return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


def build_augment(cfg) -> ClipAugment:
    """Build what the ``AUG`` keys ask for."""
    aug = cfg.AUG
    color = RandAugment.parse(aug.AA_TYPE, aug.INTERPOLATION) if aug.AA_TYPE else None
    erasing = RandomErasing(aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) if aug.RE_PROB > 0 else None
    return ClipAugment(color, erasing)


def build_mixup(cfg) -> Mixup | None:
    """Build what the ``MIXUP`` keys ask for; None where they are off."""
    mixup = cfg.MIXUP
    if not mixup.ENABLE:
        return None
    return Mixup(
        alpha=mixup.ALPHA,
        cutmix_alpha=mixup.CUTMIX_ALPHA,
        prob=mixup.PROB,
        switch_prob=mixup.SWITCH_PROB,
        label_smoothing=mixup.LABEL_SMOOTH_VALUE,
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_sample=cfg.AUG.NUM_SAMPLE,
    )
