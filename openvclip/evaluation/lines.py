"""Lines of ``stdout.log`` while a list is validated or tested, as PySlowFast writes them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvclip.metrics.classification import compute_accuracy
from openvclip.utils import distributed
from openvclip.utils.logging import format_seconds, log_json_stats
from openvclip.utils.memory import memory_stats


@dataclass(eq=False)
class EvaluationLines:
    """Writes a line every few batches.

    Args:
        kind: ``val_iter`` or ``test_iter``.
        period: batches from one line to the next.
        device: where the model is.
        epoch: such as ``"2/22"``, for ``val_iter``.
        labels: int64 (N,) of the whole list, for the errors of ``val_iter``; None: without errors.
    """

    kind: str
    period: int
    device: torch.device
    epoch: str = ""
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        self.start(0)

    def start(self, videos: int) -> None:
        """Start a pass over ``videos`` rows in this process."""
        self.videos, self.videos_done, self.done = videos, 0, 0
        self.started = time.monotonic()
        self._rows: list[int] = []

    @property
    def seconds(self) -> float:
        """Mean seconds per batch so far."""
        return (time.monotonic() - self.started) / max(self.done, 1)

    @property
    def iterations(self) -> int:
        """Batches of this process, estimated from those so far."""
        return math.ceil(self.done * max(self.videos / max(self.videos_done, 1), 1))

    def batch_done(self, rows: Tensor, bad: int, scores: Tensor) -> None:
        """Count a batch of which ``rows`` (M,) were scored and ``bad`` more could not be.

        Writes a line if one is due. ``scores`` (N, C) are those of the list so far.
        """
        self.done += 1
        scored = rows.unique().tolist()
        self.videos_done += len(scored) + bad
        self._rows += scored
        if self.done % self.period:
            return
        rows_seen, self._rows = self._rows, []
        if distributed.is_main():
            log_json_stats(self._stats(rows_seen, scores), terminal=False)

    def _stats(self, rows: list[int], scores: Tensor) -> dict[str, Any]:
        left = format_seconds(self.seconds * (self.iterations - self.done))
        times = {"eta": left, "time_diff": self.seconds}
        if self.kind == "test_iter":
            return {"_type": self.kind, "split": self.kind, "cur_iter": str(self.done), **times}
        stats: dict[str, Any] = {"_type": self.kind, "epoch": self.epoch,
                 "iter": f"{self.done}/{self.iterations}", **times, **memory_stats(self.device)}
        if self.labels is not None and rows:
            accuracies = compute_accuracy(scores[rows], self.labels[rows])
            stats.update({f"top{k}_err": 100.0 - accuracy
                          for k, accuracy in zip((1, 5), accuracies, strict=True)})
        return stats
