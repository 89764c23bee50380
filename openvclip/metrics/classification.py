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
        ks: the values of k; a value above C counts as C.

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
    """Top-k accuracies in per cent; 0 if there is nothing to count."""
    if len(labels) == 0:
        return [0.0 for _ in ks]
    return (compute_topk_correct(logits, labels, ks).double().mean(dim=1) * 100).tolist()


def compute_scores(scores: Tensor, labels: Tensor, done: Tensor) -> dict[str, float]:
    """Accuracies of a test in per cent; failed videos count as wrong in the headline numbers.

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
    return {"top1": top1 * share, "top5": top5 * share, "top1_decoded": top1, "top5_decoded": top5}


def compute_per_class_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number of videos and of correct top-1 answers per class, both int64 (C,)."""
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


def compute_confusion_pairs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (label, answer, count) for each pair that occurs, int64 (K, 3), in that order.

    The same counts as :func:`compute_confusion`, small however many classes there are.
    """
    classes = logits.shape[1]
    pairs, counts = torch.unique(labels * classes + logits.argmax(dim=1), return_counts=True)
    return torch.stack([pairs // classes, pairs % classes, counts], dim=1)


def rank_mistakes(
    scores: Tensor, labels: Tensor, done: Tensor, limit: int, clips: int = 1
) -> list[tuple[int, int, float]]:
    """Find the wrong answers that the model is most confident of.

    Args:
        scores: (N, C); undefined where ``done`` is False.
        labels: (N,) class indices.
        done: bool (N,), False for videos that could not be evaluated.
        limit: the most to return.
        clips: how many logits were added in a score; the confidence is that of their mean.

    Returns:
        (row, answer, confidence in 0..1), most confident first; ties by row.
    """
    answers = scores.argmax(dim=1)
    rows = (done & (answers != labels)).nonzero().flatten()
    confidence = (scores[rows] / clips).softmax(dim=1).amax(dim=1).nan_to_num()
    best = confidence.argsort(descending=True, stable=True)[:limit]
    return list(zip(rows[best].tolist(), answers[rows[best]].tolist(), confidence[best].tolist(),
                    strict=True))


def compute_average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, float64 (C,) in 0..1 (for multi-label data).

    It is the mean, over a class's positive items, of the precision at each item's rank in the
    ranking by score; NaN for a class without a positive item.

    Args:
        scores: (N, C).
        targets: (N, C) of 0 and 1.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    ranked = targets.double().gather(0, order)
    place = torch.arange(1, len(ranked) + 1, dtype=torch.float64, device=ranked.device)[:, None]
    precision = ranked.cumsum(dim=0) / place
    return (precision * ranked).sum(dim=0) / ranked.sum(dim=0)


def compute_mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean of :func:`compute_average_precision` in per cent, over classes with positive items."""
    average = compute_average_precision(scores, targets)
    present = ~average.isnan()
    return float(average[present].mean() * 100) if bool(present.any()) else 0.0
