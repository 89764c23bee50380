"""L2-SP (Li, Grandvalet and Davoine, ICML 2018, arXiv 1802.01483): CLIP is the starting point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from openvclip.clip.towers import load_tower
from openvclip.models.build import build_clip_source
from openvclip.models.raw import find_anchors
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.penalty import Quadratic, WeightPenalty
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class L2SP(WeightPenalty):
    """Adds ``alpha/2 |w - w0|^2`` of the weights that CLIP has, ``beta/2 |w|^2`` of the others.

    It takes the place of weight decay, so SOLVER.WEIGHT_DECAY 0 belongs to it.

    Args:
        parameters: all that train, by name.
        anchors: CLIP's tensors under their names, w0.
        alpha, beta: weights of the two penalties.
    """

    name = "l2sp"

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], anchors: Mapping[str, Tensor],
        alpha: float, beta: float,
    ) -> None:
        known = [name for name in parameters if name in anchors]
        new = [p for name, p in parameters.items() if name not in anchors]
        self._penalties = []
        if known and alpha:
            self._penalties.append(Quadratic([parameters[name] for name in known],
                                             [anchors[name] for name in known], alpha))
        if new and beta:
            self._penalties.append(Quadratic(new, None, beta))

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> L2SP:
        """Build what ``TRAIN.L2SP`` asks for."""
        own = cfg.TRAIN.L2SP
        source = build_clip_source(cfg)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        anchors = find_anchors(model, load_tower(source)[1], source)
        logger.info("L2-SP: %d tensors towards %s x %g, %d others towards 0 x %g", len(anchors),
                    source, own.ALPHA, len(trained) - len(anchors), own.BETA)
        return cls(trained, anchors, own.ALPHA, own.BETA)

    def quadratics(self) -> Iterator[Quadratic]:
        """Yield both penalties."""
        yield from self._penalties
