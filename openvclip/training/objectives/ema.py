"""EMA: a moving average of the weights is kept beside them; it has no loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from openvclip.checkpoints.loading import unwrap
from openvclip.interpolation import AverageWeights, MovingAverage, Weights
from openvclip.models.video_clip import share
from openvclip.training.objectives.objective import Objective
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)
_NAME = "moving_average"


def build_moving_average(cfg: Any, model: nn.Module) -> MovingAverage:
    """Return the average that ``TRAIN.EMA`` asks for, made when first asked for.

    It is of all that trains of the model's own weights: not of ``extras``, which no test has.
    """
    own, ema = unwrap(model), cfg.TRAIN.EMA

    def make() -> MovingAverage:
        trained = {name: p for name, p in own.named_parameters()
                   if p.requires_grad and not name.startswith("extras.")}
        logger.info("keeping a moving average (EMA) of %d tensors: decay %g%s", len(trained),
                    ema.DECAY, ", less in the beginning" if ema.WARMUP else "")
        return MovingAverage(trained, ema.DECAY, ema.WARMUP)

    return share(own, _NAME, make)


class WeightAverage(Objective):
    """Keeps a :class:`MovingAverage` up to date; it is validated, and part of checkpoints."""

    name = "ema"

    def __init__(self, average: MovingAverage) -> None:
        self.average = average
        self._loaded = self._skipped = False

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> WeightAverage:
        """Build what ``TRAIN.EMA`` asks for."""
        return cls(build_moving_average(cfg, model))

    def prepare(self) -> None:
        """Begin at the weights that training starts from, unless a state was loaded."""
        if not self._loaded:
            self.average.restart()

    def update_skipped(self, step: int) -> None:
        """Leave the step out: weights that did not move must not count twice."""
        self._skipped = True

    def after_update(self, step: int) -> None:
        """Move the average towards the weights."""
        if not self._skipped:
            self.average.update()
        self._skipped = False

    def validated_weights(self) -> dict[str, Weights]:
        """The average, as ``ema``."""
        return {self.name: AverageWeights(self.average)}

    def state_dict(self) -> dict[str, Any]:
        """Return the average."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the average."""
        self.average.load_state_dict(state)
        self._loaded = True
