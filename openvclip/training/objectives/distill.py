"""Distillation from the raw model: class probabilities stay close to the original CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from openvclip.models.layers import at_least_fp32
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.objective import Objective, Part
from openvclip.training.objectives.raw_features import RawFeatures, build_raw_features


def compute_divergence(logits: Tensor, raw_logits: Tensor) -> Tensor:
    """KL(q || p) of class probabilities p from ``logits`` and q from ``raw_logits``, (N, C) each.

    The sum over videos and classes is divided by N·C, the number of logits, as published; no
    gradient goes into q.
    """
    ours = F.log_softmax(at_least_fp32(logits), dim=-1)
    raw = F.log_softmax(at_least_fp32(raw_logits.detach()), dim=-1)
    return F.kl_div(ours, raw, reduction="sum", log_target=True) / logits.numel()


class RawDistillation(Objective):
    """Adds :func:`compute_divergence` from the raw model's logits of the same frames.

    The raw model sees a batch once per step; passes at other weights compare with the same logits.

    Args:
        raw: what the raw model makes of a batch.
        weight: factor of the divergence.
    """

    name = "distill"

    def __init__(self, raw: RawFeatures, weight: float = 1.0) -> None:
        self.raw, self.weight = raw, weight

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> RawDistillation:
        """Build what ``MODEL.RAW_MODEL_DISTILLATION`` asks for."""
        return cls(build_raw_features(cfg, model), cfg.MODEL.DISTILLATION_RATIO)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Let the raw model look at a new batch."""
        super().begin(parts, forward)
        self.raw.look(parts)

    def loss(self, logits: Tensor, part: Part) -> Tensor:
        """Return the divergence over the part's videos."""
        return compute_divergence(logits, self.raw.logits(part))

    def after_update(self, step: int) -> None:
        """Let go of the batch."""
        self.raw.release()
