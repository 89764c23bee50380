"""How the frames of a clip see each other in the image tower: MODEL.TEMPORAL_MODELING_TYPE.

Every variant works on all B·T frames at once, the frames of a clip adjacent. A frame past either
end of the clip contributes keys and values of zeros that are not masked (each takes softmax mass
with logit 0), as published checkpoints were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from openvclip.models.backbone import CLIP
from openvclip.models.layers import Attention, LayerNorm, ResidualAttentionBlock, attention
from openvclip.utils.errors import ConfigError

ADAPTERS = (".message_fc.", ".message_ln.", ".message_attn.",
            ".stadapt_down_1.", ".stadapt_conv3d_1.", ".stadapt_up_1.")


def is_adapter(name: str) -> bool:
    """Say whether a parameter belongs to a temporal variant and so is not in an original CLIP."""
    return any(part in name for part in ADAPTERS)


def shift_frames(x: torch.Tensor, frames: int, offset: int) -> torch.Tensor:
    """(B·T, ...) -> (B·T, ...): frame t becomes frame t + offset, zeros past the clip's ends."""
    clips = x.unflatten(0, (-1, frames))
    shifted = torch.zeros_like(clips)
    size = frames - abs(offset)
    if size > 0:
        there, here = max(offset, 0), max(-offset, 0)
        shifted[:, here : here + size] = clips[:, there : there + size]
    return shifted.flatten(0, 1)


class FrameWindows(torch.autograd.Function):
    """(B·T, L, 3·D) projections -> queries of each frame, keys and values of its neighbours too.

    Queries come out as (B·heads, T, L, d), keys and values as (B·heads, T, (2·reach + 1)·L, d): the
    tokens of frames t - reach, ..., t + reach, which lie one after another in one copy that has
    ``reach`` frames of zeros at either end of a clip. So the windows are overlapping views of it,
    and no token is copied once for every frame that sees it. (Softmax does not mind the order.)
    The backward pass is written out, as that of ``unfold`` takes three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: torch.Tensor, frames: int, heads: int, reach: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.sizes = frames, heads, reach
        parts = projected.unflatten(0, (-1, frames)).unflatten(-1, (3, heads, -1))
        parts = parts.permute(3, 0, 4, 1, 2, 5)  # (3, B, heads, T, L, d)
        _, clips, _, _, tokens, width = parts.shape
        padded = parts.new_empty(2, clips, heads, frames + 2 * reach, tokens, width)
        padded[:, :, :, :reach] = 0
        padded[:, :, :, reach:-reach] = parts[1:]
        padded[:, :, :, -reach:] = 0
        rows = padded.flatten(3, 4).flatten(1, 2)  # (2, B·heads, (T + 2·reach)·L, d)
        keys, values = rows.unfold(2, (2 * reach + 1) * tokens, tokens).mT
        return parts[0].flatten(0, 1), keys, values

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        frames, heads, reach = ctx.sizes
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
            part.copy_(total)
        return projected.flatten(3).flatten(0, 1), None, None, None


class ExpandedViewBlock(ResidualAttentionBlock):
    """Keys and values of the ``reach`` preceding and following frames beside the frame's own.

    Open-VCLIP's spatial-temporal attention (arXiv 2302.00624, section 3.1).
    """

    def __init__(self, width: int, num_frames: int, reach: int) -> None:
        super().__init__(width)
        self.num_frames, self.reach = num_frames, reach

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.attn.heads
        projected = self.attn.project(self.ln_1(x))
        q, k, v = FrameWindows.apply(projected, self.num_frames, heads, self.reach)
        y = attention(q, k, v)  # (B·heads, T, L, d)
        y = y.unflatten(0, (-1, heads)).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
        return x + self.attn.out_proj(y)


class ChannelShiftBlock(ResidualAttentionBlock):
    """A quarter of the keys' and values' channels comes from frame t+1, a quarter from t-1.

    Args:
        scrambled: as in the published code, read the shifted buffer, laid out (heads, head dim, L),
            as if it were (heads, L, head dim).
    """

    def __init__(self, width: int, num_frames: int, scrambled: bool = False) -> None:
        super().__init__(width)
        self.num_frames, self.scrambled = num_frames, scrambled

    def shift(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, L, D) -> (B·T, L, D)."""
        n, tokens, width = x.shape
        quarter = width // 4
        after, before, rest = x.split([quarter, quarter, width - 2 * quarter], dim=-1)
        x = torch.cat([shift_frames(after, self.num_frames, 1),
                       shift_frames(before, self.num_frames, -1), rest], dim=-1)
        if self.scrambled:
            x = x.transpose(1, 2).reshape(n, self.attn.heads, tokens, -1)
            x = x.transpose(1, 2).flatten(2)
        return x

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attn.project(self.ln_1(x)).chunk(3, dim=-1)
        return x + self.attn.attend(q, self.shift(k), self.shift(v))


