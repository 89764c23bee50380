"""Config keys of linear probing, then fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import is_on
from openvclip.training.objectives.keys import refuse_with, switch

switch("lp_ft", "TRAIN.LP_FT.ENABLE")


def check_epochs(cfg: CfgNode) -> Iterator[str]:
    probing, all_of_them = cfg.TRAIN.LP_FT.EPOCHS, cfg.SOLVER.MAX_EPOCH
    if cfg.TRAIN.LP_FT.ENABLE and probing > all_of_them:
        yield (f"TRAIN.LP_FT.EPOCHS is {probing}, but SOLVER.MAX_EPOCH is {all_of_them}; it counts "
               "the first of these")
    if cfg.TRAIN.LP_FT.ENABLE and cfg.TRAIN.LP_FT.LR_FACTOR == 0:
        yield "TRAIN.LP_FT.LR_FACTOR is 0.0; TRAIN.LP_FT.ENABLE True needs more than 0"


refuse_others = refuse_with("TRAIN.LP_FT.ENABLE True", lambda cfg: cfg.TRAIN.LP_FT.ENABLE, {
    "TUNE_HEAD": (True, "the head is what is probed"),
    "TRAIN.SHARDING": ("ddp", "what trains changes"),
    "MODEL.STATIC_GRAPH": (False, "what trains changes"),
})

# Ours. Linear probing, then fine-tuning (LP-FT, arXiv 2202.10054), with TUNE_HEAD True.
declare({
    "TRAIN.LP_FT.ENABLE": False,  # Train only the head in the first epochs.
    "TRAIN.LP_FT.EPOCHS": 1,  # How many; SOLVER.MAX_EPOCH counts them, too.
    "TRAIN.LP_FT.LR_FACTOR": 1.0,  # Factor of the learning rate in them.
}, ranges={
    "TRAIN.LP_FT.EPOCHS": (1, None),
    "TRAIN.LP_FT.LR_FACTOR": (0, None),
}, needs=[
    is_on("TRAIN.LP_FT.ENABLE", under("TRAIN.LP_FT", "EPOCHS LR_FACTOR")),
], rules=[check_epochs, refuse_others])
