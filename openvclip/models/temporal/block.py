"""The base of temporal variants."""

from __future__ import annotations

from typing import ClassVar

import torch

from openvclip.models.layers import ResidualAttentionBlock

EDGES = ("zeros", "clamp")


class TemporalBlock(ResidualAttentionBlock):
    """A block of the image tower whose frames may see each other; a variant overrides ``mix``.

    ``mix`` takes the tokens (B·T, L, D) of all frames together, those of a clip adjacent, and
    returns as many: the attention half of the block, residual included. A variant that uses no
    more than ``heads``, ``project``, ``join`` and ``super().mix`` works in every tower that has
    attention; there ``attn``, ``ln_1`` and ``mlp`` may have other names.

    Args:
        width: D, channels of the tower.
        num_frames: T, frames of a clip.

    Attributes:
        own_parameters: attributes with parameters that no CLIP has. They are made with
            ``device="cpu"``, since a tower is built without memory for CLIP's own parameters, and
            their initial values should leave CLIP unchanged.
        has_edges: whether the variant reads ``edges``.
        edges: what lies before the first and after the last frame: ``zeros`` as published, or
            with ``clamp`` that frame again.
        prefix: tokens before the patches', the class token first; 0 in towers without one.
    """

    own_parameters: ClassVar[tuple[str, ...]] = ()
    has_edges: ClassVar[bool] = False
    edges = "zeros"
    prefix = 1

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames

    def summarise(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, L, D) -> (B·T, D): the class token of each frame, or its mean without one."""
        return x[:, 0] if self.prefix else x.mean(dim=1)
