"""What training logs: running means of an epoch, its times, and the lines made from them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvclip.metrics.classification import compute_topk_correct
from openvclip.report.writers import TensorboardWriter
from openvclip.training.step import StepResult
from openvclip.utils import distributed, live
from openvclip.utils.logging import format_seconds, log_json_stats
from openvclip.utils.memory import memory_stats, peak_gpu_memory, resident_memory

# In the order of the log's lines; the losses of further objectives follow.
MEANS = ("loss", "connect_loss", "caption_loss", "connect_caption_loss", "grad_norm", "top1_err",
         "top5_err")
LOSS, ENDING = "loss", "_loss"


class Mean:
    """Weighted mean over all values added, and over those added since the last ``window``."""

    def __init__(self) -> None:
        self.total = self.count = 0.0
        self._total = self._count = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add ``value``, which counts for ``weight`` samples."""
        self.total += value * weight
        self.count += weight
        self._total += value * weight
        self._count += weight

    @property
    def mean(self) -> float:
        """Mean over everything; 0 before anything was added."""
        return self.total / self.count if self.count else 0.0

    @property
    def recent(self) -> float:
        """Mean since the last ``window``, or over everything if nothing was added since."""
        return self._total / self._count if self._count else self.mean

    def window(self) -> float:
        """Return :attr:`recent` and start a new window."""
        value = self.recent
        self._total = self._count = 0.0
        return value


def list_loss_fields(means: Mapping[str, Mean]) -> list[live.Field]:
    """Return every loss that has occurred, for the live line: that of classification first.

    What there is no room for is left out from the last one on, but never the first.
    """
    names = [name for name, mean in means.items()
             if name == LOSS or (name.endswith(ENDING) and mean.count)]
    fields = []
    for place, name in enumerate(sorted(names, key=lambda name: name != LOSS)):
        value = f"{means[name].recent:.3f}"
        words = name.removesuffix(ENDING).split("_")
        short = "-".join(word if name == LOSS else word[:3] for word in words)
        # Ranks from 3 to 4, where clips per second are; the first of all is the last to go.
        rank = 1 if name == LOSS else 3 + place / (len(names) + 1)
        fields.append(live.Field(f"{' '.join(words)} {value}", f"{short} {value}", rank))
    return fields


class IterationTimer:
    """Splits iterations into waiting for data and computing; predicts the end of ``remaining``."""

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self.data, self.total, self.clips = Mean(), Mean(), Mean()
        self._start = time.perf_counter()

    def data_ready(self) -> None:
        """The batch has arrived."""
        self.data.add(time.perf_counter() - self._start)

    def iteration_done(self, clips: int) -> None:
        """The step over ``clips`` clips is over; the wait for the next batch begins."""
        now = time.perf_counter()
        self.total.add(now - self._start)
        self.clips.add(clips)
        self.remaining -= 1
        self._start = now

    def eta(self) -> str:
        """Time left in the run at the mean pace so far."""
        return format_seconds(self.remaining * self.total.mean)

    def stats(self, *, window: bool) -> dict[str, float | str]:
        """The log's times, under PySlowFast's names; seconds are per iteration.

        With ``window`` they are since the last such call, rather than over the epoch.
        """
        total, data, clips = (
            mean.window() if window else mean.mean for mean in (self.total, self.data, self.clips)
        )
        return {
            "dt": total, "dt_data": data, "dt_net": total - data,
            "clips_per_s": clips / total if total else 0.0, "eta": self.eta(),
        }


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
        for part, value in fields.items():
            setattr(means[name], part, value / distributed.world_size())
    return means


@dataclass(eq=False)
class TrainingLog:
    """Keeps the means of an epoch and writes its lines and TensorBoard's events.

    With ``multi_label`` labels are 0/1 vectors (B, C), for which there is no top-1 error.
    """

    output_dir: Path
    max_epoch: int
    device: torch.device
    multi_label: bool
    writer: TensorboardWriter | None
    means: Means = field(default_factory=lambda: restore_means({}))

    def add(self, result: StepResult, label: Tensor, norm: float) -> None:
        """Add the results of a step over the videos of ``label``, and the norm of its gradient."""
        count = len(label)
        for name, number in {**result.losses(), **result.facts}.items():
            self.means.setdefault(name, Mean()).add(float(number), count)
        if math.isfinite(norm):
            self.means["grad_norm"].add(norm, count)
        if not self.multi_label:
            hits = compute_topk_correct(result.logits, label).double().mean(dim=1)
            for name, hit in zip(("top1_err", "top5_err"), hits.tolist(), strict=True):
                self.means[name].add(100.0 - 100.0 * hit, count)

    def show_iteration(
        self, place: tuple[int, int, int], ratio: float | None, lr: float, timer: IterationTimer
    ) -> None:
        """Show on a terminal where training is: epoch, iteration (from 0), iterations.

        Means are since the last line of the log.
        """
        line = live.current()
        if line is None:
            return
        epoch, i, iterations = place
        where = f"{epoch + 1}/{self.max_epoch} {i + 1}/{iterations}"
        total = max(timer.total.recent, 1e-9)
        clips, wait = f"{timer.clips.recent / total:.1f}", f"{timer.data.recent / total:.0%}"
        cuda = self.device.type == "cuda"
        memory = f"{peak_gpu_memory(self.device) if cuda else resident_memory():.1f}G"
        fields = [live.Field(f"epoch {where}", where)]
        fields += list_loss_fields(self.means)
        if ratio is not None:
            fields.append(live.Field(f"ratio {ratio:.2f}", f"r {ratio:.2f}", 7))
        line.show([
            *fields,
            live.Field(f"lr {lr:.1e}", f"lr {lr:.1e}", 6),
            live.Field(f"{clips} clips/s", f"{clips}/s", 4),
            live.Field(f"data wait {wait}", f"data {wait}", 5),
            live.Field(f"ETA {timer.eta()}", f"ETA {timer.eta()}", 2),
            live.Field(f"{'GPU' if cuda else 'RAM'} {memory}", memory, 8),
        ])

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
