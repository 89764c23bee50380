"""Config keys of FROSTER."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.doors import OBJECTIVES, TEXT_TRAINERS
from openvclip.config.extensions import declare
from openvclip.training.objectives.keys import refuse_with
from openvclip.training.objectives.keys.raw import WITH_RAW_MODEL

WITH_RAW_MODEL.add("froster")
TEXT_TRAINERS.add("froster")
ON = "TRAIN.OBJECTIVES ['froster']"


def is_froster(cfg: CfgNode) -> bool:
    return (cfg.TRAIN.ENABLE or cfg.VAL_MODE) and "froster" in cfg.TRAIN.OBJECTIVES


def check_froster(cfg: CfgNode) -> Iterator[str]:
    if not is_froster(cfg):
        return
    if cfg.TRAIN.FROSTER.RATIO == 0:
        yield f"TRAIN.FROSTER.RATIO is 0.0; {ON} needs a ratio over 0"
    caption = cfg.TRAIN.CAPTION
    if caption.ENABLE and caption.TEXT_TOWER != "trainable":
        yield (f"TRAIN.CAPTION.TEXT_TOWER is {caption.TEXT_TOWER}; with {ON} it must be "
               "trainable: captions and classes share one text tower")


refuse_others = refuse_with(ON, is_froster, {
    "MODEL.TEXT_TEMPLATES": ("froster29", "its validation and tests use 29 texts for a class"),
    "MODEL.CLASS_DESCRIPTIONS": ("", "names hold the descriptions, as in 'Name: sentence'"),
    "MODEL.TEXT_TOWER": ("frozen", "it trains the text tower by itself"),
    "MODEL.RAW_MODEL_DISTILLATION": (
        False, "in FROSTER's code the key stands for this objective, and MODEL.DISTILLATION_RATIO "
        "for TRAIN.FROSTER.RATIO; here it adds another loss"),
    "MODEL.TEXT_PROMPT": (False, "it trains the text tower itself"),
    "TRAIN.LORA.ENABLE": (False, "that leaves the text tower as it is"),
    "TUNE_HEAD": (False, "the class embeddings are those of the text tower"),
    "TRAIN.SHARDING": ("ddp", "processes encode different texts"),
    "TRAIN.LINEAR_CONNECT_PER_RANK": (False, "processes share the texts at the same weights"),
    "MODEL.STATIC_GRAPH": (False, "part of the backward pass is taken twice"),
})

# Ours, with the defaults of FROSTER's code.
declare({
    "TRAIN.FROSTER.RATIO": 2.0,  # Weight of both cosine losses; MODEL.DISTILLATION_RATIO there.
}, entry=(OBJECTIVES, "froster"), ranges={
    "TRAIN.FROSTER.RATIO": (0, None),
}, rules=[check_froster, refuse_others])
