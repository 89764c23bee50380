"""Config keys of the objectives that come with the package; importing them takes no torch."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import flatten, under
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, is_on

# Objectives that keys of their own switch on.
SWITCHES = {"connect": "TRAIN.LINEAR_CONNECT_CLIMB", "caption": "TRAIN.CAPTION.ENABLE"}


def check_objectives(cfg: CfgNode) -> Iterator[str]:
    names = cfg.TRAIN.OBJECTIVES
    for name in dict.fromkeys(names):
        if name in SWITCHES:
            yield (f"TRAIN.OBJECTIVES has {name!r}, which {SWITCHES[name]} True switches on; set "
                   "that instead")
        elif names.count(name) > 1:
            yield f"TRAIN.OBJECTIVES has {name!r} {names.count(name)} times; give it once"


declare({
    # Ours. Additional objectives: names of objectives that extensions register, see
    # docs/extending.md.
    "TRAIN.OBJECTIVES": [],
}, types={"TRAIN.OBJECTIVES": str}, rules=[check_objectives])


def check_connect(cfg: CfgNode) -> Iterator[str]:
    train = cfg.TRAIN
    if train.LINEAR_CONNECT_SAMPLE_L > train.LINEAR_CONNECT_SAMPLE_R:
        yield (f"TRAIN.LINEAR_CONNECT_SAMPLE_L is {train.LINEAR_CONNECT_SAMPLE_L}; it must not "
               f"exceed TRAIN.LINEAR_CONNECT_SAMPLE_R, {train.LINEAR_CONNECT_SAMPLE_R}")
    if train.LINEAR_CONNECT_CLIMB and train.LINEAR_CONNECT_LOSS_RATIO == 0:
        yield ("TRAIN.LINEAR_CONNECT_LOSS_RATIO is 0.0; TRAIN.LINEAR_CONNECT_CLIMB True needs a "
               "ratio over 0")


declare({
    "TRAIN.LINEAR_CONNECT_CLIMB": False,  # Interpolated training (the connect loss).
    "TRAIN.LINEAR_CONNECT_LOSS_RATIO": 1.0,  # Weight of the loss at the interpolated weights.
    "TRAIN.LINEAR_CONNECT_SAMPLE": True,  # Draw the ratio at every step; True only.
    "TRAIN.LINEAR_CONNECT_SAMPLE_L": 0.4,  # Smallest share of the original CLIP.
    "TRAIN.LINEAR_CONNECT_SAMPLE_R": 0.6,  # Largest share of the original CLIP.
    # Ours. Multiply the interpolated gradient by (1 - ratio), as differentiation by the trained
    # weights would; the method leaves the factor out.
    "TRAIN.LINEAR_CONNECT_CHAIN_RULE": False,
    # Ours. A ratio for each process, as published code draws.
    "TRAIN.LINEAR_CONNECT_PER_RANK": False,
}, choices={
    "TRAIN.LINEAR_CONNECT_SAMPLE": (True,),
}, ranges={
    "TRAIN.LINEAR_CONNECT_LOSS_RATIO": (0, None),
    "TRAIN.LINEAR_CONNECT_SAMPLE_L": (0, 1),
    "TRAIN.LINEAR_CONNECT_SAMPLE_R": (0, 1),
}, needs=[
    is_on("TRAIN.LINEAR_CONNECT_CLIMB", under(
        "TRAIN", "LINEAR_CONNECT_LOSS_RATIO LINEAR_CONNECT_SAMPLE_L LINEAR_CONNECT_SAMPLE_R "
        "LINEAR_CONNECT_CHAIN_RULE LINEAR_CONNECT_PER_RANK")),
], rules=[check_connect])


def check_captions(cfg: CfgNode) -> Iterator[str]:
    caption = cfg.TRAIN.CAPTION
    if not caption.ENABLE:
        return
    if not caption.FILE:
        yield ("TRAIN.CAPTION.FILE is empty; TRAIN.CAPTION.ENABLE True needs the file that "
               "tools/prepare_captions.py writes")
    if caption.LOSS_RATIO == 0:
        yield ("TRAIN.CAPTION.LOSS_RATIO is 0.0; TRAIN.CAPTION.ENABLE True needs a ratio over 0")
    without = {
        "MIXUP.ENABLE": (False, "a mixed video has no caption"),
        "AUG.NUM_SAMPLE": (1, "a video would count its own caption as another's"),
        "TRAIN.LINEAR_CONNECT_PER_RANK": (False, "all processes' embeddings meet in one loss"),
    }
    if caption.TEXT_TOWER == "trainable":
        without["TUNE_HEAD"] = (False, "the class embeddings are those of the text tower")
    flat = flatten(cfg)
    for key, (allowed, why) in without.items():
        if flat[key] != allowed:
            yield (f"{key} is {flat[key]}; with TRAIN.CAPTION.ENABLE True it must be {allowed}: "
                   f"{why}")


# Ours. Captions of the training videos (Open-VCLIP++): in addition to the classification loss, a
# contrastive one between videos and captions over the whole global batch.
declare({
    "TRAIN.CAPTION.ENABLE": False,  # Use them.
    "TRAIN.CAPTION.FILE": "",  # What tools/prepare_captions.py wrote.
    "TRAIN.CAPTION.LOSS_RATIO": 1.0,  # Weight of their loss.
    # contrastive (published), or sigmoid: SigLIP's, for a CLIP that was trained with it.
    "TRAIN.CAPTION.LOSS": "contrastive",
    # frozen, or trainable: then the text tower is also interpolated, averaged and patched, and
    # the class embeddings are computed again at the beginning of every epoch.
    "TRAIN.CAPTION.TEXT_TOWER": "frozen",
    # Of several captions of a video: random draws one for each epoch, first takes the first.
    "TRAIN.CAPTION.SAMPLE": "random",
}, choices={
    "TRAIN.CAPTION.LOSS": ("contrastive", "sigmoid"),
    "TRAIN.CAPTION.TEXT_TOWER": ("frozen", "trainable"),
    "TRAIN.CAPTION.SAMPLE": ("random", "first"),
}, ranges={
    "TRAIN.CAPTION.LOSS_RATIO": (0, None),
}, needs=[
    is_on("TRAIN.CAPTION.ENABLE", ("TRAIN.CAPTION.FILE",), RESULT),
    is_on("TRAIN.CAPTION.ENABLE", under("TRAIN.CAPTION", "LOSS_RATIO LOSS TEXT_TOWER SAMPLE")),
], rules=[check_captions])
