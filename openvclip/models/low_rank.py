"""Low-rank additions to weights that stay as they are (LoRA, Hu et al., arXiv 2106.09685).

A linear map computes ``x Wᵀ + scale (x Aᵀ) Bᵀ``, in two paths: neither ``W + scale B A`` nor a
gradient of its size is made. The state dict of the model has the sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.models.backbone.opened import ATTENTIONS, OpenClipBlock, name_class
from openvclip.models.layers import Attention
from openvclip.utils.errors import ConfigError

THIRDS = ("q", "k", "v")  # of a joined projection
TARGETS = (*THIRDS, "out", "c_fc", "c_proj")
# The module of a block that is a target, as CLIP's, open_clip's and timm's blocks call it.
MODULES = {
    "q": ("attn.q_proj",), "k": ("attn.k_proj",), "v": ("attn.v_proj",),
    "out": ("attn.out_proj", "attn.proj"),
    "c_fc": ("mlp.c_fc", "mlp.fc1"), "c_proj": ("mlp.c_proj", "mlp.fc2"),
}


class LowRankLinear(torch.autograd.Function):
    """``x Wᵀ + bias``, and ``scale (x A_iᵀ) B_iᵀ`` added to its columns from ``starts[i]`` on.

    Shapes: ``x`` (..., in), ``weight`` (out, in) and ``bias`` (out,), which get no gradient,
    ``down`` (n·r, in), the A_i one below another, ``up`` (n, rows, r), the B_i. The dtype is that
    of a linear map, under autocast as well.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor,
        scale: float, starts: tuple[int, ...],
    ) -> Tensor:
        y = F.linear(x, weight, bias)
        inner = x.flatten(0, -2).to(y.dtype) @ down.to(y.dtype).T  # (N, n·r)
        columns = y.view(-1, y.shape[-1])
        for start, part, factor in zip(starts, inner.chunk(len(starts), 1), up, strict=True):
            columns[:, start:start + len(factor)].addmm_(part, factor.to(y.dtype).T, alpha=scale)
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scale, ctx.starts = scale, starts
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, down, up = ctx.saved_tensors
        dtype, columns = grad.dtype, grad.flatten(0, -2)
        parts = [columns[:, start:start + up.shape[1]] for start in ctx.starts]
        grad_up = torch.stack([(part.T @ own) * ctx.scale for part, own in zip(
            parts, inner.chunk(len(parts), 1), strict=True)])
        grad_inner = torch.cat([(part @ factor.to(dtype)) * ctx.scale for part, factor in zip(
            parts, up, strict=True)], dim=1)  # (N, n·r)
        grad_down = grad_inner.T @ x.flatten(0, -2).to(dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = columns @ weight.to(dtype)
            grad_x = grad_x.addmm_(grad_inner, down.to(dtype)).view(x.shape).to(x.dtype)
        return grad_x, None, None, grad_down.to(down.dtype), grad_up.to(up.dtype), None, None


class LowRank(nn.Module):
    """The factors of what is added to one weight: to blocks of its rows, or to all of it.

    A begins as published code draws it, like the weight of a linear layer; B is zero, so that the
    addition begins at zero.

    Args:
        weight: (out, in), which does not train.
        rank: r, columns of each B.
        scale: factor of the product, alpha / r.
        starts: first row of each block.
        rows: of a block.
        generator: draws A.

    Attributes:
        down: (n·r, in), the A of each block, one below another.
        up: (n, rows, r), the B of each block.
    """

    def __init__(
        self, weight: nn.Parameter, rank: int, scale: float, starts: tuple[int, ...], rows: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.scale, self.starts, self.shape = scale, starts, tuple(weight.shape)
        n, width = len(starts), weight.shape[1]
        down = torch.empty(n * rank, width)
        down.uniform_(-width**-0.5, width**-0.5, generator=generator)
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(weight.new_zeros(n, rows, rank))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in) -> (..., out): the linear map of ``weight`` (out, in) with the addition."""
        return LowRankLinear.apply(x, weight, bias, self.down, self.up, self.scale, self.starts)

    @torch.no_grad()
    def addition(self) -> Tensor:
        """(out, in): what is added to the weight."""
        n, rows, _ = self.up.shape
        added = self.down.new_zeros(self.shape)
        downs = self.down.chunk(n)
        for start, factor, down in zip(self.starts, self.up, downs, strict=True):
            torch.matmul(factor, down, out=added[start:start + rows]).mul_(self.scale)
        return added


@dataclass(frozen=True)
class Linear:
    """A linear map of a block, of which a target is all, or a third.

    Attributes:
        holder: the module that has its weight and its bias.
        prefix: what precedes ``weight`` and ``bias`` in their names there.
        owner: the object that computes it.
        method: by which of its methods, which takes (..., in).
        joined: whether it is queries, keys and values, one below another.
    """

    holder: nn.Module
    prefix: str
    owner: Any
    method: str
    joined: bool = False

    @property
    def weight(self) -> nn.Parameter:
        """(out, in)."""
        return getattr(self.holder, f"{self.prefix}weight")

    def extend(self, added: LowRank) -> None:
        """Let it compute with what is added to its weight from here on."""
        holder, weight, bias = self.holder, f"{self.prefix}weight", f"{self.prefix}bias"
        # An attribute of the object comes before the method of its class.
        self.owner.__dict__[self.method] = lambda x: added(
            x, getattr(holder, weight), getattr(holder, bias))


def find_linear(block: nn.Module, target: str) -> Linear | None:
    """Find the linear map of a block that ``target`` is, or is a third of.

    None: it has none, or one that is computed where it cannot be extended.
    """
    attn: Any = getattr(block, "attn", None)
    opened = isinstance(block, OpenClipBlock)
    if target in THIRDS:
        if isinstance(attn, Attention):
            return Linear(attn, "in_proj_", attn, "project", joined=True)
        if opened:
            return Linear(attn, "in_proj_", block, "project_joined", joined=True)
        if name_class(attn) not in ATTENTIONS or getattr(attn, "q_bias", None) is not None:
            return None
        if attn.qkv is not None:
            return Linear(attn.qkv, "", attn.qkv, "forward", joined=True)
    # torch's attention takes the weight, and leaves the module that has it alone.
    elif target == "out" and isinstance(attn, nn.MultiheadAttention) and not opened:
        return None
    for name in MODULES[target]:
        module: Any = block
        for part in name.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.Linear):
            return Linear(module, "", module, "forward")
    return None


def add_low_rank(
    blocks: Iterable[nn.Module], names: Mapping[int, str], targets: Iterable[str], *, rank: int,
    scale: float, seed: int, where: str,
) -> dict[str, LowRank]:
    """Let blocks compute with additions to their weights.

    Args:
        blocks: of a tower.
        names: of all its parameters, by ``id``.
        targets: some of ``TARGETS``: queries, keys, values and output of the attention, and the two
            layers of the MLP.
        rank, scale: see :class:`LowRank`.
        seed: of what is drawn.
        where: what to call the tower in errors.

    Returns:
        By the names of the weights.

    Raises:
        ConfigError: a block has no such weight, or one that ``rank`` exceeds.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, LowRank] = {}
    for block in blocks:
        found: dict[int, tuple[Linear, list[int]]] = {}
        for target in (x for x in TARGETS if x in set(targets)):
            linear = find_linear(block, target)
            if linear is None:
                raise ConfigError(
                    f"TRAIN.LORA.TARGETS has {target!r}, but the blocks of {where} "
                    f"({name_class(block)}) have no such matrix that could be added to; leave it "
                    "out, or, if frames are taken alone, use MODEL.TEMPORAL_MODELING_TYPE "
                    "expand_temporal_view, which opens the attention")
            third = linear.weight.shape[0] // 3
            found.setdefault(id(linear.weight), (linear, []))[1].append(
                THIRDS.index(target) * third if linear.joined else 0)
        for linear, starts in found.values():
            weight = linear.weight
            rows, width = weight.shape[0] // (3 if linear.joined else 1), weight.shape[1]
            if rank > min(rows, width):
                raise ConfigError(f"TRAIN.LORA.RANK is {rank}, but the rank of a matrix of "
                                  f"{rows} x {width}, as in {names[id(weight)]}, is at most "
                                  f"{min(rows, width)}")
            added = LowRank(weight, rank, scale, tuple(starts), rows, generator)
            linear.extend(added)
            made[names[id(weight)]] = added
    return made
