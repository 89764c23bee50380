"""Interpolated training (Open-VCLIP, equation 5): also the loss at weights mixed with CLIP.

``TRAIN.LINEAR_CONNECT_ANCHOR ema`` mixes them with their own moving average instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.checkpoints.loading import load_original_clip, unwrap
from openvclip.interpolation import WeightInterpolator, Weights, WeightsAndClassifier, draw_ratio
from openvclip.models.build import build_clip_source
from openvclip.training.objectives.ema import build_moving_average
from openvclip.training.objectives.objective import Objective, Pass
from openvclip.utils import distributed
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


def build_interpolator(
    cfg: Any, model: nn.Module, frozen: Collection[str] = (), purpose: str = "in training"
) -> WeightInterpolator:
    """Build the mixer of the parameters that train, and of ``frozen`` ones, with the original CLIP.

    The original is ``TRAIN.CLIP_ORI_PATH``, or else the CLIP that the model was made from. The log
    states the ``purpose``.
    """
    source = cfg.TRAIN.CLIP_ORI_PATH or build_clip_source(cfg)
    additions = unwrap(model).additions
    interpolator = WeightInterpolator(
        {name: p for name, p in unwrap(model).named_parameters()
         if p.requires_grad or name in frozen or name in additions},
        load_original_clip(source, getattr(unwrap(model).model, "tower", None)),
        additions=additions,
    )
    logger.info("mixing %d tensors with those of %s %s", len(interpolator.names), source, purpose)
    return interpolator


def _build_anchored(cfg: Any, model: nn.Module) -> WeightInterpolator:
    """Build the mixer with the anchor of training, ``TRAIN.LINEAR_CONNECT_ANCHOR``."""
    if cfg.TRAIN.LINEAR_CONNECT_ANCHOR == "clip":
        return build_interpolator(cfg, model)
    average = build_moving_average(cfg, model)
    logger.info("mixing %d tensors with their moving average in training", len(average.tensors))
    return WeightInterpolator(average.parameters, average.tensors, live=True)


@dataclass(eq=False, kw_only=True)
class Connect(Objective):
    """Adds the gradient at mixed weights: ``g = g_current + loss_ratio * g_mixed``.

    The chain rule's factor (1 - r) is cancelled by the paper's weight C / (1 - r) of the second
    term; ``chain_rule`` keeps it.

    Args:
        model: the model that trains.
        interpolator: mixes the parameters that train with the anchor, the original CLIP.
        low, high: range of r.
        loss_ratio: weight of the loss at the mixed weights.
        seed: the run's seed, for drawing r.
        chain_rule: multiply the mixed gradient by (1 - r).
        rank: give it to let every process draw its own r.
        original_classifier: (classes, D) class embeddings by the original CLIP, if the text
            tower trains and class embeddings are not made at each step.
    """

    name = "connect"

    model: nn.Module
    interpolator: WeightInterpolator
    low: float
    high: float
    loss_ratio: float
    seed: int
    chain_rule: bool = False
    rank: int | None = None
    original_classifier: Tensor | None = None

    def __post_init__(self) -> None:
        self.weights: Weights = self.interpolator
        if self.original_classifier is not None:
            self.weights = WeightsAndClassifier(
                self.interpolator, unwrap(self.model), self._mix_classifier)

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> Connect:
        """Build what ``TRAIN.LINEAR_CONNECT_*`` ask for."""
        train, original = cfg.TRAIN, unwrap(model)
        logger.info(
            "interpolated training: r ~ U(%g, %g), connect loss x %g",
            train.LINEAR_CONNECT_SAMPLE_L, train.LINEAR_CONNECT_SAMPLE_R,
            train.LINEAR_CONNECT_LOSS_RATIO,
        )
        return cls(
            model=model,
            interpolator=_build_anchored(cfg, model),
            low=train.LINEAR_CONNECT_SAMPLE_L,
            high=train.LINEAR_CONNECT_SAMPLE_R,
            loss_ratio=train.LINEAR_CONNECT_LOSS_RATIO,
            seed=cfg.RNG_SEED,
            chain_rule=train.LINEAR_CONNECT_CHAIN_RULE,
            rank=distributed.rank() if train.LINEAR_CONNECT_PER_RANK else None,
            original_classifier=original.classifier
            if original.train_text and not original.embeds_classes else None,
        )

    def passes(self, step: int) -> Iterator[Pass]:
        """The pass at the weights that are mixed at the ratio of this step."""
        ratio = draw_ratio(self.low, self.high, seed=self.seed, step=step, rank=self.rank)
        weight = self.loss_ratio * ((1.0 - ratio) if self.chain_rule else 1.0)
        yield Pass("connect", weight, self.weights.at(ratio), ratio)

    def _mix_classifier(self, ratio: float) -> Tensor:
        # Computing them by the mixed tower would take a pass over all sentences at every step; the
        # two agree to first order in what training changed.
        assert self.original_classifier is not None  # else it is not asked for
        mixture = torch.lerp(unwrap(self.model).classifier, self.original_classifier, ratio)
        return F.normalize(mixture, dim=-1)
