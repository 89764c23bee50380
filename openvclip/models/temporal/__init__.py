"""How the frames of a clip see each other in the image tower: MODEL.TEMPORAL_MODELING_TYPE.

Each file is one variant, named in openvclip/config/doors.py. A frame past either end of the clip
contributes keys and values of zeros that are not masked (each takes softmax mass with logit 0), as
published checkpoints were trained; with MODEL.TEMPORAL_EDGES clamp it is the end frame again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from openvclip.clip.towers import TowerSpec
from openvclip.config.doors import BACKBONES, TEMPORAL
from openvclip.models.backbone import Backbone
from openvclip.models.backbone.opened import View
from openvclip.models.experts import (
    Experts,
    insert_experts,
    is_expert,
    refuse_experts,
    take_expert_weights,
)
from openvclip.models.layers import ResidualAttentionBlock
from openvclip.models.temporal.block import EDGES
from openvclip.utils.errors import ConfigError
from openvclip.utils.registry import not_a_choice


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to a temporal variant or to experts: no original CLIP has it."""
    return is_temporal(name) or is_expert(name)


def is_temporal(name: str) -> bool:
    """Whether a parameter belongs to a temporal variant."""
    own = {part for kind in TEMPORAL.names() if kind for part in TEMPORAL.get(kind).own_parameters}
    return not own.isdisjoint(name.split("."))


def temporal_block(
    temporal_type: str | None, num_frames: int, edges: str = "zeros"
) -> Callable[[int], nn.Module]:
    """Return what makes a block of OpenAI's image tower from its width, and opens other towers'.

    Args:
        temporal_type: a name in ``TEMPORAL``, or None for frames that do not see each other.
        num_frames: T, frames in a clip.
        edges: what lies past the ends of a clip: ``zeros`` or ``clamp``.

    Raises:
        ConfigError: the name is unknown, or ``edges`` would have no effect.
    """
    if edges not in EDGES:
        raise ConfigError(not_a_choice("MODEL.TEMPORAL_EDGES", edges, EDGES))
    variant = TEMPORAL.get(temporal_type)
    if edges != "zeros" and not getattr(variant, "has_edges", False):
        raise ConfigError(
            f"MODEL.TEMPORAL_EDGES is {edges!r}, but MODEL.TEMPORAL_MODELING_TYPE "
            f"{temporal_type!r} does not look past the ends of a clip; set it to zeros"
        )
    return ResidualAttentionBlock if temporal_type is None else View(variant, num_frames, edges)


def build_temporal_clip(
    state: Mapping[str, torch.Tensor],
    *,
    temporal_type: str | None = None,
    num_frames: int = 8,
    use_checkpoint: bool = False,
    where: str = "the state dict",
    backbone: str = "auto",
    tower: TowerSpec | None = None,
    edges: str = "zeros",
    experts: Experts | None = None,
) -> Backbone:
    """Build a CLIP whose image tower runs on clips of ``num_frames`` frames.

    Args:
        state: the towers' names to tensors; an original CLIP, with which the variant's own
            parameters keep their initial values, or one trained with the same variant. Without
            weights of experts these are copies of its MLPs.
        temporal_type, num_frames, edges: see :func:`temporal_block`.
        use_checkpoint: activation checkpointing in the image tower.
        where: what to call ``state`` in errors.
        backbone: a name in ``BACKBONES``; ``auto`` is the one that ``tower`` needs.
        tower: what the towers are, from :func:`openvclip.clip.towers.load_tower`; None: a CLIP
            built like OpenAI's, whose weights tell its sizes.
        experts: which blocks have experts; None: none has.

    Raises:
        CheckpointError: names or shapes do not fit.
        ConfigError: unknown ``temporal_type`` or ``backbone``, or one that does not fit ``tower``.
    """
    own = {name: tensor for name, tensor in state.items() if is_expert(name)}
    if experts is None:
        refuse_experts(own, where)
    original = not any(is_temporal(name) for name in state)
    family = "clip" if tower is None else tower.family
    if backbone == "clip" and family != "clip":
        raise ConfigError(f"MODEL.BACKBONE is clip, but {where} is not built like OpenAI's ViT; "
                          "set it to auto")
    clip = BACKBONES.get(family if backbone == "auto" else backbone).from_state_dict(
        {name: tensor for name, tensor in state.items() if name not in own} if own else state,
        vision_block=temporal_block(temporal_type, num_frames, edges),
        use_checkpoint=use_checkpoint,
        allow_missing=is_temporal if original else None,
        where=where,
        tower=tower,
    )
    if experts is not None:
        insert_experts(clip, experts, where)
        if own:
            take_expert_weights(clip, own, where)
    return clip