class CrossFrameBlock(ResidualAttentionBlock):
    """Frames exchange a message token each before they attend (X-CLIP, arXiv 2208.02816)."""

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames
        # On the CPU explicitly: CLIP.from_state_dict builds on the meta device, and an original
        # CLIP has no values for these.
        self.message_fc = nn.Linear(width, width, device="cpu")
        self.message_ln = LayerNorm(width, device="cpu")
        self.message_attn = Attention(width, device="cpu")

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        message = self.message_fc(x[:, 0]).unflatten(0, (-1, self.num_frames))  # (B, T, D)
        message = message + self.message_attn(self.message_ln(message))
        x = torch.cat([x, message.reshape(-1, 1, x.shape[2]).to(x.dtype)], dim=1)
        return super().mix(x)[:, :-1]


class AdapterBlock(ResidualAttentionBlock):
    """A bottleneck with a convolution over time on the patch tokens, before the attention.

    ST-Adapter (arXiv 2206.13559) without activation; its last layer starts at zero. The weights
    are shaped like those of 3-D convolutions; as these look at one position only, a linear map and
    three shifted sums do the same faster.
    """

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames
        half = width // 2
        conv = partial(nn.Conv3d, device="cpu")  # see CrossFrameBlock
        self.stadapt_down_1 = conv(width, half, kernel_size=1)
        self.stadapt_up_1 = conv(half, width, kernel_size=1)
        self.stadapt_conv3d_1 = conv(half, half, (3, 1, 1), padding="same", groups=half)
        nn.init.zeros_(self.stadapt_up_1.weight)
        nn.init.zeros_(self.stadapt_up_1.bias)

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, patches, D) -> (B·T, patches, D): what is added to the patch tokens."""
        x = F.linear(x, self.stadapt_down_1.weight.flatten(1), self.stadapt_down_1.bias)
        clips = F.pad(x.unflatten(0, (-1, self.num_frames)), (0, 0, 0, 0, 1, 1))
        before, at, after = self.stadapt_conv3d_1.weight.flatten(1).unbind(1)  # (D / 2,) each
        x = clips[:, :-2] * before + clips[:, 1:-1] * at + clips[:, 2:] * after
        x = (x + self.stadapt_conv3d_1.bias).flatten(0, 1)
        return F.linear(x, self.stadapt_up_1.weight.flatten(1), self.stadapt_up_1.bias)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        cls, patches = x[:, :1], x[:, 1:]
        return super().mix(torch.cat([cls, patches + self.adapt(patches).to(x.dtype)], dim=1))


TEMPORAL_TYPES: dict[str, Callable[..., nn.Module]] = {
    "expand_temporal_view": partial(ExpandedViewBlock, reach=1),
    "expand_temporal_view_step2": partial(ExpandedViewBlock, reach=2),
    "expand_temporal_view_step3": partial(ExpandedViewBlock, reach=3),
    "channel_shift": ChannelShiftBlock,
    "channel_shift_published": partial(ChannelShiftBlock, scrambled=True),
    "cross_frame_attend": CrossFrameBlock,
    "stadapt_zeroinit": AdapterBlock,
}


def temporal_block(temporal_type: str | None, num_frames: int) -> Callable[[int], nn.Module]:
    """Return what makes a block of the image tower from its width.

    Args:
        temporal_type: a name in ``TEMPORAL_TYPES``, or None for frames that do not see each other.
        num_frames: T, frames in a clip.

    Raises:
        ConfigError: the name is unknown.
    """
    if temporal_type is None:
        return ResidualAttentionBlock
    if temporal_type not in TEMPORAL_TYPES:
        raise ConfigError(
            f"MODEL.TEMPORAL_MODELING_TYPE {temporal_type!r} is unknown; use None or one of "
            f"{', '.join(TEMPORAL_TYPES)}"
        )
    return partial(TEMPORAL_TYPES[temporal_type], num_frames=num_frames)


def build_temporal_clip(
    state: Mapping[str, torch.Tensor],
    *,
    temporal_type: str | None = None,
    num_frames: int = 8,
    use_checkpoint: bool = False,
    where: str = "the state dict",
) -> CLIP:
    """Build a CLIP whose image tower runs on clips of ``num_frames`` frames.

    Args:
        state: OpenAI's names to tensors; an original CLIP, where the variant's own parameters
            keep their initial values, or one trained with the same variant.
        temporal_type, num_frames: see :func:`temporal_block`.
        use_checkpoint: activation checkpointing in the image tower.
        where: what to call ``state`` in errors.

    Raises:
        CheckpointError: names or shapes do not fit.
        ConfigError: unknown ``temporal_type``.
    """
    original = not any(is_adapter(name) for name in state)
    return CLIP.from_state_dict(
        state,
        vision_block=temporal_block(temporal_type, num_frames),
        use_checkpoint=use_checkpoint,
        allow_missing=is_adapter if original else None,
        where=where,
    )
