"""Config keys of experts, their routing and the loss on it."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import HARMLESS, Flat, Pair, is_on, trains
from openvclip.training.objectives.keys import refuse_with, switch

switch("routing", "MODEL.RECORD_ROUTING")


def has_experts(flat: Flat) -> bool:
    return flat["MODEL.NUM_EXPERTS"] > 0


def check_experts(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    layers = model.EXPERT_INSERT_LAYERS
    if model.NUM_EXPERTS and (not layers or len(set(layers)) < len(layers)):
        yield (f"MODEL.EXPERT_INSERT_LAYERS is {layers}; MODEL.NUM_EXPERTS {model.NUM_EXPERTS} "
               "needs at least one block, and each once")
    if model.RECORD_ROUTING and not model.NUM_EXPERTS:
        yield ("MODEL.RECORD_ROUTING is True, but MODEL.NUM_EXPERTS is 0, so nothing is routed; "
               "set MODEL.NUM_EXPERTS, or MODEL.RECORD_ROUTING False")


refuse_others = refuse_with(
    "MODEL.RECORD_ROUTING True",
    lambda cfg: cfg.MODEL.RECORD_ROUTING and (cfg.TRAIN.ENABLE or cfg.VAL_MODE), {
        "TRAIN.SHARDING": ("ddp", "the loss reads what sharded blocks keep"),
    })

declare({
    "MODEL.NUM_EXPERTS": 0,  # Experts beside the MLP in some blocks of the image tower; 0: none.
    "MODEL.EXPERT_INSERT_LAYERS": [10, 11],  # These blocks, counted from 0.
    # patch-level: each token has its weights; image-level: those of its frame's class token.
    "MODEL.ROUTING_TYPE": "patch-level",
    # Add a loss on the share of CLIP's own MLP among the experts, and log that share.
    "MODEL.RECORD_ROUTING": False,
    "MODEL.LOSS_FREQ_TYPE": "mse",  # mse holds the share at the value below, hinge above it.
    "MODEL.ROUTING_FREQUENCE_CONSTRAIN": 0.5,  # The share of CLIP's own MLP.
    "MODEL.ROUTING_FREQ_CONS_FACTOR": 1.0,  # Weight of that loss.
    "MODEL.CLS_LOSS_RATIO": 1.0,  # Weight of the classification loss beside it.
}, choices={
    "MODEL.ROUTING_TYPE": ("patch-level", "image-level"),
    "MODEL.LOSS_FREQ_TYPE": ("mse", "hinge"),
}, ranges={
    "MODEL.NUM_EXPERTS": (0, None),
    "MODEL.EXPERT_INSERT_LAYERS": (0, None),
    "MODEL.ROUTING_FREQUENCE_CONSTRAIN": (0, 1),
    "MODEL.ROUTING_FREQ_CONS_FACTOR": (0, None),
    "MODEL.CLS_LOSS_RATIO": (0, None),
}, needs=[
    Pair(under("MODEL", "EXPERT_INSERT_LAYERS ROUTING_TYPE EXPERT_FINETUNE_FACTOR "
               "ROUTING_FINETUNE_FACTOR"), ("MODEL.NUM_EXPERTS",), "MODEL.NUM_EXPERTS over 0",
         has_experts),
    is_on("MODEL.RECORD_ROUTING", under(
        "MODEL", "LOSS_FREQ_TYPE ROUTING_FREQUENCE_CONSTRAIN ROUTING_FREQ_CONS_FACTOR "
        "CLS_LOSS_RATIO")),
    Pair(("MODEL.RECORD_ROUTING",), ("TRAIN.ENABLE", "VAL_MODE"), "TRAIN.ENABLE True", trains,
         HARMLESS),
], rules=[check_experts, refuse_others])
