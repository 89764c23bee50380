"""What a temporal variant is made of."""

from __future__ import annotations

from typing import ClassVar

from openvclip.models.layers import ResidualAttentionBlock


class TemporalBlock(ResidualAttentionBlock):
    """A block of the image tower whose frames may see each other; a variant overrides ``mix``.

    ``mix`` takes the tokens (B·T, L, D) of all frames at once, the frames of a clip adjacent, and
    returns as many: the attention half of the block, residual included.

    Args:
        width: D, channels of the tower.
        num_frames: T, frames of a clip.

    Attributes:
        own_parameters: attributes that hold parameters which no CLIP has. They are made with
            ``device="cpu"``, since a tower is built without memory for what a CLIP brings along,
            and their initial values should leave CLIP as it is.
    """

    own_parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames
