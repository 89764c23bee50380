"""The loss that brings videos and their captions together, over the videos of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from openvclip.utils import distributed


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; the gradient of this process's own rows, times the processes.

    Each process computes the same loss from all rows, and DistributedDataParallel averages their
    gradients. So what reaches the weights through the rows of one process, which only it
    computes, must count as often as there are processes. Nothing is exchanged backwards.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        world, rank = distributed.world_size(), distributed.rank()
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
        dist.all_gather(counts, counts[0].new_tensor([len(rows)]))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[:len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        ctx.world, ctx.first, ctx.count = world, sum(sizes[:rank]), len(rows)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.first:ctx.first + ctx.count] * ctx.world


def gather_rows(rows: Tensor) -> Tensor:
    """(n, D) of this process -> (N, D) of all, in order of rank; n may differ between them.

    The gradient is exact if every process computes the same loss from the result and the
    processes' gradients are averaged.
    """
    return _GatherRows.apply(rows) if distributed.world_size() > 1 else rows


def sigmoid_pair_loss(video: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss over the pairs of all processes (arXiv 2303.15343).

    It is the sum over all pairs of a video and a text of -log sigmoid(z (scale cos + bias)), z = 1
    for partners and -1 for others, divided by the number of videos.

    Args:
        video, text, scale: see :func:`contrastive_loss`.
        bias: what is added to the scaled cosines, ``logit_bias``.

    Returns:
        As :func:`contrastive_loss`.
    """
    pairs = gather_rows(torch.cat([video, text], dim=1))
    video, text = pairs.chunk(2, dim=1)
    logits = scale * video @ text.T + bias  # (N, N)
    if len(logits) == 0:
        return logits.sum()
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def contrastive_loss(video: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric contrastive loss over the pairs of all processes (arXiv 2103.00020).

    It is the mean of two cross entropies: of each video against all texts, and of each text against
    all videos, with its own partner as the correct answer.

    Args:
        video: (n, D) embeddings of this process's videos, each of length 1; n may be 0.
        text: (n, D) embeddings of their captions, each of length 1.
        scale: the factor of the cosines, ``exp(logit_scale)``.

    Returns:
        The mean over all N pairs, the same in every process; 0 if there are none.
    """
    pairs = gather_rows(torch.cat([video, text], dim=1))
    video, text = pairs.chunk(2, dim=1)
    logits = scale * video @ text.T  # (N, N)
    if len(logits) == 0:
        return logits.sum()
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
