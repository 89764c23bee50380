"""One training step: it leaves the gradients of a batch on the parameters and returns its losses.

The objectives are in openvclip/training/objectives, about which the loop knows nothing; clipping
and the optimizer belong to the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from openvclip.interpolation import WeightInterpolator
from openvclip.models.video_clip import take_logits
from openvclip.training.objectives.caption import CaptionContrast
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.losses import ClassificationLoss, Loss
from openvclip.training.objectives.objective import Captions, Objective, Part
from openvclip.utils import distributed


@dataclass
class StepResult:
    """The results of a step; tensors are detached. Each loss is also an attribute.

    Attributes:
        logits: logits at the current weights, (B, classes).
        terms: losses by name, before their weights: ``loss``, that of classification, and
            ``<objective>_loss``, with ``<pass>_`` before it if taken at other weights; with more
            than one, ``total_loss``, the sum with weights whose gradient the step took.
        ratio: share of CLIP in the mixture of an interpolated step, or None.
        facts: what else objectives log, scalars by name.
    """

    logits: Tensor
    terms: dict[str, Tensor]
    ratio: float | None = None
    facts: dict[str, Tensor] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["terms"][name]
        except KeyError:
            raise AttributeError(f"this step has no {name}") from None

    def losses(self) -> dict[str, Tensor]:
        """The losses that were computed, by name."""
        return self.terms

    def is_finite(self) -> bool:
        """Whether all losses are finite."""
        return bool(torch.isfinite(torch.stack(list(self.terms.values()))).all())


class PlainStep:
    """Fine-tuning: the losses at the current weights, and those of other passes.

    Args:
        model: maps video (B, 3, T, H, W) to logits (B, classes); may be wrapped by DDP.
        loss: maps logits and labels to a scalar, a mean over the batch.
        autocast: makes the context of the forward passes (mixed precision).
        scaler: gradient scaler; a disabled one outside fp16.
        accumulate: number of parts that a batch is cut into to save memory. The gradient is that
            of the whole batch, whatever the number.
        caption_ratio: weight of the contrastive loss of a batch that comes with captions; None: one
            of ``objectives`` computes it, or none does.
        objectives: additional objectives.
        loss_weight: weight of ``loss`` beside them.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        autocast: Callable = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
        caption_ratio: float | None = 1.0,
        objectives: Sequence[Objective] = (),
        loss_weight: float = 1.0,
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.accumulate = accumulate
        captions = [] if caption_ratio is None else [CaptionContrast(caption_ratio)]
        self.objectives = (ClassificationLoss(loss, loss_weight), *captions, *objectives)

    @property
    def interpolator(self) -> WeightInterpolator | None:
        """The mixer of the weights with CLIP's, if training is interpolated."""
        connect = [x for x in self.objectives if isinstance(x, Connect)]
        return connect[0].interpolator if connect else None

    def __call__(
        self, video: Tensor, label: Tensor, step: int, captions: Captions | None = None
    ) -> StepResult:
        """Add the gradients of one batch to the parameters.

        Args:
            video: (B, 3, T, H, W).
            label: (B,) class indices or (B, classes) soft targets.
            step: number of the optimizer step since the beginning of training.
            captions: of the batch's videos; either all processes pass them or none does.
        """
        parts = self._cut(video, label, captions)
        terms: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        ratio = None
        for objective in self.objectives:
            objective.begin_step(step)
        for other in (x for objective in self.objectives for x in objective.passes(step)):
            with other.weights:
                # Not exchanged here: the last pass adds to these gradients and exchanges the sum.
                self._backward(parts, weight=other.weight, reduce=False)
            seen = self._values()
            terms.update({f"{other.name}_{name}": value for name, value in seen.items()})
            totals.append(other.weight * self._total())
            ratio = ratio if other.ratio is None else other.ratio
        only = next((found for objective in self.objectives
                     if (found := objective.trains_only()) is not None), None)
        logits = self._backward(parts, weight=1.0, reduce=only is None)
        if only is not None:
            distributed.average([p.grad for p in only if p.grad is not None])
        self._add_gradients(logits.device)
        if only is not None:
            self._drop_others(only)
        terms = {**self._values(), **terms}
        if len(terms) > 1:
            terms["total_loss"] = sum(totals, self._total())
        facts = {name: fact for objective in self.objectives
                 for name, fact in objective.facts().items()}
        return StepResult(logits, terms, ratio, facts)

    def _values(self) -> dict[str, Tensor]:
        """The losses of the last pass, by name, before their weights."""
        return {f"{objective.name}_loss".lstrip("_"): value for objective in self.objectives
                if (value := objective.value()) is not None}

    def _total(self) -> Tensor:
        """The loss of the last pass whose gradient it took."""
        return torch.stack([objective.weight * value for objective in self.objectives
                            if (value := objective.value()) is not None]).sum()

    def _backward(self, parts: Sequence[Part], *, weight: float, reduce: bool) -> Tensor:
        """Forward and backward of ``weight`` times the losses; the last one may exchange them.

        Returns:
            (B, classes) logits, detached.
        """
        with torch.no_grad():
            for objective in self.objectives:
                objective.begin(parts, self._forward)
        logits = []
        for part in parts:
            exchange = reduce and part is parts[-1]
            shared = isinstance(self.model, nn.parallel.DistributedDataParallel) and not exchange
            with cast(Any, self.model).no_sync() if shared else nullcontext():
                output = self._forward(part)
                own = take_logits(output)
                total: Any = sum(objective.weight * term for objective in self.objectives
                                 if (term := objective.term(output, own, part)) is not None)
                total = self.scaler.scale(total * weight)
                if part is parts[-1]:
                    total = sum((term for objective in self.objectives
                                 if (term := objective.complete(total)) is not None), total)
                total.backward()
            logits.append(own.detach().float())
        return torch.cat(logits)

    @torch.no_grad()
    def _add_gradients(self, device: torch.device) -> None:
        scale = self.scaler.scale(torch.ones((), device=device))
        for objective in self.objectives:
            objective.add_gradients(scale)

    def _drop_others(self, only: Sequence[nn.Parameter]) -> None:
        kept = set(map(id, only))
        for parameter in self.model.parameters():
            if id(parameter) not in kept:
                parameter.grad = None

    def _forward(self, part: Part) -> Any:
        with self.autocast():
            return self.model(part.video, *(part.captions or ()))

    def _cut(self, video: Tensor, label: Tensor, captions: Captions | None) -> list[Part]:
        parts: list[Part] = []
        first = 0
        pairs = zip(video.chunk(self.accumulate), label.chunk(self.accumulate), strict=True)
        for index, (own, target) in enumerate(pairs):
            texts = None
            if captions is not None:
                inside = (captions.videos >= first) & (captions.videos < first + len(own))
                texts = Captions(captions.tokens[inside], captions.videos[inside] - first)
            parts.append(Part(index, own, target, texts, len(own) / len(video)))
            first += len(own)
        return parts


class InterpolatedStep(PlainStep):
    """Interpolated training: a :class:`PlainStep` with the objective :class:`Connect`.

    Args:
        model, loss: as for :class:`PlainStep`.
        interpolator: mixes the parameters that train with the original CLIP.
        options: ``autocast``, ``scaler``, ``accumulate`` and ``caption_ratio`` as for
            :class:`PlainStep`; ``low``, ``high``, ``loss_ratio`` and ``seed``, which must be given,
            and ``chain_rule``, ``rank`` and ``original_classifier`` as for :class:`Connect`.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, interpolator: WeightInterpolator, **options: Any
    ) -> None:
        plain = {name: options.pop(name)
                 for name in ("autocast", "scaler", "accumulate", "caption_ratio")
                 if name in options}
        self.connect = Connect(model=model, interpolator=interpolator, **options)
        super().__init__(model, loss, objectives=[self.connect], **plain)
