"""The base of temporal variants."""

from __future__ import annotations

from typing import ClassVar

from openvclip.models.layers import ResidualAttentionBlock


class TemporalBlock(ResidualAttentionBlock):
    """A block of the image tower whose frames may see each other; a variant overrides ``mix``.

    ``mix`` takes the tokens (B·T, L, D) of all frames together, those of a clip adjacent, and
    returns as many: the attention half of the block, residual included.

    Args:
        width: D, channels of the tower.
        num_frames: T, frames of a clip.

    Attributes:
        own_parameters: attributes with parameters that no CLIP has. They are made with
            ``device="cpu"``, since a tower is built without memory for CLIP's own parameters, and
            their initial values should leave CLIP unchanged.
    """

    own_parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames
