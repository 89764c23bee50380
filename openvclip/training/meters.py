"""Running means of a training run, its times, and what the live line shows of them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from openvclip.utils.live import Field
from openvclip.utils.logging import format_seconds
from openvclip.utils.memory import peak_gpu_memory, resident_memory


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


class IterationTimer:
    """Splits an iteration into waiting for data and computing, and predicts the end.

    Args:
        remaining: iterations left in the whole run when it is made.
    """

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

        Args:
            window: since the last call with True, rather than over the epoch.
        """
        total, data, clips = (
            mean.window() if window else mean.mean for mean in (self.total, self.data, self.clips)
        )
        return {
            "dt": total, "dt_data": data, "dt_net": total - data,
            "clips_per_s": clips / total if total else 0.0, "eta": self.eta(),
        }


def describe_iteration(
    where: tuple[str, str],
    means: Mapping[str, Mean],
    ratio: float | None,
    lr: float,
    timer: IterationTimer,
    device: torch.device,
) -> list[Field]:
    """What the live line shows for an iteration; means are since the last line of the log.

    Args:
        where: such as ``("3/22", "120/3750")``: epoch and iteration.
        means: running means of the epoch.
        ratio: share of CLIP that this iteration drew, or None.
        lr: learning rate.
        timer: the epoch's timer.
        device: where the model is.
    """
    total = max(timer.total.recent, 1e-9)
    clips = f"{timer.clips.recent / total:.1f}"
    wait = f"{timer.data.recent / total:.0%}"
    fields = [
        Field(f"epoch {where[0]} {where[1]}", f"{where[0]} {where[1]}"),
        Field(f"loss {means['loss'].recent:.3f}", f"loss {means['loss'].recent:.3f}", 1),
    ]
    if means["connect_loss"].count:
        connect = f"{means['connect_loss'].recent:.3f}"
        fields.append(Field(f"connect {connect}", f"con {connect}", 3))
    if means["caption_loss"].count:
        caption = f"{means['caption_loss'].recent:.3f}"
        fields.append(Field(f"captions {caption}", f"cap {caption}", 3))
    if ratio is not None:
        fields.append(Field(f"ratio {ratio:.2f}", f"r {ratio:.2f}", 7))
    fields += [
        Field(f"lr {lr:.1e}", f"lr {lr:.1e}", 6),
        Field(f"{clips} clips/s", f"{clips}/s", 4),
        Field(f"data wait {wait}", f"data {wait}", 5),
        Field(f"ETA {timer.eta()}", f"ETA {timer.eta()}", 2),
    ]
    cuda = device.type == "cuda"
    memory = f"{peak_gpu_memory(device) if cuda else resident_memory():.1f}G"
    return [*fields, Field(f"{'GPU' if cuda else 'RAM'} {memory}", memory, 8)]
