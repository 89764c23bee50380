"""The methods of training that ``benchmark.py methods`` measures; importing it takes no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.targets import INTERPOLATED_TARGET

PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method as its users switch it on, and what it should cost.

    Attributes:
        options: config keys and values.
        most: most time of a step over a plain one's, or None.
        saves_memory: whether its peak must be below a plain step's.
        touched: numbers that it reads or writes for each weight, beside the passes through the
            model: the floor of a method that has no passes of its own.
    """

    options: Mapping[str, Any]
    most: float | None = None
    saves_memory: bool = False
    touched: int = 0


METHODS = {
    PLAIN: Method({}),
    "interpolated": Method({
        "TRAIN.LINEAR_CONNECT_CLIMB": True, "TRAIN.LINEAR_CONNECT_LOSS_RATIO": 0.5,
        "TRAIN.LINEAR_CONNECT_SAMPLE_L": 0.0, "TRAIN.LINEAR_CONNECT_SAMPLE_R": 0.6,
    }, INTERPOLATED_TARGET),
    "distillation": Method({
        "MODEL.KEEP_RAW_MODEL": True, "MODEL.RAW_MODEL_DISTILLATION": True,
        "MODEL.DISTILLATION_RATIO": 2.0,
    }, 1.4),
    # Ones take the time and the memory of any other Fisher information. Of each weight: itself,
    # the anchor, the information, and its gradient twice.
    "ewc": Method({
        "MODEL.KEEP_RAW_MODEL": True, "TRAIN.EWC_SET": True, "TRAIN.EWC_IDENTITY_FISHER": True,
    }, 1.03, touched=5),
    "l2sp": Method({"TRAIN.L2SP.ENABLE": True, "SOLVER.WEIGHT_DECAY": 0.0}, touched=4),
    # The weight, and the average twice.
    "ema": Method({"TRAIN.EMA.ENABLE": True}, 1.02, touched=3),
    "lora": Method({"TRAIN.LORA.ENABLE": True}, 0.85, saves_memory=True),
    "lipsum": Method({"TRAIN.OBJECTIVES": ["lipsum"]}),
    "froster": Method({"TRAIN.OBJECTIVES": ["froster"], "MODEL.TEXT_TEMPLATES": "froster29"}),
}
