"""Config keys of the moving average of the weights (EMA)."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, Flat, Pair, is_on
from openvclip.training.objectives.keys import switch

switch("ema", "TRAIN.EMA.ENABLE")


def tests_checkpoint(flat: Flat) -> bool:
    given = flat["TEST.CUSTOM_LOAD"] or flat["TEST.CHECKPOINT_FILE_PATH"] or flat["TRAIN.ENABLE"]
    return bool(given and not flat["VAL_MODE"])


def check_tested(cfg: CfgNode) -> Iterator[str]:
    train, test = cfg.TRAIN, cfg.TEST
    given = test.CUSTOM_LOAD or test.CHECKPOINT_FILE_PATH or cfg.VAL_MODE
    if (test.WEIGHTS == "ema" and train.ENABLE and test.ENABLE and not given
            and not train.EMA.ENABLE):
        yield ("TEST.WEIGHTS is 'ema', but TRAIN.EMA.ENABLE is False; the checkpoint of this "
               "training, which is tested after it, has such weights with TRAIN.EMA.ENABLE True")


declare({
    # Ours. Keep a moving average of the weights that train; it is validated, too, and part of
    # checkpoints.
    "TRAIN.EMA.ENABLE": False,
    "TRAIN.EMA.DECAY": 0.9999,  # Share of the average that stays at every update.
    # At most (1 + n) / (10 + n) of it stays at update n, so that short trainings have one, too.
    "TRAIN.EMA.WARMUP": True,
    # Ours. The weights of a checkpoint that are tested: current, or ema, their moving average.
    "TEST.WEIGHTS": "current",
}, choices={
    "TEST.WEIGHTS": ("current", "ema"),
}, ranges={
    "TRAIN.EMA.DECAY": (0, 1),
}, needs=[
    is_on("TRAIN.EMA.ENABLE", under("TRAIN.EMA", "DECAY WARMUP")),
    Pair(("TEST.WEIGHTS",), ("TEST.CUSTOM_LOAD", "TEST.CHECKPOINT_FILE_PATH"),
         "a checkpoint to test (TEST.CUSTOM_LOAD True, TEST.CHECKPOINT_FILE_PATH or TRAIN.ENABLE "
         "True, and VAL_MODE False)", tests_checkpoint, RESULT,
         "name the checkpoint in TEST.CHECKPOINT_FILE_PATH, or in TEST.CUSTOM_LOAD_FILE with "
         "TEST.CUSTOM_LOAD True"),
], rules=[check_tested])
