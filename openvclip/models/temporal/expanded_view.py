"""expand_temporal_view: attention that includes the tokens of neighbouring frames (Open-VCLIP)."""

from __future__ import annotations

from typing import Any

import torch

from openvclip.models.layers import attend_heads, attention
from openvclip.models.temporal.block import TemporalBlock


class FrameWindows(torch.autograd.Function):
    """(B·T, L, 3·D) projections -> queries of each frame, keys and values of its neighbours too.

    Queries come out as (B·heads, T, L, d), keys and values as (B·heads, T, (2·reach + 1)·L, d): the
    tokens of frames t - reach, ..., t + reach, which are consecutive in one copy that has
    ``reach`` frames of zeros (with ``clamp`` the end frame again) at either end of a clip. So the
    windows are overlapping views of it, and no token is copied once for every frame that sees it.
    (Softmax ignores the order.)
    The backward pass is written out, because that of ``unfold`` takes three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: torch.Tensor, frames: int, heads: int, reach: int, clamp: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.sizes = frames, heads, reach, clamp
        parts = projected.unflatten(0, (-1, frames)).unflatten(-1, (3, heads, -1))
        parts = parts.permute(3, 0, 4, 1, 2, 5)  # (3, B, heads, T, L, d)
        _, clips, _, _, tokens, width = parts.shape
        padded = parts.new_empty(2, clips, heads, frames + 2 * reach, tokens, width)
        padded[:, :, :, :reach] = parts[1:, :, :, :1] if clamp else 0
        padded[:, :, :, reach:-reach] = parts[1:]
        padded[:, :, :, -reach:] = parts[1:, :, :, -1:] if clamp else 0
        rows = padded.flatten(3, 4).flatten(1, 2)  # (2, B·heads, (T + 2·reach)·L, d)
        keys, values = rows.unfold(2, (2 * reach + 1) * tokens, tokens).mT
        return parts[0].flatten(0, 1), keys, values

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        frames, heads, reach, clamp = ctx.sizes
        grad_q = gradients[0].unflatten(0, (-1, heads))  # (B, heads, T, L, d)
        clips, _, _, tokens, width = grad_q.shape
        projected = grad_q.new_empty(clips, frames, tokens, 3, heads, width)
        parts = projected.permute(3, 0, 4, 1, 2, 5)
        parts[0] = grad_q
        for part, windows in zip(parts[1:], gradients[1:], strict=True):
            seen = windows.unflatten(2, (-1, tokens)).unflatten(0, (-1, heads)).unbind(3)
            total = seen[reach].clone()  # (B, heads, T, L, d)
            for step in range(1, min(reach, frames - 1) + 1):
                total[:, :, step:] += seen[reach + step][:, :, :-step]
                total[:, :, :-step] += seen[reach - step][:, :, step:]
            if clamp:  # the end frames stand for those that are not there as well
                for step in range(1, reach + 1):
                    ends = min(step, frames)
                    total[:, :, -1] += seen[reach + step][:, :, -ends:].sum(2)
                    total[:, :, 0] += seen[reach - step][:, :, :ends].sum(2)
            part.copy_(total)
        return projected.flatten(3).flatten(0, 1), None, None, None, None


class ExpandedView(TemporalBlock):
    """Keys and values of the ``reach`` preceding and following frames as well as the frame's own.

    Open-VCLIP's spatial-temporal attention (arXiv 2302.00624, section 3.1).
    """

    has_edges = True
    reach = 1

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        heads, clamp = self.heads, self.edges == "clamp"
        projected = self.project(x)
        if self.reach == 0:
            q, k, v = projected.chunk(3, dim=-1)
            return self.join(x, attend_heads(q, k, v, heads))
        q, k, v = FrameWindows.apply(projected, self.num_frames, heads, self.reach, clamp)
        y = attention(q, k, v)  # (B·heads, T, L, d)
        y = y.unflatten(0, (-1, heads)).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
        return self.join(x, y)


class ExpandedViewStep2(ExpandedView):
    """The two nearest frames on either side."""

    reach = 2


class ExpandedViewStep3(ExpandedView):
    """The three nearest frames on either side."""

    reach = 3
