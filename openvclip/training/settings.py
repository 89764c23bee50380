"""Settings of a training run: schedule, batches, limits of the gradient, output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvclip.checkpoints.files import Keep
from openvclip.data.augment.mixup import Mixup
from openvclip.report.writers import TensorboardWriter
from openvclip.training.captions import CaptionSampler
from openvclip.training.objectives.objective import Captions


@dataclass(frozen=True)
class Schedule:
    """How long training lasts, and when it does what.

    Attributes:
        learning_rate: as a function of the exact epoch.
        max_epoch: total number of epochs.
        checkpoint_period, eval_period: in epochs; the last epoch always counts.
        log_period: in iterations; an epoch's last one has its own line.
        checkpoint_iters: iterations between states written within epochs; 0: none.
    """

    learning_rate: Callable[[float], float]
    max_epoch: int
    checkpoint_period: int = 1
    eval_period: int = 1
    log_period: int = 10
    checkpoint_iters: int = 0

    def due(self, epoch: int, period: int) -> bool:
        """Whether an action with this period is due after ``epoch``, counted from 0."""
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch


@dataclass(frozen=True)
class Clipping:
    """Limits of the gradient; None: no limit.

    Attributes:
        value: of each entry.
        norm: of the global L2 norm, used if ``value`` is None.
    """

    value: float | None = None
    norm: float | None = None

    def __call__(self, parameters: list[nn.Parameter]) -> float:
        """Limit the gradients and return their global L2 norm from before."""
        if self.value is not None:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grad_value_(parameters, self.value)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, self.norm or math.inf)
        return float(norm)


@dataclass(frozen=True)
class Batches:
    """Where the batches come from, and how they are changed.

    Attributes:
        loader: batches of ``video``, ``label``, ``index`` and ``bad``; None to only validate.
        mixup: mixes a batch, or None.
        captions: returns the captions of a batch's videos, or None.
        multi_label: labels are 0/1 vectors (B, C).
        max_bad_fraction: share of the rows that may fail to decode before the run stops.
        seed: the run's seed.
    """

    loader: Any
    mixup: Mixup | None = None
    captions: CaptionSampler | None = None
    multi_label: bool = False
    max_bad_fraction: float = 0.01
    seed: int = 0

    def load(
        self, batch: dict, device: torch.device, epoch: int, step: int
    ) -> tuple[Tensor, Tensor, Captions | None]:
        """Move a batch's videos, labels and captions to the device, and mix them."""
        video = batch["video"].to(device, non_blocking=True)
        label = batch["label"].to(device, non_blocking=True)
        if self.mixup is not None:
            # The same in every process, so that their number does not matter.
            rng = np.random.default_rng((self.seed % 2**64, step))
            video, label = self.mixup(video, label, rng)
        if self.captions is None:
            return video, label, None
        texts = self.captions(batch["index"], epoch)
        return video, label, Captions(*(part.to(device) for part in texts))


@dataclass(frozen=True)
class Output:
    """What a training run leaves behind.

    Attributes:
        folder: where log, checkpoints and statistics go.
        config: text of the resolved config, stored in checkpoints.
        train_videos: what they store of the training list, see
            :func:`openvclip.checkpoints.training_config.describe_videos`; or None.
        keep: which epoch checkpoints to keep when a newer one is written.
        writer: TensorBoard, or None.
    """

    folder: Path
    config: str = ""
    train_videos: Tensor | None = None
    keep: Keep = field(default_factory=Keep)
    writer: TensorboardWriter | None = None
