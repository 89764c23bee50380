"""LoRA (Hu et al., arXiv 2106.09685): CLIP's weights stay, low-rank additions to them train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.models.low_rank import LowRank, add_low_rank
from openvclip.models.temporal import is_adapter
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.objective import Objective
from openvclip.utils.errors import CheckpointError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)
_NAME = "lora"


def freeze_clip(model: VideoCLIP) -> None:
    """Exclude from training what the original CLIP has; a tuned head and adapters remain."""
    for name, parameter in model.named_parameters():
        if name.startswith("model.") and not is_adapter(name):
            parameter.requires_grad_(False)


class LoRA(Objective):
    """What a checkpoint needs to resume; the additions are parts of the model.

    The model's state dict has the merged weights, so that a checkpoint is an ordinary one. The
    weights that stay are not these less the additions bit for bit, so they are stored as well.

    Args:
        model: the model, with additions.
        factors: those of each addition, by their numbers.
    """

    def __init__(self, model: VideoCLIP, factors: Mapping[str, LowRank]) -> None:
        self.model, self.factors = model, factors

    @classmethod
    def extend_model(cls, cfg: Any, model: VideoCLIP) -> None:
        """Add to the weights that ``TRAIN.LORA.TARGETS`` name, and freeze CLIP."""
        lora = cfg.TRAIN.LORA
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        made = add_low_rank(
            model.model.vision_blocks(), names, lora.TARGETS, rank=lora.RANK,
            scale=lora.ALPHA / lora.RANK, seed=cfg.RNG_SEED, where=model.model.describe())
        freeze_clip(model)
        model.extras[_NAME] = nn.ModuleDict(
            {str(number): added for number, added in enumerate(made.values())})
        model.additions.update({name: added.addition for name, added in made.items()})
        count = sum(p.numel() for added in made.values() for p in added.parameters())
        logger.info("LoRA: rank %d, alpha %g, added to %s of %d blocks: %.3f M parameters train, "
                    "and what no CLIP has", lora.RANK, lora.ALPHA, ", ".join(lora.TARGETS),
                    len(list(model.model.vision_blocks())), count / 1e6)

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> LoRA:
        """Build what ``TRAIN.LORA.ENABLE`` asks for."""
        return cls(model, dict(model.extras[_NAME].items()))  # type: ignore[operator]

    def _kept(self) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name].detach() for name in self.model.additions}

    def _factors(self) -> dict[str, Tensor]:
        return {f"{number}.{name}": p.detach() for number, added in self.factors.items()
                for name, p in added.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Return the factors, and the weights that stay."""
        return {"factors": self._factors(), "weights": self._kept()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both, after the merged weights.

        Raises:
            CheckpointError: they are of other matrices, or of another rank.
        """
        for what, own in (("factors", self._factors()), ("weights", self._kept())):
            stored = state[what]
            if {n: t.shape for n, t in stored.items()} != {n: t.shape for n, t in own.items()}:
                raise CheckpointError(
                    "the checkpoint's LoRA was of another TRAIN.LORA.RANK or other "
                    "TRAIN.LORA.TARGETS; set what it was trained with, or take its merged weights "
                    "only, with TRAIN.CHECKPOINT_EPOCH_RESET True")
            for name, tensor in own.items():
                tensor.copy_(stored[name])
