"""Mixup and cutmix on a batch of clips and their labels, as the ``MIXUP`` keys define them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from openvclip.utils.errors import ConfigError


@dataclass(frozen=True)
class Mixup:
    """Mix the videos of a batch in pairs of neighbours, and their labels likewise.

    A batch's order is random, so neighbours are as good partners as any; and they stay
    together however many processes share the batch. Mixup blends whole clips with weight
    lambda ~ Beta(alpha, alpha); cutmix pastes a box of the other clip and sets lambda to the share
    that is left.

    Attributes:
        alpha: parameter of mixup; 0: only cutmix.
        cutmix_alpha: parameter of cutmix; 0: only mixup.
        prob: probability that a batch is mixed.
        switch_prob: probability of cutmix if both are on.
        label_smoothing: share of each label that is spread over all classes.
        num_classes: C.
        num_sample: clips of a video, adjacent in the batch; each is mixed with one of the other
            video.
    """

    alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    num_classes: int = 400
    num_sample: int = 1

    def __post_init__(self) -> None:
        if self.alpha <= 0 and self.cutmix_alpha <= 0:
            raise ConfigError("MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA are both 0; nothing would mix")

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
            generator: makes the draws.

        Returns:
            The mixed videos, as a new tensor, and soft labels (B, C).
        """
        if isinstance(generator, torch.Generator):
            number = torch.randint(2**62, (), generator=generator, device=generator.device)
            rng = np.random.default_rng(int(number))
        else:
            rng = generator
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
        """(B, ...) -> (B, ...): at each position, its partner's entry."""
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


def build_mixup(cfg) -> Mixup | None:
    """Build what the ``MIXUP`` keys ask for; None if they are off."""
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
