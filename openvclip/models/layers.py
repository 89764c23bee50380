"""The parts of both of CLIP's towers: LayerNorm, QuickGELU, attention, the residual block."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from openvclip.clip.sizes import num_heads


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """Return fp16 and bf16 as fp32, anything wider unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in fp32 (or float64) whatever the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        y = F.layer_norm(at_least_fp32(x), self.normalized_shape, weight, bias, self.eps)
        return y.to(x.dtype)


class ScaledSiLU(torch.autograd.Function):
    """silu(c x) / c; its derivative is that of silu at c x, so that backward is one operator."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, c: float) -> torch.Tensor:
        scaled = c * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(c)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors), None


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the activation of OpenAI's weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ScaledSiLU.apply(x, 1.702)


class ProductAttention(torch.autograd.Function):
    """Fused attention whose backward pass is written out as products of matrices.

    For bf16 and fp16 on a CPU, where torch's fused backward pass does not use the units that
    multiply such matrices. Scores are recomputed, for one index of the first dimension at a time.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = ctx.saved_tensors
        grad, scale = grad.contiguous(), q.shape[-1] ** -0.5
        queries = (q * scale).contiguous()
        grad_q, grad_k, grad_v = [x.new_empty(x.shape) for x in (q, k, v)]
        for i in range(len(q)):
            weights = torch.softmax(queries[i] @ k[i].mT, dim=-1)  # (M, L, S)
            torch.matmul(weights.mT, grad[i], out=grad_v[i])
            scores = torch._softmax_backward_data(grad[i] @ v[i].mT, weights, -1, q.dtype)
            torch.matmul(scores, k[i], out=grad_q[i])
            torch.matmul(scores.mT, queries[i], out=grad_k[i])
        return grad_q * scale, grad_k, grad_v


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
) -> torch.Tensor:
    """softmax(q kᵀ / √d) v, the fastest way for device and dtype; scores are never stored whole.

    Args:
        q: (N, M, L, d).
        k, v: (N, M, S, d).
        causal: a query sees the keys up to its own position.

    Returns:
        (N, M, L, d).
    """
    half_on_cpu = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    if half_on_cpu and not causal and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return ProductAttention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def attend_heads(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool = False
) -> torch.Tensor:
    """Attention of queries (N, L, D) to keys and values (N, S, D), whose heads are side by side."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    x = attention(q, k, v, causal)  # (N, heads, L, D / heads)
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention with the parameter names and initialisation of torch's own.

    ``project`` and ``attend`` are separate so that keys and values can be exchanged between frames
    after their projection (openvclip/models/temporal).
    """

    def __init__(self, width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.heads = num_heads(width)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, device=device))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width, device=device))
        self.out_proj = nn.Linear(width, width, device=device)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, 3·D): queries, keys and values, in each the heads side by side."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
    ) -> torch.Tensor:
        """Queries (N, L, D) attend to keys and values (N, S, D); returns (N, L, D)."""
        return self.out_proj(attend_heads(q, k, v, self.heads, causal))

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, dim=-1)
        return self.attend(q, k, v, causal=causal)


class ResidualAttentionBlock(nn.Module):
    """One pre-norm transformer block: x += attention(ln_1(x)); x += mlp(ln_2(x)).

    The temporal variants override ``mix``, the part in which tokens see each other. They reach the
    attention through ``heads``, ``project`` and ``join`` only, which the blocks of other towers
    have as well (openvclip/models/backbone/opened.py).
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

    @property
    def heads(self) -> int:
        """Heads of the attention."""
        return self.attn.heads

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, 3·D): the queries, keys and values of a block's input.

        In each the heads are side by side, as they enter the product of queries and keys: after
        normalisation and rotation, where a tower has these.
        """
        return self.attn.project(self.ln_1(x))

    def join(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add to a block's input ``x`` (N, L, D) what its attention found, ``y`` (N, L, D)."""
        return x + self.attn.out_proj(y)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, D): the attention half of the block, residual included."""
        return x + self.attn(self.ln_1(x), causal=self.causal)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(x)
        return x + self.mlp(self.ln_2(x))
