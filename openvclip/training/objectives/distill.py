"""Distillation from the raw model: class probabilities stay close to the original CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.checkpoints.loading import build_autocast
from openvclip.models.layers import at_least_fp32
from openvclip.models.raw import build_raw_model
from openvclip.training.objectives.objective import Objective, Part


def compute_divergence(logits: Tensor, raw_logits: Tensor) -> Tensor:
    """KL(q || p) of class probabilities p from ``logits`` and q from ``raw_logits``, (N, C) each.

    The sum over videos and classes is divided by N·C, the number of logits, as published; no
    gradient goes into q.
    """
    ours = F.log_softmax(at_least_fp32(logits), dim=-1)
    raw = F.log_softmax(at_least_fp32(raw_logits.detach()), dim=-1)
    return F.kl_div(ours, raw, reduction="mean", log_target=True)


class RawDistillation(Objective):
    """Adds :func:`compute_divergence` from the raw model's logits of the same frames.

    The raw model sees a batch once per step; passes at other weights compare with the same logits.

    Args:
        raw: maps video to logits, without a gradient.
        weight: factor of the divergence.
        autocast: makes the context of the raw model's forward pass.
    """

    def __init__(
        self, raw: nn.Module, weight: float = 1.0, autocast: Callable = nullcontext
    ) -> None:
        self.raw, self.weight, self.autocast = raw, weight, autocast
        self._parts: Sequence[Part] = ()
        self._logits: list[Tensor] = []

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> RawDistillation:
        """Build what ``MODEL.RAW_MODEL_DISTILLATION`` asks for."""
        raw = build_raw_model(cfg, model)
        autocast = build_autocast(cfg, raw.model.logit_scale.device, "TRAIN")
        return cls(raw, cfg.MODEL.DISTILLATION_RATIO, autocast)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Compute the raw model's logits of a new batch."""
        super().begin(parts, forward)
        if parts is not self._parts:
            self._parts = parts
            with torch.no_grad(), self.autocast():
                self._logits = [self.raw(part.video) for part in parts]

    def loss(self, logits: Tensor, part: Part) -> Tensor:
        """Return the divergence over the part's videos."""
        return compute_divergence(logits, self._logits[part.index])

    def after_update(self, step: int) -> None:
        """Let go of the batch."""
        self._parts, self._logits = (), []
