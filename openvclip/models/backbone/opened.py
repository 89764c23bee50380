"""Opening the attention of other towers' blocks to temporal variants, in place.

A block keeps its parameters and their names. Its class becomes a subclass, made of the variant and
of an adapter for its kind: how the block projects its input to queries, keys and values (with
per-head normalisation and rotary positions), and what it does with the attention's result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from openvclip.models.layers import ResidualAttentionBlock, attend_heads
from openvclip.utils.errors import ConfigError


class OpenedBlock(ResidualAttentionBlock):
    """A block of another library as one of CLIP's: ``heads``, ``project``, ``join`` and ``mix``."""

    attn: Any
    rope: torch.Tensor | None = None

    def __init__(self, width: int) -> None:
        """Leave the block as it is: it exists already, with its weights."""

    @classmethod
    def why_closed(cls, block: Any) -> str | None:
        """Return what the block has that this adapter lacks, or None."""
        return None

    @property
    def heads(self) -> int:
        return self.attn.num_heads

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, dim=-1)
        return self.join(x, attend_heads(q, k, v, self.heads))

    def place(self, projected: torch.Tensor, q_norm: nn.Module, k_norm: nn.Module) -> torch.Tensor:
        """Normalise queries and keys (N, L, 3·D) by head, and rotate those of patches."""
        plain = isinstance(q_norm, nn.Identity) and isinstance(k_norm, nn.Identity)
        if self.rope is None and plain:
            return projected
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).unbind(-3)  # (N, L, heads, d)
        q, k = (self.rotate(norm(x)).type_as(v) for x, norm in ((q, q_norm), (k, k_norm)))
        return torch.stack([q, k, v], dim=-3).flatten(-3)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate (N, L, heads, d) by place; tokens before and after the patches have none."""
        if self.rope is None:
            return x
        from timm.layers import apply_rot_embed_cat

        x, start = x.transpose(1, 2), self.attn.num_prefix_tokens
        end = start + self.rope.shape[-2]
        turned = apply_rot_embed_cat(x[:, :, start:end], self.rope, half=self.attn.rotate_half)
        return torch.cat([x[:, :, :start], turned, x[:, :, end:]], dim=2).transpose(1, 2)


class OpenClipBlock(OpenedBlock):
    """open_clip's ``ResidualAttentionBlock``, whose attention is torch's."""

    ls_1: nn.Module
    ls_2: nn.Module

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.project_joined(self.ln_1(x))

    def project_joined(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, 3·D): the linear map."""
        return F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + self.ls_1(self.attn.out_proj(y))

    def forward(self, q_x, k_x=None, v_x=None, attn_mask=None):
        x = self.mix(q_x)
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class OpenClipCustomBlock(OpenClipBlock):
    """open_clip's ``CustomResidualAttentionBlock``, whose attention is open_clip's own."""

    ln_attn: nn.Module

    @classmethod
    def why_closed(cls, block: Any) -> str | None:
        return "scaled cosine attention" if block.attn.scaled_cosine else None

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.place(super().project(x), self.attn.ln_q, self.attn.ln_k)

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.attn.head_scale is not None:
            y = (y.unflatten(-1, (self.heads, -1)) * self.attn.head_scale.squeeze(-1)).flatten(-2)
        y = self.attn.out_drop(self.attn.out_proj(self.attn.ln_inner(y)))
        return x + self.ls_1(self.ln_attn(y))


class TimmBlock(OpenedBlock):
    """timm's ``Block`` with its ``Attention``."""

    norm1: nn.Module
    norm2: nn.Module
    ls1: nn.Module
    ls2: nn.Module
    drop_path1: nn.Module
    drop_path2: nn.Module

    @classmethod
    def why_closed(cls, block: Any) -> str | None:
        attn = block.attn
        if name_class(attn) not in ATTENTIONS:
            return f"the attention {name_class(attn)}"
        if getattr(attn, "gate", None) is not None:
            return "a gate on the attention's result"
        if getattr(attn, "num_kv_groups", 1) > 1:
            return "keys and values that several heads share"
        return None

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.place(project_timm(self.attn, self.norm1(x)), self.attn.q_norm,
                          self.attn.k_norm)

    def leave(self, y: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, D): the output projection."""
        return self.attn.proj_drop(self.attn.proj(self.attn.norm(y)))

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path1(self.ls1(self.leave(y)))

    def forward(self, x, attn_mask=None, is_causal=False, rope=None):
        x = self.mix(x)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class EvaBlock(TimmBlock):
    """timm's ``EvaBlock`` with ``EvaAttention`` or ``AttentionRope``."""

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = self.leave(y)
        return x + self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)

    def forward(self, x, attn_mask=None, is_causal=False, rope=None):
        self.rope = rope
        x = self.mix(x)
        self.rope = None
        y = self.mlp(self.norm2(x))
        return x + self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)


