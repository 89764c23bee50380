"""Pulling weights back to CLIP before epochs: ``ratio * CLIP + (1 - ratio) * weights``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.checkpoints.loading import (
    copy_text_tower,
    load_original_clip,
    text_tower_differs,
    unwrap,
)
from openvclip.data.lists.labels import build_label_space
from openvclip.interpolation import WeightInterpolator, compact
from openvclip.models.build import build_classifier, build_clip_source
from openvclip.models.experts import find_mlp
from openvclip.models.raw import move_raw
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.objective import Objective
from openvclip.training.optim import build_schedule
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

EPOCH, RAW, CLASSIFIER = "epoch", "raw", "classifier"


@dataclass(frozen=True)
class PullPlan:
    """When to pull, and how far; epochs count from 0.

    Attributes:
        ratio: CLIP's share before an epoch, if that is one to pull at.
        always: pull before every epoch.
        first: pull before the first.
        period: epochs between restarts, at which to pull too; None: there are none.
        warmup: epochs before their count begins.
    """

    ratio: Callable[[int], float]
    always: bool = False
    first: bool = False
    period: int | None = None
    warmup: float = 0.0

    def restarts(self, epoch: int) -> bool:
        """Whether there is a restart before ``epoch``."""
        done = epoch - self.warmup + 1
        return self.period is not None and done > 0 and done % self.period == 0

    def pulls(self, epoch: int) -> bool:
        """Whether to pull before ``epoch``."""
        return self.always or (self.first and epoch == 0) or self.restarts(epoch)


def build_pull_plan(cfg: Any) -> PullPlan:
    """Build what ``TRAIN.ZS_*`` and ``ADAPT_ZS_CONS_RATIO`` ask for."""
    train, solver = cfg.TRAIN, cfg.SOLVER
    share, schedule = train.ZS_CONS_RATIO, build_schedule(cfg)
    # The schedule multiplies the base rate by it, too.
    base = solver.BASE_LR * (cfg.NUM_SHARDS if solver.BASE_LR_SCALE_NUM_SHARDS else 1)
    adapt = train.ADAPT_ZS_CONS_RATIO
    restarts = train.ZS_RESTART_CONS and train.ZS_RESTART_EPOCH != -1
    return PullPlan(
        lambda epoch: share * schedule(epoch) / base if adapt else share,
        always=train.ZS_CONS, first=train.ZS_INIT_CONS,
        period=train.ZS_RESTART_EPOCH if restarts else None, warmup=solver.WARMUP_EPOCHS,
    )


def find_sources(names: Mapping[str, Any], clip: Mapping[str, Tensor]) -> dict[str, str]:
    """Return parameter -> name of CLIP's tensor that it is pulled to; others have none.

    An expert is pulled to the layer of CLIP's MLP of which it began as a copy.
    """
    sources = {name: find_mlp(name) or name for name in names}
    return {name: source for name, source in sources.items() if source in clip}


class Pull(Objective):
    """Pulls the weights at the epochs of a plan; the optimizer's state stays.

    Args:
        model: the model that trains.
        clip: tensors of the original CLIP under the names of the parameters to pull, on the CPU.
        plan: when, and how far.
        moves_raw: let the raw model, and what EWC keeps to, become the weights after each pull.
        embed: makes the class embeddings when a pull has changed the text tower.
    """

    name = "pull"

    def __init__(
        self, model: VideoCLIP, clip: Mapping[str, Tensor], plan: PullPlan, *,
        moves_raw: bool = False, embed: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.model, self.clip, self.plan = model, clip, plan
        self.moves_raw, self.embed = moves_raw, embed
        self._epoch = -1  # the last one that was begun
        self._raw: dict[str, Tensor] = {}
        self._classifier: Tensor | None = None  # of the raw model, if it has one of its own

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> Pull:
        """Build what ``TRAIN.ZS_*`` ask for.

        Raises:
            ConfigError: CLIP has nothing of what trains, or a ratio exceeds 1.
        """
        own, plan = unwrap(model), build_pull_plan(cfg)
        epochs = [epoch for epoch in range(cfg.SOLVER.MAX_EPOCH) if plan.pulls(epoch)]
        for epoch in epochs:
            if not 0 <= plan.ratio(epoch) <= 1:
                raise ConfigError(
                    f"TRAIN.ADAPT_ZS_CONS_RATIO True makes CLIP's share {plan.ratio(epoch):g} in "
                    f"epoch {epoch + 1}; lower TRAIN.ZS_CONS_RATIO or the rates of SOLVER.LRS")
        source = cfg.TRAIN.CLIP_ORI_PATH or build_clip_source(cfg)
        clip = load_original_clip(source, getattr(own.model, "tower", None))
        parameters = dict(own.named_parameters())
        sources = find_sources(parameters, clip)
        if not any(parameters[name].requires_grad for name in sources):
            raise ConfigError("TRAIN.ZS_CONS, ZS_INIT_CONS or ZS_RESTART_CONS is True, but nothing "
                              "that CLIP has trains; set them to False")
        logger.info("pulling %d tensors towards %s before %d of %d epochs%s", len(sources), source,
                    len(epochs), cfg.SOLVER.MAX_EPOCH, _build_note(cfg))
        names = build_label_space(cfg).names
        return cls(own, {name: compact(clip[key]) for name, key in sources.items()}, plan,
                   moves_raw=cfg.TRAIN.ZS_CONS_ANCHOR == "restart",
                   embed=partial(build_classifier, cfg, label_names=names, cache=False))

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Pull, if it is due and was not done before the run was interrupted in this epoch."""
        resumed, self._epoch = self._epoch == epoch, epoch
        if resumed or not self.plan.pulls(epoch):
            return
        ratio, text = self.plan.ratio(epoch), copy_text_tower(self.model)
        parameters = {name: p for name, p in self.model.named_parameters() if name in self.clip}
        WeightInterpolator(parameters, self.clip).set_ratio(ratio)
        logger.info("epoch %d: pulled %d tensors to CLIP, whose share is %g", epoch + 1,
                    len(parameters), ratio)
        if self.embed is not None and text_tower_differs(self.model, text):
            self.model.set_classifier(self.embed(self.model.model))
            self._classifier = self.model.classifier.clone() if self.moves_raw else None
        if self.moves_raw:
            self._raw = {name: p.detach().clone() for name, p in parameters.items()
                         if p.requires_grad}
            move_raw(self.model, parameters, self._classifier)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch that was begun last and, if they have moved, the raw model's weights."""
        state: dict[str, Any] = {EPOCH: self._epoch}
        if self._raw:
            state[RAW] = dict(self._raw)
        if self._classifier is not None:
            state[CLASSIFIER] = self._classifier
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the model's weights must be loaded."""
        self._epoch = state[EPOCH]
        self._raw = {name: tensor.clone() for name, tensor in state.get(RAW, {}).items()}
        if CLASSIFIER in state:
            self._classifier = state[CLASSIFIER].clone()
        if self._raw:
            # What does not train is since then as the pull left it.
            frozen = {name: p for name, p in self.model.named_parameters()
                      if name in self.clip and not p.requires_grad}
            move_raw(self.model, {**frozen, **self._raw}, self._classifier)


def _build_note(cfg: Any) -> str:
    """Return what EWC and distillation keep to, for the log, if either is on."""
    if not (cfg.TRAIN.EWC_SET or cfg.MODEL.RAW_MODEL_DISTILLATION):
        return ""
    kept = {"clip": "the original CLIP", "restart": "the weights after the last pull"}
    return (f"; the raw model is {kept[cfg.TRAIN.ZS_CONS_ANCHOR]} (TRAIN.ZS_CONS_ANCHOR "
            f"{cfg.TRAIN.ZS_CONS_ANCHOR})")
