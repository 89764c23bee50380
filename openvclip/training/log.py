"""What training logs: running means of an epoch, and the lines that are made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvclip.metrics.classification import compute_topk_correct
from openvclip.report.writers import TensorboardWriter
from openvclip.training.meters import IterationTimer, Mean, describe_iteration
from openvclip.training.step import StepResult
from openvclip.utils import distributed, live
from openvclip.utils.logging import log_json_stats
from openvclip.utils.memory import memory_stats, peak_gpu_memory, resident_memory

# In the order of the log's lines; the losses of further objectives follow.
MEANS = ("loss", "connect_loss", "caption_loss", "connect_caption_loss", "grad_norm", "top1_err",
         "top5_err")
Means = dict[str, Mean]


def gather_means(means: Mapping[str, Mean]) -> dict[str, dict[str, float]]:
    """Sums and counts of running means over all processes, all of which must call this."""
    parts = distributed.all_gather_object({name: dict(vars(mean)) for name, mean in means.items()})
    return {name: {field: sum(part[name][field] for part in parts) for field in fields}
            for name, fields in parts[0].items()}


def restore_means(state: Mapping[str, Mapping[str, float]]) -> Means:
    """Running means from :func:`gather_means`; each process continues from an equal share."""
    means = {name: Mean() for name in dict.fromkeys((*MEANS, *state))}
    for name, fields in state.items():
        for field, value in fields.items():
            setattr(means[name], field, value / distributed.world_size())
    return means


class TrainingLog:
    """Keeps the means of an epoch and writes its lines and TensorBoard's events.

    Args:
        output_dir: where the statistics go.
        max_epoch: total number of epochs.
        device: where the model is.
        multi_label: labels are 0/1 vectors (B, C), for which there is no top-1 error.
        writer: TensorBoard, or None.
    """

    def __init__(
        self, output_dir: Path, max_epoch: int, device: torch.device, *, multi_label: bool,
        writer: TensorboardWriter | None,
    ) -> None:
        self.output_dir, self.max_epoch, self.device = output_dir, max_epoch, device
        self.multi_label, self.writer = multi_label, writer
        self.means = restore_means({})

    def add(self, result: StepResult, label: Tensor, norm: float) -> None:
        """Add the results of a step over the videos of ``label``, and the norm of its gradient."""
        count = len(label)
        for name, loss in result.losses().items():
            self.means.setdefault(name, Mean()).add(float(loss), count)
        if math.isfinite(norm):
            self.means["grad_norm"].add(norm, count)
        if not self.multi_label:
            hits = compute_topk_correct(result.logits, label).double().mean(dim=1)
            for name, hit in zip(("top1_err", "top5_err"), hits.tolist(), strict=True):
                self.means[name].add(100.0 - 100.0 * hit, count)

    def show_iteration(
        self, place: tuple[int, int, int], ratio: float | None, lr: float, timer: IterationTimer
    ) -> None:
        """Show on a terminal where training is: epoch, iteration (from 0), iterations."""
        if (line := live.current()) is not None:
            epoch, i, iterations = place
            where = f"{epoch + 1}/{self.max_epoch}", f"{i + 1}/{iterations}"
            line.show(describe_iteration(where, self.means, ratio, lr, timer, self.device))

    def write_iteration(
        self, place: tuple[int, int, int], ratio: float | None, lr: float, timer: IterationTimer,
        skipped_steps: int,
    ) -> None:
        """Log an iteration: the means since the last logged one."""
        epoch, i, iterations = place
        stats: dict[str, Any] = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "iter": f"{i + 1}/{iterations}",
            **{name: mean.window() for name, mean in self.means.items() if mean.count},
        }
        if ratio is not None:
            stats["ratio"] = ratio
        if skipped_steps:
            stats["skipped_steps"] = skipped_steps
        stats.update(lr=lr, **timer.stats(window=True), **memory_stats(self.device))
        if distributed.is_main():
            log_json_stats(stats, self.output_dir, terminal=live.current() is None)
        if self.writer is not None:
            memory = {"RAM_GiB": resident_memory()}
            if self.device.type == "cuda":
                memory["gpu_mem_GiB"] = peak_gpu_memory(self.device)
            self.writer.add_scalars("Train", {**stats, **memory}, epoch * iterations + i)

    def write_epoch(self, epoch: int, lr: float, timer: IterationTimer) -> None:
        """Log the epoch's means over all processes, all of which must call this."""
        present = [name for name, mean in self.means.items() if mean.count]
        sums = distributed.all_reduce_sum(
            [x for name in present for x in (self.means[name].total, self.means[name].count)],
            self.device,
        )
        stats = {
            "_type": "train_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            **{name: sums[2 * j] / sums[2 * j + 1] for j, name in enumerate(present)},
            "lr": lr,
            **timer.stats(window=False),
            **memory_stats(self.device),
        }
        if distributed.is_main():
            log_json_stats(stats, self.output_dir)
        if self.writer is not None:
            self.writer.add_scalars("Epoch", stats, epoch)
