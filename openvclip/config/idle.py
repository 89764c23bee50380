"""Settings that have no effect, because the feature that would read them is off.

A run that does something other than requested ends with exit code 0 and a wrong number. So a
setting without effect is refused, by name, if the user asked for it, and only named in the log if
it came from elsewhere:

* on the command line it is refused, unless its switch is also turned off there;
* in a file (a published one, or the resolved config of another run) it is accepted, unless it says
  what is tested or trained and the file does not mention the switch at all;
* weights that would not be read are refused on the command line even together with their switch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config.defaults import flatten, get_cfg, under

Flat = dict[str, Any]

# How much a setting without effect matters for the run, least first.
HARMLESS, DETAIL, RESULT, WEIGHTS = range(4)


@dataclass(frozen=True)
class Pair:
    """Settings, and what they need to have an effect.

    Attributes:
        keys: the settings themselves.
        switches: keys that decide whether they have an effect.
        needs: what the switches must be, in words.
        met: whether a flat config satisfies this.
        kind: see the constants; harmless ones are only named in the log.
        instead: what to do, if "set" and the needs do not make a sentence.
    """

    keys: tuple[str, ...]
    switches: tuple[str, ...]
    needs: str
    met: Callable[[Flat], bool]
    kind: int = DETAIL
    instead: str = ""

    @property
    def remedy(self) -> str:
        """What to do for the settings to have an effect."""
        need = self.needs.split(" (")[0]
        if need.endswith(" left out"):
            return f"remove {need.removesuffix(' left out')}"
        return self.instead or f"set {need}"


def is_on(switch: str, keys: tuple[str, ...], kind: int = DETAIL) -> Pair:
    return Pair(keys, (switch,), f"{switch} True", lambda flat: bool(flat[switch]), kind)


def equals(
    switch: str, values: tuple[Any, ...], keys: tuple[str, ...], kind: int = DETAIL
) -> Pair:
    words = " or ".join(str(value) for value in values)
    return Pair(keys, (switch,), f"{switch} {words}", lambda flat: flat[switch] in values, kind)


def _is_empty(switch: str, keys: tuple[str, ...], kind: int = DETAIL) -> Pair:
    return Pair(keys, (switch,), f"{switch} left out", lambda flat: not flat[switch], kind)


def _patches(flat: Flat) -> bool:
    return bool(flat["TEST.PATCHING_MODEL"] or flat["TEST.PATCHING_RATIOS"])


def trains(flat: Flat) -> bool:
    return bool(flat["TRAIN.ENABLE"] or flat["VAL_MODE"])


# Of training: they read TRAIN.CLIP_ORI_PATH.
_MIXING = ("TRAIN.LINEAR_CONNECT_CLIMB", "TRAIN.ZS_CONS", "TRAIN.ZS_INIT_CONS",
           "TRAIN.ZS_RESTART_CONS")

# Asked for on the command line even at the default: nobody writes a ratio and wants none.
BY_DEFAULT = ("TEST.PATCHING_RATIO",)

PAIRS: list[Pair] = [
    # What is tested and what training begins with.
    is_on("TEST.CUSTOM_LOAD", ("TEST.CUSTOM_LOAD_FILE",), WEIGHTS),
    is_on("TRAIN.CUSTOM_LOAD", ("TRAIN.CUSTOM_LOAD_FILE",), WEIGHTS),
    Pair(("TEST.CHECKPOINT_FILE_PATH",), ("TEST.CUSTOM_LOAD",),
         "TEST.CUSTOM_LOAD False (TEST.CUSTOM_LOAD_FILE is tested)",
         lambda flat: not flat["TEST.CUSTOM_LOAD"], WEIGHTS),
    Pair(("TRAIN.CUSTOM_LOAD_FILE",), ("TRAIN.CHECKPOINT_FILE_PATH",),
         "TRAIN.CHECKPOINT_FILE_PATH left out (training starts from that)",
         lambda flat: not flat["TRAIN.CHECKPOINT_FILE_PATH"], WEIGHTS),
    Pair(("TRAIN.CUSTOM_LOAD_FILE", "TRAIN.CHECKPOINT_FILE_PATH"), ("TRAIN.ENABLE", "VAL_MODE"),
         "TRAIN.ENABLE or VAL_MODE True (a test reads TEST.CUSTOM_LOAD_FILE with TEST.CUSTOM_LOAD "
         "True, or TEST.CHECKPOINT_FILE_PATH)", trains, WEIGHTS),
    Pair(("TEST.CUSTOM_LOAD_FILE", "TEST.CHECKPOINT_FILE_PATH"), ("VAL_MODE",),
         "VAL_MODE False (that validates TRAIN.CUSTOM_LOAD_FILE with TRAIN.CUSTOM_LOAD True, or "
         "TRAIN.CHECKPOINT_FILE_PATH)", lambda flat: not flat["VAL_MODE"], WEIGHTS),
    Pair(("TRAIN.CHECKPOINT_EPOCH_RESET",), ("TRAIN.CHECKPOINT_FILE_PATH",),
         "TRAIN.CHECKPOINT_FILE_PATH", lambda flat: bool(flat["TRAIN.CHECKPOINT_FILE_PATH"])),
    # Patching.
    Pair(("TEST.PATCHING_RATIO",), ("TEST.PATCHING_MODEL", "TEST.PATCHING_RATIOS"),
         "TEST.PATCHING_MODEL True", _patches, RESULT),
    Pair(("TEST.PATCHING_RATIO",), ("TEST.PATCHING_RATIOS",),
         "TEST.PATCHING_RATIOS left out (these are tested)",
         lambda flat: not flat["TEST.PATCHING_RATIOS"]),
    Pair(("TEST.CLIP_ORI_PATH",), ("TEST.PATCHING_MODEL", "MODEL.CLIP_PATH"),
         "patching (TEST.PATCHING_MODEL True), or MODEL.CLIP_PATH left out",
         lambda flat: _patches(flat) or not flat["MODEL.CLIP_PATH"], HARMLESS),
    Pair(("TRAIN.CLIP_ORI_PATH",), (*_MIXING, "MODEL.CLIP_PATH"),
         f"{_MIXING[0]} True (or another that mixes with CLIP), or MODEL.CLIP_PATH left out",
         lambda flat: bool(any(flat[key] for key in _MIXING) or flat["TRAIN.EVAL_PATCHING_RATIO"]
                           or not flat["MODEL.CLIP_PATH"]), HARMLESS),
    # Training.
    is_on("MIXUP.ENABLE", under(
        "MIXUP", "ALPHA CUTMIX_ALPHA PROB SWITCH_PROB LABEL_SMOOTH_VALUE")),
    is_on("AUG.ENABLE", under(
        "AUG", "COLOR_JITTER AA_TYPE INTERPOLATION RE_PROB RE_MODE RE_COUNT RE_SPLIT")),
    Pair(("TRAIN.AMP_DTYPE",), ("TRAIN.MIXED_PRECISION", "TEST.MIXED_PRECISION"),
         "TRAIN.MIXED_PRECISION or TEST.MIXED_PRECISION True",
         lambda flat: bool(flat["TRAIN.MIXED_PRECISION"] or flat["TEST.MIXED_PRECISION"])),
    equals("DATA.RESIZE_MODE", ("longest", "auto"), ("DATA.FILL_COLOR",)),
    equals("MODEL.TEMPORAL_MODELING_TYPE", ("cross_frame_attend",), ("MODEL.FINETUNE_FACTOR",)),
    equals("MODEL.TEMPORAL_MODELING_TYPE", ("stadapt_zeroinit",),
            ("MODEL.ADAPT_FINETUNE_FACTOR",)),
    # Optimizer and schedule.
    equals("SOLVER.LR_POLICY", ("cosine",), under(
        "SOLVER", "COSINE_END_LR COSINE_AFTER_WARMUP COSINE_RESTART_EPOCH")),
    equals("SOLVER.LR_POLICY", ("steps_with_relative_lrs",), under("SOLVER", "STEPS LRS")),
    equals("SOLVER.OPTIMIZING_METHOD", ("sgd",), under("SOLVER", "MOMENTUM DAMPENING NESTEROV")),
    equals("SOLVER.OPTIMIZING_METHOD", ("adam", "adamw"), ("SOLVER.BETAS",)),
    Pair(("SOLVER.WARMUP_START_LR",), ("SOLVER.WARMUP_EPOCHS",), "SOLVER.WARMUP_EPOCHS over 0",
         lambda flat: flat["SOLVER.WARMUP_EPOCHS"] > 0, HARMLESS),
    # Testing, files and pictures.
    _is_empty("TEST.NUM_TEMPORAL_CLIPS", ("TEST.NUM_ENSEMBLE_VIEWS",)),
    Pair(("DATA.CACHE_MAX_GB",), ("DATA.CACHE_DIR",), "DATA.CACHE_DIR",
         lambda flat: bool(flat["DATA.CACHE_DIR"])),
    is_on("TENSORBOARD.ENABLE", under(
        "TENSORBOARD",
        "LOG_DIR CLASS_NAMES_PATH CONFUSION_MATRIX.ENABLE HISTOGRAM.ENABLE WRONG_PRED_VIS.ENABLE")),
    # Lists. Published scripts name all three, whatever they do.
    Pair(("TRAIN_FILE",), ("TRAIN.ENABLE",), "TRAIN.ENABLE True",
         lambda flat: bool(flat["TRAIN.ENABLE"]), HARMLESS),
    Pair(("VAL_FILE",), ("TRAIN.ENABLE", "VAL_MODE"), "TRAIN.ENABLE or VAL_MODE True", trains,
         HARMLESS),
    # Read by nothing; published files have them.
    Pair(("MODEL.DROPOUT_RATE", "SOLVER.GAMMA"), (),
         "anything that reads it, which is not implemented",
         lambda flat: False, HARMLESS),
]


def find_idle(cfg: CfgNode) -> list[str]:
    """Return ``KEY value: no effect without ...`` for each unread setting, for the log."""
    flat, defaults = flatten(cfg), flatten(get_cfg())
    idle = {key: pair for pair in PAIRS for key in pair.keys
             if flat[key] != defaults[key] and not pair.met(flat)}
    return [f"{key} {flat[key]}: no effect without {pair.needs}" for key, pair in idle.items()]


def refuse_idle(
    cfg: CfgNode, in_file: Collection[str], in_opts: Collection[str], file: str = "the file"
) -> list[str]:
    """Return a line for each setting of ``file`` or the command line that has no effect."""
    flat, defaults = flatten(cfg), flatten(get_cfg())
    lines: dict[str, str] = {}
    for pair in PAIRS:
        if pair.kind == HARMLESS or pair.met(flat):
            continue
        for key in pair.keys:
            value, where = flat[key], "--opts" if key in in_opts else file
            asked = value != defaults[key] or (key in in_opts and key in BY_DEFAULT)
            if asked and _is_refused(pair, key, in_file, in_opts):
                lines.setdefault(key, (
                    f"{where}: {key} is {value!r}, which has no effect without {pair.needs}; "
                    f"remove it, or {pair.remedy}"
                ))
    return list(lines.values())


def _is_refused(
    pair: Pair, key: str, in_file: Collection[str], in_opts: Collection[str]
) -> bool:
    if key in in_opts:
        return pair.kind == WEIGHTS or not any(switch in in_opts for switch in pair.switches)
    written = any(switch in in_opts or switch in in_file for switch in pair.switches)
    return key in in_file and pair.kind >= RESULT and not written
