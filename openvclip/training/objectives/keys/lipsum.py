"""Config keys of Lipsum-FT."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.doors import OBJECTIVES
from openvclip.config.extensions import declare
from openvclip.training.objectives.keys.raw import WITH_RAW_MODEL

WITH_RAW_MODEL.add("lipsum")


def check_lipsum(cfg: CfgNode) -> Iterator[str]:
    if "lipsum" in cfg.TRAIN.OBJECTIVES and cfg.TRAIN.LIPSUM.RATIO == 0:
        yield "TRAIN.LIPSUM.RATIO is 0.0; TRAIN.OBJECTIVES ['lipsum'] needs a ratio over 0"


# Ours, with the defaults of its authors' code.
declare({
    "TRAIN.LIPSUM.RATIO": 1.0,  # Weight of the energy gap.
    "TRAIN.LIPSUM.TEXTS": 80,  # Random texts, drawn at each step.
    "TRAIN.LIPSUM.LENGTH": 8,  # Random tokens of each, between the start and the end token.
}, entry=(OBJECTIVES, "lipsum"), ranges={
    "TRAIN.LIPSUM.RATIO": (0, None),
    "TRAIN.LIPSUM.TEXTS": (1, None),
    "TRAIN.LIPSUM.LENGTH": (1, None),
}, rules=[check_lipsum])
