"""Accuracies on cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from openvclip.metrics.classification import (
    compute_accuracy,
    compute_confusion,
    compute_mean_average_precision,
    compute_per_class_accuracy,
)

LOGITS = torch.tensor([[9.0, 1, 2], [1, 9, 8], [3, 2, 1], [0, 1, 2]])
LABELS = torch.tensor([0, 2, 2, 2])


def test_topk_with_fewer_classes_than_k():
    assert compute_accuracy(LOGITS, LABELS, (1, 2, 5)) == [50.0, 75.0, 100.0]
    assert compute_accuracy(LOGITS[:0], LABELS[:0]) == [0.0, 0.0]


def test_soft_labels_count_by_their_largest_entry():
    soft = torch.nn.functional.one_hot(LABELS, 3) * 0.6 + 0.1
    assert compute_accuracy(LOGITS, soft, (1,)) == [50.0]


def test_per_class_and_confusion():
    total, right = compute_per_class_accuracy(LOGITS, LABELS)
    assert total.tolist() == [1, 0, 3]
    assert right.tolist() == [1, 0, 1]
    assert compute_confusion(LOGITS, LABELS).tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]


def test_mean_average_precision():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    targets = torch.tensor([[1, 0], [0, 0], [1, 0]])
    # First class: positives at ranks 1 and 3 -> (1/1 + 2/3) / 2; the second has none.
    assert compute_mean_average_precision(scores, targets) == pytest.approx(100 * 5 / 6)
    assert compute_mean_average_precision(scores, torch.zeros(3, 2)) == 0.0
