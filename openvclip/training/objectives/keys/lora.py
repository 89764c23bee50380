"""Config keys of LoRA."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import is_on
from openvclip.training.objectives.keys import refuse_with, switch
from openvclip.training.objectives.keys.caption import trains_text
from openvclip.utils.registry import not_a_choice

switch("lora", "TRAIN.LORA.ENABLE")
TARGETS = ("q", "k", "v", "out", "c_fc", "c_proj")


def check_lora(cfg: CfgNode) -> Iterator[str]:
    lora = cfg.TRAIN.LORA
    if not lora.TARGETS:
        yield f"TRAIN.LORA.TARGETS is empty; give some of {', '.join(TARGETS)}"
    for target in dict.fromkeys(lora.TARGETS):
        if target not in TARGETS:
            yield not_a_choice("TRAIN.LORA.TARGETS", target, TARGETS)
        elif lora.TARGETS.count(target) > 1:
            yield f"TRAIN.LORA.TARGETS has {target!r} {lora.TARGETS.count(target)} times"
    if lora.ENABLE and lora.ALPHA == 0:
        yield "TRAIN.LORA.ALPHA is 0.0; TRAIN.LORA.ENABLE True needs more than 0"


refuse_others = refuse_with("TRAIN.LORA.ENABLE True", lambda cfg: cfg.TRAIN.LORA.ENABLE, {
    "TRAIN.SHARDING": ("ddp", "what is added is not cut among processes"),
    "MODEL.TEXT_TOWER": ("frozen", "CLIP's weights stay; it adds to the image tower's"),
    "TRAIN.EMA.ENABLE": (False, "an average of factors is not the average of their product"),
    "MODEL.NUM_EXPERTS": (0, "it adds to a block's one MLP"),
    **{f"TRAIN.{key}": (False, "it acts on weights that stay as they are") for key in (
        "EWC_SET", "L2SP.ENABLE", "ZS_CONS", "ZS_INIT_CONS", "ZS_RESTART_CONS")},
    "MODEL.COMPILE": (False, "blocks that add to their weights do not share their code"),
})
refuse_text = refuse_with(
    "TRAIN.LORA.ENABLE True", lambda cfg: cfg.TRAIN.LORA.ENABLE and trains_text(cfg),
    {"TRAIN.CAPTION.TEXT_TOWER": ("frozen", "CLIP's weights stay; it adds to the image tower's")})

# Ours. LoRA (arXiv 2106.09685): CLIP stays as it is, and matrices of a low rank, added to some of
# the image tower's, train. Defaults are those of the paper's RoBERTa base (its table 9).
declare({
    "TRAIN.LORA.ENABLE": False,  # Train additions of a low rank only.
    "TRAIN.LORA.RANK": 8,  # r, their rank.
    "TRAIN.LORA.ALPHA": 8.0,  # Their factor is ALPHA / RANK.
    # What they are added to, in each block of the image tower: some of q, k, v (queries, keys,
    # values), out (the attention's output), c_fc and c_proj (the MLP's layers).
    "TRAIN.LORA.TARGETS": ["q", "v"],
}, ranges={
    "TRAIN.LORA.RANK": (1, None),
    "TRAIN.LORA.ALPHA": (0, None),
}, needs=[
    is_on("TRAIN.LORA.ENABLE", under("TRAIN.LORA", "RANK ALPHA TARGETS")),
], rules=[check_lora, refuse_others, refuse_text])
