"""Routing frequency: the share of CLIP's own MLP among the experts is held at a value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from openvclip.models.experts import expert_blocks, routing_state
from openvclip.training.objectives.objective import Objective, Part


def compute_frequency_loss(state: Tensor, wanted: float, kind: str = "mse") -> Tensor:
    """How far the weights of CLIP's own MLP are from ``wanted``, as published.

    Args:
        state: (..., E + 1) weights, index 0 being CLIP's own MLP.
        wanted: its share.
        kind: ``mse``, the mean of gap², which also pushes larger shares down, or ``hinge``, that of
            max(gap, 0), where gap = wanted - share.
    """
    gap = wanted - state[..., 0]
    return gap.square().mean() if kind == "mse" else gap.clamp(min=0).mean()


class Routing(Objective):
    """Adds :func:`compute_frequency_loss` of what the blocks with experts record.

    Args:
        model: has blocks with experts, which record their routing from now on.
        wanted: share of CLIP's own MLP.
        kind: ``mse`` or ``hinge``.
        weight: factor of the loss.
    """

    def __init__(
        self, model: nn.Module, wanted: float = 0.5, kind: str = "mse", weight: float = 1.0
    ) -> None:
        self.model, self.wanted, self.kind, self.weight = model, wanted, kind, weight
        self.blocks = dict(expert_blocks(model))
        for block in self.blocks.values():
            block.record = True
        self._shares: dict[int, Tensor] = {}

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> Routing:
        """Build what ``MODEL.RECORD_ROUTING`` asks for."""
        keys = cfg.MODEL
        return cls(model, keys.ROUTING_FREQUENCE_CONSTRAIN, keys.LOSS_FREQ_TYPE,
                   keys.ROUTING_FREQ_CONS_FACTOR)

    def begin(self, *args: Any) -> None:
        """Start over: a batch, or a pass at other weights."""
        super().begin(*args)
        self._shares = {}

    def loss(self, logits: Tensor, part: Part) -> Tensor:
        """Return the mean over blocks, routers, tokens and frames of the part."""
        for layer, block in self.blocks.items():
            assert block.routing is not None  # the forward pass has just recorded it
            share = part.share * torch.stack([g[..., 0].detach().mean() for g in block.routing])
            self._shares[layer] = self._shares.get(layer, 0) + share.mean()
        return compute_frequency_loss(routing_state(self.model), self.wanted, self.kind)

    def facts(self) -> dict[str, Tensor]:
        """The mean share of CLIP's own MLP in each block."""
        return {f"clip_share_block_{layer}": share for layer, share in self._shares.items()}

    def after_update(self, step: int) -> None:
        """Let go of what the blocks recorded."""
        for block in self.blocks.values():
            block.routing = None
