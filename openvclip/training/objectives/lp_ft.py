"""Linear probing, then fine-tuning (LP-FT; Kumar et al., arXiv 2202.10054)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.objective import Objective
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class ProbeFirst(Objective):
    """In the first epochs only the head trains, on features that stay; then all that would.

    Meanwhile nothing else requires a gradient, so that a step costs a forward pass of the towers.

    Args:
        model: the model, with a head.
        epochs: how many epochs are of probing.
        rate: factor of the learning rate in these.
    """

    def __init__(self, model: VideoCLIP, epochs: int, rate: float = 1.0) -> None:
        assert model.head is not None  # the config is checked
        self.head, self.epochs, self._rate = model.head, epochs, rate
        self._others = [p for p in model.parameters() if p.requires_grad and p is not model.head]
        self.probing: bool | None = None

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> ProbeFirst:
        """Build what ``TRAIN.LP_FT`` asks for."""
        return cls(model, cfg.TRAIN.LP_FT.EPOCHS, cfg.TRAIN.LP_FT.LR_FACTOR)

    def begin_epoch(self, epoch: int) -> None:
        """Choose what trains in this epoch."""
        before, self.probing = self.probing, epoch < self.epochs
        self.rate = self._rate if self.probing else 1.0
        for parameter in self._others:
            parameter.requires_grad_(not self.probing)
        if before is not self.probing:
            logger.info("from epoch %d on %s", epoch + 1, "only the head trains (linear probing)"
                        if self.probing else "all weights train (fine-tuning)")

    def trains_only(self) -> Sequence[nn.Parameter] | None:
        """The head, while it is probed."""
        return (self.head,) if self.probing else None