class EvaBlockPostNorm(TimmBlock):
    """timm's ``EvaBlockPostNorm``: what attention and MLP find is normalised, not their input."""

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.place(project_timm(self.attn, x), self.attn.q_norm, self.attn.k_norm)

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path1(self.norm1(self.leave(y)))

    def forward(self, x, attn_mask=None, is_causal=False, rope=None):
        self.rope = rope
        x = self.mix(x)
        self.rope = None
        return x + self.drop_path2(self.norm2(self.mlp(x)))


ADAPTERS: dict[str, type[OpenedBlock]] = {
    "open_clip.transformer:ResidualAttentionBlock": OpenClipBlock,
    "open_clip.transformer:CustomResidualAttentionBlock": OpenClipCustomBlock,
    "timm.models.vision_transformer:Block": TimmBlock,
    "timm.models.eva:EvaBlock": EvaBlock,
    "timm.models.eva:EvaBlockPostNorm": EvaBlockPostNorm,
}
ATTENTIONS = ("timm.layers.attention:Attention", "timm.layers.attention:AttentionRope",
              "timm.models.eva:EvaAttention")


def project_timm(attn: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, L, D) -> (N, L, 3·D) by timm's projections, joined or apart, with or without biases."""
    if attn.qkv is None:
        return torch.cat([attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)], dim=-1)
    if getattr(attn, "q_bias", None) is None:
        return attn.qkv(x)
    return F.linear(x, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))


def name_class(module: object) -> str:
    """Return such as ``timm.models.eva:EvaBlock``."""
    return f"{type(module).__module__}:{type(module).__qualname__}"


@cache
def _combine(variant: Any, adapter: Any, original: Any) -> Any:
    return type(f"{variant.__name__}{original.__name__}", (variant, adapter, original),
                {"__module__": variant.__module__})


@dataclass(frozen=True)
class View:
    """A temporal variant for clips of a number of frames: makes CLIP's blocks, opens others.

    Attributes:
        variant: a ``TemporalBlock``.
        num_frames: T, frames of a clip.
        edges: what lies past the ends of a clip, ``zeros`` or ``clamp``.
    """

    variant: Any
    num_frames: int
    edges: str = "zeros"

    def __call__(self, width: int) -> nn.Module:
        """Make a block of OpenAI's tower."""
        return self._prepare(self.variant(width, num_frames=self.num_frames), prefix=1)

    def open(self, blocks: Iterable[nn.Module], width: int, prefix: int, where: str) -> None:
        """Let the frames see each other in blocks of another tower, in place.

        Args:
            blocks: of the image tower.
            width: D, its channels.
            prefix: tokens before the patches'.
            where: what to call the tower in errors.

        Raises:
            ConfigError: there is no adapter for a block.
        """
        for block in blocks:
            adapter: Any = ADAPTERS.get(name_class(block))
            lacks = (f"its blocks are {name_class(block)}" if adapter is None
                     else adapter.why_closed(block))
            if adapter is None or lacks:
                raise ConfigError(
                    f"the frames of {where} cannot see each other: there is no adapter for "
                    f"{lacks}; use MODEL.MODEL_NAME BasicClipVideo, which takes frames alone"
                )
            original: Any = type(block)
            made = _combine(self.variant, adapter, original)
            block.__class__ = made
            made.__init__(block, width, num_frames=self.num_frames)
            self._prepare(block, prefix)

    def _prepare(self, block: Any, prefix: int) -> nn.Module:
        block.edges, block.prefix = self.edges, prefix
        return block
