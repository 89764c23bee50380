"""Config keys of what keeps weights near the original CLIP's: EWC, L2-SP, and pulling them back."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, Flat, Pair, is_on
from openvclip.training.objectives.keys import refuse_with, switch
from openvclip.training.objectives.keys.raw import WITH_RAW_MODEL

# Each of them pulls at some epochs.
PULLS = ("TRAIN.ZS_CONS", "TRAIN.ZS_INIT_CONS", "TRAIN.ZS_RESTART_CONS")

switch("ewc", "TRAIN.EWC_SET")
switch("l2sp", "TRAIN.L2SP.ENABLE")
for _key in PULLS:
    switch("pull", _key)


def pulls(flat: Flat) -> bool:
    return any(flat[key] for key in PULLS)


def reads_anchor(flat: Flat) -> bool:
    return bool(flat["TRAIN.EWC_SET"] or flat["MODEL.RAW_MODEL_DISTILLATION"])


def check_ewc(cfg: CfgNode) -> Iterator[str]:
    train = cfg.TRAIN
    if not train.EWC_SET:
        return
    if not cfg.MODEL.KEEP_RAW_MODEL:
        yield ("TRAIN.EWC_SET is True, but MODEL.KEEP_RAW_MODEL is False; the raw model is what it "
               "keeps to: set MODEL.KEEP_RAW_MODEL True")
    if train.EWC_CONSTRAIN_RATIO == 0:
        yield "TRAIN.EWC_CONSTRAIN_RATIO is 0.0; TRAIN.EWC_SET True needs a ratio over 0"
    if train.EWC_LOAD_FILE and train.EWC_IDENTITY_FISHER:
        yield (f"TRAIN.EWC_LOAD_FILE is {train.EWC_LOAD_FILE!r} and TRAIN.EWC_IDENTITY_FISHER True;"
               " one says what the Fisher information is: leave out the other")
    if cfg.DATA.MULTI_LABEL and not (train.EWC_LOAD_FILE or train.EWC_IDENTITY_FISHER):
        yield ("DATA.MULTI_LABEL is True; the Fisher information of TRAIN.EWC_SET True is that of "
               "clips whose one label is predicted: give TRAIN.EWC_LOAD_FILE, or "
               "TRAIN.EWC_IDENTITY_FISHER True")


def check_l2sp(cfg: CfgNode) -> Iterator[str]:
    own = cfg.TRAIN.L2SP
    if own.ENABLE and own.ALPHA == 0 and own.BETA == 0:
        yield "TRAIN.L2SP.ALPHA and BETA are 0.0; TRAIN.L2SP.ENABLE True needs one over 0"


def check_pull(cfg: CfgNode) -> Iterator[str]:
    train, solver = cfg.TRAIN, cfg.SOLVER
    on = [key for key in PULLS if train[key.split(".")[1]]]
    if on and train.ZS_CONS_RATIO == 0:
        yield f"TRAIN.ZS_CONS_RATIO is 0.0; {on[0]} True needs a ratio over 0"
    others = sorted(WITH_RAW_MODEL & set(train.OBJECTIVES))
    if on and others and train.ZS_CONS_ANCHOR != "clip":
        yield (f"TRAIN.ZS_CONS_ANCHOR is {train.ZS_CONS_ANCHOR}; with {others[0]!r} in "
               "TRAIN.OBJECTIVES it must be clip: the texts that it compares with stay CLIP's")
    if not train.ZS_RESTART_CONS:
        return
    period, warmup = train.ZS_RESTART_EPOCH, solver.WARMUP_EPOCHS
    first = period + warmup - 1
    if period < 1:
        yield (f"TRAIN.ZS_RESTART_EPOCH is {period}, with which TRAIN.ZS_RESTART_CONS True never "
               "pulls; give the epochs between restarts, at least 1")
    elif warmup != int(warmup):
        yield (f"SOLVER.WARMUP_EPOCHS is {warmup}; TRAIN.ZS_RESTART_CONS True counts its restarts "
               "from the end of the warm-up, so that must be a whole number of epochs")
    elif first >= solver.MAX_EPOCH:
        yield (f"TRAIN.ZS_RESTART_EPOCH is {period}; with SOLVER.WARMUP_EPOCHS {warmup:g} the "
               f"first restart would be before epoch {int(first) + 1}, and SOLVER.MAX_EPOCH is "
               f"{solver.MAX_EPOCH}: lower it")


_SHARDED = {"TRAIN.SHARDING": ("ddp", "each process computes it from whole tensors")}
refuse_ewc = refuse_with("TRAIN.EWC_SET True", lambda cfg: cfg.TRAIN.EWC_SET, _SHARDED)
refuse_l2sp = refuse_with("TRAIN.L2SP.ENABLE True", lambda cfg: cfg.TRAIN.L2SP.ENABLE, _SHARDED)
refuse_pull = refuse_with(
    "TRAIN.ZS_CONS, ZS_INIT_CONS or ZS_RESTART_CONS True",
    lambda cfg: any(cfg.TRAIN[key.split(".")[1]] for key in PULLS), _SHARDED)

declare({
    # Elastic weight consolidation: a penalty on the distance from the raw model's weights, each
    # weighted by its Fisher information.
    "TRAIN.EWC_SET": False,
    "TRAIN.EWC_CONSTRAIN_RATIO": 1.0,  # Its weight.
    "TRAIN.EWC_LOAD_FILE": None,  # File of Fisher information, instead of computing it.
    "TRAIN.EWC_IDENTITY_FISHER": False,  # Weigh all weights alike.
    "TRAIN.EWC_IGNORE_LOGIT_SCALE": False,  # Leave logit_scale out of the penalty.
    # Ours. L2-SP: squared distances from CLIP's weights, and from 0 of the weights that CLIP lacks.
    "TRAIN.L2SP.ENABLE": False,
    "TRAIN.L2SP.ALPHA": 0.1,  # Weight of the first; ours are those of the authors' command.
    "TRAIN.L2SP.BETA": 0.01,  # Weight of the second.
    # Before epochs, weights become ratio * CLIP + (1 - ratio) * weights: before every one,
    "TRAIN.ZS_CONS": False,
    "TRAIN.ZS_INIT_CONS": False,  # before the first,
    "TRAIN.ZS_RESTART_CONS": False,  # or every ZS_RESTART_EPOCH epochs after the warm-up.
    "TRAIN.ZS_RESTART_EPOCH": -1,  # -1: not given.
    "TRAIN.ZS_CONS_RATIO": 0.8,  # CLIP's share.
    "TRAIN.ADAPT_ZS_CONS_RATIO": False,  # Times the epoch's learning rate / SOLVER.BASE_LR.
    # Ours. What EWC and distillation keep to after that: clip, or restart, the weights that the
    # last pull left, as published.
    "TRAIN.ZS_CONS_ANCHOR": "clip",
}, types={"TRAIN.EWC_LOAD_FILE": str}, choices={
    "TRAIN.ZS_CONS_ANCHOR": ("clip", "restart"),
}, ranges={
    "TRAIN.EWC_CONSTRAIN_RATIO": (0, None),
    "TRAIN.L2SP.ALPHA": (0, None),
    "TRAIN.L2SP.BETA": (0, None),
    "TRAIN.ZS_RESTART_EPOCH": (-1, None),
    "TRAIN.ZS_CONS_RATIO": (0, 1),
}, needs=[
    is_on("TRAIN.EWC_SET", under("TRAIN", "EWC_CONSTRAIN_RATIO EWC_IGNORE_LOGIT_SCALE")),
    is_on("TRAIN.EWC_SET", under("TRAIN", "EWC_LOAD_FILE EWC_IDENTITY_FISHER"), RESULT),
    is_on("TRAIN.L2SP.ENABLE", under("TRAIN.L2SP", "ALPHA BETA")),
    is_on("TRAIN.ZS_RESTART_CONS", ("TRAIN.ZS_RESTART_EPOCH",)),
    Pair(under("TRAIN", "ZS_CONS_RATIO ADAPT_ZS_CONS_RATIO ZS_CONS_ANCHOR"), PULLS,
         "TRAIN.ZS_CONS, ZS_INIT_CONS or ZS_RESTART_CONS True", pulls),
    Pair(("TRAIN.ZS_CONS_ANCHOR",), ("TRAIN.EWC_SET", "MODEL.RAW_MODEL_DISTILLATION"),
         "TRAIN.EWC_SET or MODEL.RAW_MODEL_DISTILLATION True", reads_anchor),
], rules=[check_ewc, check_l2sp, check_pull, refuse_ewc, refuse_l2sp, refuse_pull])
