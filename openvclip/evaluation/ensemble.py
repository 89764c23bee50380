"""Running means of a training run, and the ensemble of a video's views."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psutil
import torch
from torch import Tensor

from openvclip.utils.errors import ConfigError
from openvclip.utils.live import Field
from openvclip.utils.logging import format_seconds


class Mean:
    """Weighted mean over everything added, and over what was added since the last ``window``."""

    def __init__(self) -> None:
        self.total = self.count = 0.0
        self._total = self._count = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add ``value`` that stands for ``weight`` samples."""
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
        """Mean since the last ``window``, or over everything if nothing came since."""
        return self._total / self._count if self._count else self.mean

    def window(self) -> float:
        """Return :attr:`recent` and begin anew."""
        value = self.recent
        self._total = self._count = 0.0
        return value


class IterationTimer:
    """Splits an iteration into waiting for data and computing, and foretells the end.

    Args:
        remaining: iterations left in the whole run when it is made.
    """

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self.data, self.total, self.clips = Mean(), Mean(), Mean()
        self._start = time.perf_counter()

    def data_ready(self) -> None:
        """The batch has come."""
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
        """What the log says of time, under PySlowFast's names; seconds are of one iteration.

        Args:
            window: since the last time that this was asked with True, rather than of the epoch.
        """
        total, data, clips = (
            mean.window() if window else mean.mean for mean in (self.total, self.data, self.clips)
        )
        return {
            "dt": total, "dt_data": data, "dt_net": total - data,
            "clips_per_s": clips / total if total else 0.0, "eta": self.eta(),
        }


def resident_memory() -> float:
    """Memory that this process holds, in GiB."""
    return psutil.Process().memory_info().rss / 2**30


def peak_gpu_memory(device: torch.device) -> float:
    """The most that this process has held on its GPU, in GiB."""
    return torch.cuda.max_memory_allocated(device) / 2**30


def memory_stats(device: torch.device) -> dict[str, str]:
    """Peak GPU memory and this process's resident memory, as PySlowFast's log names them."""
    total = psutil.virtual_memory().total / 2**30
    stats = {"RAM": f"{resident_memory():.2f}/{total:.2f}G"}
    if device.type == "cuda":
        stats["gpu_mem"] = f"{peak_gpu_memory(device):.2f}G"
    return stats


def describe_iteration(
    where: tuple[str, str],
    means: Mapping[str, Mean],
    ratio: float | None,
    lr: float,
    timer: IterationTimer,
    device: torch.device,
) -> list[Field]:
    """What the live line says of an iteration; means are since the last line of the log.

    Args:
        where: such as ``("3/22", "120/3750")``: epoch and iteration.
        means: running means of the epoch.
        ratio: share of CLIP that this iteration drew, or None.
        lr: learning rate.
        timer: of the epoch.
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


class ViewEnsemble:
    """Combines the logits of a video's clips into one prediction.

    Every clip counts once; a clip given again is an error, since it would weigh double.

    Args:
        num_videos: number of videos N.
        num_classes: number of classes C.
        num_clips: clips of a video (views x crops).
        method: ``sum`` adds logits; ``max`` takes their maximum.
    """

    def __init__(self, num_videos: int, num_classes: int, num_clips: int, method: str) -> None:
        if method not in ("sum", "max"):
            raise ConfigError(f"DATA.ENSEMBLE_METHOD is {method!r}; it must be sum or max")
        self.method = method
        start = 0.0 if method == "sum" else -torch.inf
        self.scores = torch.full((num_videos, num_classes), start, dtype=torch.float32)
        self.seen = torch.zeros(num_videos, num_clips, dtype=torch.bool)

    def add(self, logits: Tensor, videos: Tensor, clips: Tensor) -> None:
        """Add logits (M, C) of clips (M,) of videos (M,), all by index.

        Clips of a video are added in the order of their index, so that the sum does not depend on
        how they were batched.
        """
        logits = logits.detach().float().cpu()
        order = sorted(range(len(videos)), key=lambda i: (int(videos[i]), int(clips[i])))
        for i in order:
            video, clip = int(videos[i]), int(clips[i])
            if self.seen[video, clip]:
                raise ValueError(f"clip {clip} of video {video} was evaluated twice")
            self.seen[video, clip] = True
            if self.method == "sum":
                self.scores[video] += logits[i]
            else:
                torch.maximum(self.scores[video], logits[i], out=self.scores[video])

    def restore(self, videos: Sequence[int], scores: Tensor) -> None:
        """Take finished scores (M, C) of videos (M,), all of whose clips were added elsewhere."""
        rows = torch.tensor(videos, dtype=torch.int64)
        if self.seen[rows].any():
            raise ValueError(f"one of the videos {list(videos)} was evaluated twice")
        self.seen[rows] = True
        self.scores[rows] = scores

    @property
    def complete(self) -> Tensor:
        """bool (N,): videos of which every clip was added."""
        return self.seen.all(dim=1)
