"""Config keys of the raw model: the original CLIP, frozen, beside the one that trains."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import HARMLESS, RESULT, Flat, Pair, is_on, trains
from openvclip.training.objectives.keys import refuse_with, switch

switch("distill", "MODEL.RAW_MODEL_DISTILLATION")
# Objectives that keep the raw model whatever MODEL.KEEP_RAW_MODEL says.
WITH_RAW_MODEL: set[str] = set()


def reads_raw(flat: Flat) -> bool:
    reads = flat["MODEL.RAW_MODEL_DISTILLATION"] or flat["TRAIN.EWC_SET"]
    return bool((trains(flat) and reads) or flat["MODEL.ENSEMBLE_PRED"]
                or not WITH_RAW_MODEL.isdisjoint(flat["TRAIN.OBJECTIVES"]))


def check_raw(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    for name in ("RAW_MODEL_DISTILLATION", "ENSEMBLE_PRED"):
        if model[name] and not model.KEEP_RAW_MODEL:
            yield (f"MODEL.{name} is True, but MODEL.KEEP_RAW_MODEL is False; it needs the raw "
                   "model: set MODEL.KEEP_RAW_MODEL True")
    if model.RAW_MODEL_DISTILLATION and model.DISTILLATION_RATIO == 0:
        yield ("MODEL.DISTILLATION_RATIO is 0.0; MODEL.RAW_MODEL_DISTILLATION True needs a ratio "
               "over 0")
    if model.ENSEMBLE_PRED and cfg.TEST.ENABLE and cfg.TEST.TASK == "retrieval":
        yield ("MODEL.ENSEMBLE_PRED is True, which mixes logits of classes; TEST.TASK 'retrieval' "
               "has none: set it to False")


refuse_others = refuse_with(
    "MODEL.RAW_MODEL_DISTILLATION True", lambda cfg: cfg.MODEL.RAW_MODEL_DISTILLATION, {
        "DATA.MULTI_LABEL": (False, "it compares probabilities of single labels"),
    })

declare({
    # Keep the original CLIP, with frames that do not see each other, beside the model.
    "MODEL.KEEP_RAW_MODEL": False,
    # Add the divergence of the model's class probabilities from the raw model's to the loss.
    "MODEL.RAW_MODEL_DISTILLATION": False,
    "MODEL.DISTILLATION_RATIO": 1.0,  # Its weight.
    "MODEL.ENSEMBLE_PRED": False,  # In tests, mix the raw model's logits into the model's.
    "MODEL.ENSEMBLE_RAWMODEL_RATIO": 0.0,  # Share of the raw model's logits.
}, ranges={
    "MODEL.DISTILLATION_RATIO": (0, None),
    "MODEL.ENSEMBLE_RAWMODEL_RATIO": (0, 1),
}, needs=[
    is_on("MODEL.RAW_MODEL_DISTILLATION", under("MODEL", "DISTILLATION_RATIO")),
    is_on("MODEL.ENSEMBLE_PRED", under("MODEL", "ENSEMBLE_RAWMODEL_RATIO"), RESULT),
    Pair(("MODEL.ENSEMBLE_PRED",), ("TEST.ENABLE",),
         "TEST.ENABLE True (validation scores the model's own logits)",
         lambda flat: bool(flat["TEST.ENABLE"]), HARMLESS),
    Pair(("MODEL.KEEP_RAW_MODEL",),
         ("MODEL.RAW_MODEL_DISTILLATION", "MODEL.ENSEMBLE_PRED", "TRAIN.EWC_SET"),
         "MODEL.RAW_MODEL_DISTILLATION, MODEL.ENSEMBLE_PRED or TRAIN.EWC_SET True", reads_raw),
], rules=[check_raw, refuse_others])
