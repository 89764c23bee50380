"""channel_shift: a part of the keys' and values' channels comes from neighbouring frames."""

from __future__ import annotations

import torch

from openvclip.models.layers import attend_heads
from openvclip.models.temporal.block import TemporalBlock


def shift_frames(
    x: torch.Tensor, frames: int, offset: int, edges: str = "zeros"
) -> torch.Tensor:
    """(B·T, ...) -> (B·T, ...): frame t becomes frame t + offset, past the ends ``edges``."""
    clips = x.unflatten(0, (-1, frames))
    if edges == "clamp":
        seen = torch.arange(offset, frames + offset, device=x.device).clamp(0, frames - 1)
        return clips[:, seen].flatten(0, 1)
    shifted = torch.zeros_like(clips)
    size = frames - abs(offset)
    if size > 0:
        there, here = max(offset, 0), max(-offset, 0)
        shifted[:, here : here + size] = clips[:, there : there + size]
    return shifted.flatten(0, 1)


class ChannelShift(TemporalBlock):
    """A quarter of the keys' and values' channels comes from frame t+1, a quarter from t-1."""

    has_edges = True

    def shift(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, L, D) -> (B·T, L, D)."""
        quarter = x.shape[-1] // 4
        after, before, rest = x.split([quarter, quarter, x.shape[-1] - 2 * quarter], dim=-1)
        return torch.cat([shift_frames(after, self.num_frames, 1, self.edges),
                          shift_frames(before, self.num_frames, -1, self.edges), rest], dim=-1)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, dim=-1)
        return self.join(x, attend_heads(q, self.shift(k), self.shift(v), self.heads))


class PublishedChannelShift(ChannelShift):
    """As in the published code, which scrambles the channels.

    It reads the shifted buffer, laid out (heads, head dim, L), as if it were (heads, L, head dim).
    """

    def shift(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, L, D) -> (B·T, L, D)."""
        shifted = super().shift(x).transpose(1, 2)
        return shifted.reshape(len(x), self.heads, x.shape[1], -1).transpose(1, 2).flatten(2)
