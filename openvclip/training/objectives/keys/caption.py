"""Config keys of training with captions."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, is_on
from openvclip.training.objectives.keys import refuse_with, switch

switch("caption", "TRAIN.CAPTION.ENABLE")


def trains_text(cfg: CfgNode) -> bool:
    caption = cfg.TRAIN.CAPTION
    return caption.ENABLE and caption.TEXT_TOWER == "trainable"


def check_captions(cfg: CfgNode) -> Iterator[str]:
    caption = cfg.TRAIN.CAPTION
    if not caption.ENABLE:
        return
    if not caption.FILE:
        yield ("TRAIN.CAPTION.FILE is empty; TRAIN.CAPTION.ENABLE True needs the file that "
               "tools/prepare_captions.py writes")
    if caption.LOSS_RATIO == 0:
        yield ("TRAIN.CAPTION.LOSS_RATIO is 0.0; TRAIN.CAPTION.ENABLE True needs a ratio over 0")


refuse_others = refuse_with("TRAIN.CAPTION.ENABLE True", lambda cfg: cfg.TRAIN.CAPTION.ENABLE, {
    "MIXUP.ENABLE": (False, "a mixed video has no caption"),
    "AUG.NUM_SAMPLE": (1, "a video would count its own caption as another's"),
    "TRAIN.LINEAR_CONNECT_PER_RANK": (False, "all processes' embeddings meet in one loss"),
})
refuse_head = refuse_with(
    "TRAIN.CAPTION.TEXT_TOWER trainable", trains_text,
    {"TUNE_HEAD": (False, "the class embeddings are those of the text tower")})

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
], rules=[check_captions, refuse_others, refuse_head])
