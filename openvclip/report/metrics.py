"""Accuracies from logits and labels (pure functions)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_topk_correct(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Whether the label is among the k highest logits.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) soft targets, whose largest entry is the class.
        ks: which k; one larger than C counts as C.

    Returns:
        bool (len(ks), N).
    """
    if labels.dim() == 2:
        labels = labels.argmax(dim=1)
    largest = min(max(ks), logits.shape[1])
    top = logits.topk(largest, dim=1).indices
    hit = top == labels[:, None]
    return torch.stack([hit[:, : min(k, largest)].any(dim=1) for k in ks])


def compute_accuracy(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> list[float]:
    """Top-k accuracies in percent; 0 where there is nothing to count."""
    if len(labels) == 0:
        return [0.0 for _ in ks]
    return (compute_topk_correct(logits, labels, ks).double().mean(dim=1) * 100).tolist()


def compute_scores(scores: Tensor, labels: Tensor, done: Tensor) -> dict[str, float]:
    """Accuracies of a test in percent; videos that failed count as wrong in the headline numbers.

    Args:
        scores: (N, C); undefined where ``done`` is False.
        labels: (N,) class indices.
        done: bool (N,), False for videos that could not be evaluated.

    Returns:
        ``top1`` and ``top5`` over all N videos, ``top1_decoded`` and ``top5_decoded`` over those
        that were evaluated.
    """
    top1, top5 = compute_accuracy(scores[done], labels[done])
    share = float(done.double().mean())
    return {
        "top1": top1 * share,
        "top5": top5 * share,
        "top1_decoded": top1,
        "top5_decoded": top5,
    }


def compute_per_class_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number of videos and of right top-1 answers of each class, both int64 (C,)."""
    classes = logits.shape[1]
    hit = compute_topk_correct(logits, labels, (1,))[0]
    return (
        torch.bincount(labels, minlength=classes),
        torch.bincount(labels[hit], minlength=classes),
    )


def compute_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts of (label, answer), int64 (C, C)."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def compute_mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean over classes of average precision, in percent (for multi-label data).

    Average precision of a class is the mean, over its positive items, of the precision at each
    item's place in the ranking by score. Classes without a positive item are left out.

    Args:
        scores: (N, C).
        targets: (N, C) of 0 and 1.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    ranked = targets.double().gather(0, order)
    place = torch.arange(1, len(ranked) + 1, dtype=torch.float64, device=ranked.device)[:, None]
    precision = ranked.cumsum(dim=0) / place
    positives = ranked.sum(dim=0)
    present = positives > 0
    if not bool(present.any()):
        return 0.0
    average = (precision * ranked).sum(dim=0)[present] / positives[present]
    return float(average.mean() * 100)
