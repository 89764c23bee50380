"""One training step: forward and backward of the plain and of the interpolated method.

The trainer's loop never asks which method runs: it calls the step, which leaves the gradients on
the parameters and says what was seen. Clipping and the optimizer belong to the trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvclip.engine.losses import Loss
from openvclip.interpolation import WeightInterpolator, draw_ratio


@dataclass
class StepResult:
    """What a step saw; tensors are detached.

    Attributes:
        loss: loss at the current weights, a mean over the batch.
        logits: logits at the current weights, (B, classes).
        connect_loss: loss at the mixed weights before ``LINEAR_CONNECT_LOSS_RATIO``, or None.
        ratio: share of CLIP in the mixture, or None.
    """

    loss: Tensor
    logits: Tensor
    connect_loss: Tensor | None = None
    ratio: float | None = None

    def is_finite(self) -> bool:
        """Whether both losses are finite."""
        losses = [x for x in (self.loss, self.connect_loss) if x is not None]
        return bool(torch.isfinite(torch.stack(losses)).all())


class PlainStep:
    """Fine-tuning: the loss at the current weights.

    Args:
        model: maps video (B, 3, T, H, W) to logits (B, classes); may be wrapped by DDP.
        loss: maps logits and labels to a scalar, a mean over the batch.
        autocast: makes the context of the forward passes (mixed precision).
        scaler: gradient scaler; a disabled one outside fp16.
        accumulate: number of parts that a batch is cut into to save memory. The gradient is that
            of the whole batch, whatever the number.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        autocast: Callable = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
    ) -> None:
        self.model = model
        self.loss = loss
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.accumulate = accumulate

    def __call__(self, video: Tensor, label: Tensor, step: int) -> StepResult:
        """Add the gradients of one batch to the parameters.

        Args:
            video: (B, 3, T, H, W).
            label: (B,) class indices or (B, classes) soft targets.
            step: number of the optimizer step since the beginning of training.
        """
        loss, logits = self._backward(video, label, weight=1.0, reduce=True)
        return StepResult(loss=loss, logits=logits)

    def _backward(
        self, video: Tensor, label: Tensor, *, weight: float, reduce: bool
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of ``weight * loss``, part by part.

        Processes exchange gradients once, in the last backward pass, and only if ``reduce``.
        """
        parts = list(zip(video.chunk(self.accumulate), label.chunk(self.accumulate), strict=True))
        total, logits = video.new_zeros((), dtype=torch.float32), []
        for i, (part, target) in enumerate(parts):
            exchange = reduce and i == len(parts) - 1
            with self._no_sync(not exchange):
                with self.autocast():
                    output = self.model(part)
                    loss = self.loss(output, target)
                share = len(part) / len(video)
                self.scaler.scale(loss * (weight * share)).backward()
            total += loss.detach() * share
            logits.append(output.detach().float())
        return total, torch.cat(logits)

    def _no_sync(self, enabled: bool):
        if enabled and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


class InterpolatedStep(PlainStep):
    """Interpolated training (Open-VCLIP, equation 5): also the loss at weights mixed with CLIP.

    Gradients: ``g = g_current + loss_ratio * g_mixed``. The chain rule's factor (1 - r) is
    cancelled by the paper's weight C / (1 - r) of the second term; ``chain_rule`` keeps it.

    Args:
        interpolator: mixes the parameters that train with the original CLIP.
        low: lower end of the range of r.
        high: upper end of the range of r.
        loss_ratio: weight of the loss at the mixed weights.
        seed: the run's seed, for drawing r.
        chain_rule: multiply the mixed gradient by (1 - r).
        rank: give it to let every process draw its own r.
        kwargs: as for :class:`PlainStep`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        interpolator: WeightInterpolator,
        *,
        low: float,
        high: float,
        loss_ratio: float,
        seed: int,
        chain_rule: bool = False,
        rank: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(model, loss, **kwargs)
        self.interpolator = interpolator
        self.low, self.high = low, high
        self.loss_ratio = loss_ratio
        self.seed = seed
        self.chain_rule = chain_rule
        self.rank = rank

    def __call__(self, video: Tensor, label: Tensor, step: int) -> StepResult:
        """As :meth:`PlainStep.__call__`, with the gradient at the mixed weights added."""
        ratio = draw_ratio(self.low, self.high, seed=self.seed, step=step, rank=self.rank)
        weight = self.loss_ratio * ((1.0 - ratio) if self.chain_rule else 1.0)
        with self.interpolator.mixed(ratio):
            # Not exchanged here: the second pass adds to these gradients and exchanges the sum.
            connect, _ = self._backward(video, label, weight=weight, reduce=False)
        loss, logits = self._backward(video, label, weight=1.0, reduce=True)
        return StepResult(loss=loss, logits=logits, connect_loss=connect, ratio=ratio)
