"""What test files have in common, whether the test was run or derived: names and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from openvclip.metrics.classification import compute_per_class_accuracy
from openvclip.report.writers import write_csv


def name_predictions(path: str | Path, ratio: float | None, several: bool) -> Path:
    """Return the file of one ratio's predictions: ``path``, or if ``several`` one per ratio."""
    path = Path(path)
    return path.with_name(f"{path.stem}_ratio{ratio:.2f}{path.suffix}") if several else path


def name_top1(ratio: float | None) -> str:
    """Return the heading of a patching ratio's column in ``per_class.csv``; None: not patched."""
    return "top1" if ratio is None else f"top1_ratio{ratio:g}"


def write_per_class(
    path: str | Path,
    class_names: Sequence[str],
    labels: Tensor,
    columns: Mapping[str, tuple[Tensor, Tensor]],
) -> None:
    """Write the number of videos and the top-1 accuracy (%) of every class.

    Args:
        path: the CSV file.
        class_names: names of the C classes.
        labels: (N,) class indices.
        columns: heading -> scores (N, C) and whether each video was evaluated, bool (N,). Videos
            that were not count as wrong.
    """
    totals = torch.bincount(labels, minlength=len(class_names))
    shares = []
    for scores, done in columns.values():
        _, right = compute_per_class_accuracy(scores[done], labels[done])
        shares.append((right.double() / totals.clamp(min=1) * 100).tolist())
    write_csv(
        path,
        ["index", "class", "videos", *columns],
        (
            [i, name, int(totals[i]), *(f"{share[i]:.2f}" for share in shares)]
            for i, name in enumerate(class_names)
        ),
    )
