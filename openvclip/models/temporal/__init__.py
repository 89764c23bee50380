"""How the frames of a clip see each other in the image tower: MODEL.TEMPORAL_MODELING_TYPE.

Each file is one variant, named in openvclip/config/doors.py. A frame past either end of the clip
contributes keys and values of zeros that are not masked (each takes softmax mass with logit 0), as
published checkpoints were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from openvclip.config.doors import BACKBONES, TEMPORAL
from openvclip.models.backbone import Backbone
from openvclip.models.layers import ResidualAttentionBlock


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to a temporal variant and so is not in an original CLIP."""
    own = {part for kind in TEMPORAL.names() if kind for part in TEMPORAL.get(kind).own_parameters}
    return not own.isdisjoint(name.split("."))


def temporal_block(temporal_type: str | None, num_frames: int) -> Callable[[int], nn.Module]:
    """Return a function that makes a block of the image tower from its width.

    Args:
        temporal_type: a name in ``TEMPORAL``, or None for frames that do not see each other.
        num_frames: T, frames in a clip.

    Raises:
        ConfigError: the name is unknown.
    """
    if temporal_type is None:
        return ResidualAttentionBlock
    return partial(TEMPORAL.get(temporal_type), num_frames=num_frames)


def build_temporal_clip(
    state: Mapping[str, torch.Tensor],
    *,
    temporal_type: str | None = None,
    num_frames: int = 8,
    use_checkpoint: bool = False,
    where: str = "the state dict",
    backbone: str = "clip",
) -> Backbone:
    """Build a CLIP whose image tower runs on clips of ``num_frames`` frames.

    Args:
        state: OpenAI's names to tensors; an original CLIP, with which the variant's own parameters
            keep their initial values, or one trained with the same variant.
        temporal_type, num_frames: see :func:`temporal_block`.
        use_checkpoint: activation checkpointing in the image tower.
        where: what to call ``state`` in errors.
        backbone: a name in ``BACKBONES``.

    Raises:
        CheckpointError: names or shapes do not fit.
        ConfigError: unknown ``temporal_type`` or ``backbone``.
    """
    original = not any(is_adapter(name) for name in state)
    return BACKBONES.get(backbone).from_state_dict(
        state,
        vision_block=temporal_block(temporal_type, num_frames),
        use_checkpoint=use_checkpoint,
        allow_missing=is_adapter if original else None,
        where=where,
    )
