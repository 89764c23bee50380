"""One training step: forward and backward of the plain and of the interpolated method.

The trainer's loop never asks which method runs: it calls the step, which leaves the gradients on
the parameters and says what was seen. Clipping and the optimizer belong to the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.checkpoints.loading import unwrap
from openvclip.interpolation import WeightInterpolator, draw_ratio
from openvclip.training.objectives.contrastive import Pull, compute_pulls, contrastive_loss, pull
from openvclip.training.objectives.losses import Loss


@dataclass
class StepResult:
    """What a step saw; tensors are detached.

    Attributes:
        loss: classification loss at the current weights, a mean over the batch.
        logits: logits at the current weights, (B, classes).
        connect_loss: the same at the mixed weights before ``LINEAR_CONNECT_LOSS_RATIO``, or None.
        ratio: share of CLIP in the mixture, or None.
        caption_loss: contrastive loss of videos and captions before ``CAPTION.LOSS_RATIO``, over
            all processes, at the current weights, or None.
        connect_caption_loss: the same at the mixed weights, or None.
    """

    loss: Tensor
    logits: Tensor
    connect_loss: Tensor | None = None
    ratio: float | None = None
    caption_loss: Tensor | None = None
    connect_caption_loss: Tensor | None = None

    def losses(self) -> dict[str, Tensor]:
        """The losses that there are, by name."""
        names = ("loss", "connect_loss", "caption_loss", "connect_caption_loss")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def is_finite(self) -> bool:
        """Whether all losses are finite."""
        return bool(torch.isfinite(torch.stack(list(self.losses().values()))).all())


class Captions(NamedTuple):
    """Captions of a batch.

    Attributes:
        tokens: int64 (n, columns) token ids; n may be 0.
        videos: int64 (n,) which video of the batch each belongs to.
    """

    tokens: Tensor
    videos: Tensor


class PlainStep:
    """Fine-tuning: the loss at the current weights.

    Args:
        model: maps video (B, 3, T, H, W) to logits (B, classes); may be wrapped by DDP.
        loss: maps logits and labels to a scalar, a mean over the batch.
        autocast: makes the context of the forward passes (mixed precision).
        scaler: gradient scaler; a disabled one outside fp16.
        accumulate: number of parts that a batch is cut into to save memory. The gradient is that
            of the whole batch, whatever the number. With captions the parts run forward twice.
        caption_ratio: weight of the contrastive loss of a batch that comes with captions.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        autocast: Callable = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
        caption_ratio: float = 1.0,
    ) -> None:
        self.model = model
        self.loss = loss
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.accumulate = accumulate
        self.caption_ratio = caption_ratio

    def __call__(
        self, video: Tensor, label: Tensor, step: int, captions: Captions | None = None
    ) -> StepResult:
        """Add the gradients of one batch to the parameters.

        Args:
            video: (B, 3, T, H, W).
            label: (B,) class indices or (B, classes) soft targets.
            step: number of the optimizer step since the beginning of training.
            captions: of the batch's videos; all processes give them, or none does.
        """
        return self._backward(video, label, captions, weight=1.0, reduce=True)

    def _backward(
        self,
        video: Tensor,
        label: Tensor,
        captions: Captions | None,
        *,
        weight: float,
        reduce: bool,
    ) -> StepResult:
        """Forward and backward of ``weight`` times the loss.

        Processes exchange gradients once, in the last backward pass, and only if ``reduce``.
        """
        parts = self._cut(video, label, captions)
        pulls = None
        total, logits, caption = 0.0, [], None
        if captions is not None and len(parts) > 1:
            caption, pulls = self._pull_captions(parts)
        for i, (part, target, texts) in enumerate(parts):
            exchange = reduce and i == len(parts) - 1
            with self._no_sync(not exchange):
                with self.autocast():
                    output = self.model(part, *(texts or ()))
                    found = output if texts is None else output.logits
                    loss = self.loss(found, target) * (len(part) / len(video))
                objective = loss
                if pulls is not None:
                    objective = loss + self.caption_ratio * pull(output, pulls[i])
                elif texts is not None:
                    caption = contrastive_loss(output.video, output.text, output.scale)
                    objective = loss + self.caption_ratio * caption
                self.scaler.scale(objective * weight).backward()
            total = total + loss.detach()
            logits.append(found.detach().float())
        return StepResult(loss=total, logits=torch.cat(logits),
                          caption_loss=None if caption is None else caption.detach())

    def _cut(
        self, video: Tensor, label: Tensor, captions: Captions | None
    ) -> list[tuple[Tensor, Tensor, Captions | None]]:
        """Cut a batch into parts."""
        videos, labels = video.chunk(self.accumulate), label.chunk(self.accumulate)
        if captions is None:
            return [(part, target, None) for part, target in zip(videos, labels, strict=True)]
        parts, first = [], 0
        for part, target in zip(videos, labels, strict=True):
            own = (captions.videos >= first) & (captions.videos < first + len(part))
            texts = Captions(captions.tokens[own], captions.videos[own] - first)
            parts.append((part, target, texts))
            first += len(part)
        return parts

    @torch.no_grad()
    def _pull_captions(
        self, parts: Sequence[tuple[Tensor, Tensor, Captions]]
    ) -> tuple[Tensor, list[Pull]]:
        """Compute the contrastive loss of a batch in parts, and its gradient at their outputs.

        The loss needs all embeddings at once, so they are computed once without a gradient, and
        once more part by part with one (Gao et al. 2021, arXiv 2101.06983).
        """
        outputs = []
        for part, _, texts in parts:
            with self.autocast():
                outputs.append(self.model(part, *texts))
        return compute_pulls([(found.video, found.text, found.scale) for found in outputs])

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
        original_classifier: (classes, D) class embeddings by the original CLIP, where the text
            tower trains.
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
        original_classifier: Tensor | None = None,
        **kwargs,
    ) -> None:
        super().__init__(model, loss, **kwargs)
        self.interpolator = interpolator
        self.low, self.high = low, high
        self.loss_ratio = loss_ratio
        self.seed = seed
        self.chain_rule = chain_rule
        self.rank = rank
        self.original_classifier = original_classifier

    def __call__(
        self, video: Tensor, label: Tensor, step: int, captions: Captions | None = None
    ) -> StepResult:
        """As :meth:`PlainStep.__call__`, with the gradient at the mixed weights added."""
        ratio = draw_ratio(self.low, self.high, seed=self.seed, step=step, rank=self.rank)
        weight = self.loss_ratio * ((1.0 - ratio) if self.chain_rule else 1.0)
        with self.interpolator.at(ratio), self._mixed_classifier(ratio):
            # Not exchanged here: the second pass adds to these gradients and exchanges the sum.
            mixed = self._backward(video, label, captions, weight=weight, reduce=False)
        result = self._backward(video, label, captions, weight=1.0, reduce=True)
        return replace(result, connect_loss=mixed.loss, ratio=ratio,
                       connect_caption_loss=mixed.caption_loss)

    @contextmanager
    def _mixed_classifier(self, ratio: float) -> Iterator[None]:
        """Let the class embeddings follow a text tower that trains.

        They are mixed, not computed by the mixed tower: that would take a pass over all sentences
        at every step, and the two agree to first order in what training changed.
        """
        if self.original_classifier is None:
            yield
            return
        model = unwrap(self.model)
        current = model.classifier
        mixture = torch.lerp(current, self.original_classifier, ratio)
        model.set_classifier(F.normalize(mixture, dim=-1))
        try:
            yield
        finally:
            model.set_classifier(current)
