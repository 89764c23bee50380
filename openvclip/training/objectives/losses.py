"""The classification losses, by their names in ``MODEL.LOSS_FUNC``."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from openvclip.models.layers import at_least_fp32
from openvclip.training.objectives.objective import Objective, Part
from openvclip.utils.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy against class indices (N,) or soft targets (N, C), mean over N.

    Soft targets are not renormalised (as in the published loss): a row that sums to s weighs s.
    """
    if target.dim() == 1:
        return F.cross_entropy(at_least_fp32(logits), target)
    return -(target * F.log_softmax(at_least_fp32(logits), dim=-1)).sum(dim=-1).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits (N, C) against class indices (N,), mean over N."""
    return F.cross_entropy(at_least_fp32(logits), target)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of logits (N, C) against 0/1 targets (N, C), mean over all entries."""
    logits = at_least_fp32(logits)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def sigmoid_loss(logits: Tensor, target: Tensor) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343): a yes or no for each class, summed over C, mean over N.

    Args:
        logits: (N, C), with the CLIP's logit_bias.
        target: class indices (N,) or 0/1 targets (N, C).
    """
    logits = at_least_fp32(logits)
    if target.dim() == 1:
        target = F.one_hot(target, logits.shape[1])
    summed = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="sum")
    return summed / len(logits)


# "bce" expects probabilities elsewhere; our models give logits, so both names mean the same,
# computed from logits, which is the numerically stable form.
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    "bce": binary_cross_entropy,
    "bce_logit": binary_cross_entropy,
    "sigmoid": sigmoid_loss,
}


def build_loss(cfg) -> Loss:
    """Return the loss that ``MODEL.LOSS_FUNC`` names."""
    if cfg.MODEL.LOSS_FUNC not in LOSSES:
        raise ConfigError(
            f"MODEL.LOSS_FUNC is {cfg.MODEL.LOSS_FUNC!r}; it must be one of {', '.join(LOSSES)}"
        )
    return LOSSES[cfg.MODEL.LOSS_FUNC]


def build_loss_weight(cfg) -> float:
    """Return the weight of that loss beside those of other objectives."""
    return cfg.MODEL.CLS_LOSS_RATIO if cfg.MODEL.RECORD_ROUTING else 1.0


class ClassificationLoss(Objective):
    """The loss of the logits against the labels, a mean over the videos.

    Args:
        compute: logits and labels to a scalar.
        weight: factor of the loss.
    """

    def __init__(self, compute: Loss, weight: float = 1.0) -> None:
        self.compute, self.weight = compute, weight

    def loss(self, logits: Tensor, part: Part) -> Tensor:
        """Return the mean over the part's videos."""
        return self.compute(logits, part.label)
