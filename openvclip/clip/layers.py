"""What both of CLIP's towers are made of: LayerNorm, QuickGELU, attention, the residual block."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


def num_heads(width: int) -> int:
    """Return CLIP's number of attention heads: one for every 64 channels, at least one.

    Raises:
        ValueError: ``width`` cannot be divided among that many heads.
    """
    heads = max(1, width // 64)
    if width % heads:
        raise ValueError(
            f"width {width} gives {heads} heads (one for every 64 channels), which do not divide "
            "it; use a multiple of 64, or a width under 128"
        )
    return heads


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in fp32 whatever the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the activation of OpenAI's weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The same by one fused operator, which keeps one tensor for the backward pass, not two.
        return F.silu(1.702 * x) / 1.702


class Attention(nn.Module):
    """Multi-head attention with the parameter names and initialisation of torch's own.

    ``project`` and ``attend`` are apart so that keys and values can be exchanged between frames
    after their projection (openvclip/models/temporal.py).
    """

    def __init__(self, width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.heads = num_heads(width)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, device=device))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width, device=device))
        self.out_proj = nn.Linear(width, width, device=device)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, L, D) -> queries, keys and values, each (N, L, D) with the heads side by side."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
    ) -> torch.Tensor:
        """Queries (N, L, D) attend to keys and values (N, S, D); returns (N, L, D)."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (N, heads, L, D / heads)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        return self.attend(*self.project(x), causal=causal)


class ResidualAttentionBlock(nn.Module):
    """One pre-norm transformer block: x += attention(ln_1(x)); x += mlp(ln_2(x)).

    The temporal variants override ``mix``, the part in which tokens see each other.
    """

    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.attn = Attention(width)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(
            c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width),
        ))
        self.ln_2 = LayerNorm(width)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, D): the attention half of the block, residual included."""
        return x + self.attn(self.ln_1(x), causal=self.causal)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(x)
        return x + self.mlp(self.ln_2(x))
