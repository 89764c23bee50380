"""Config keys of class texts that train: the text tower by classification, and prompts."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.doors import TEXT_TRAINERS
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, Pair, equals, is_on
from openvclip.training.objectives.keys import refuse_with, switch

switch("class_texts", "MODEL.TEXT_TOWER", "trainable")
switch("text_prompt", "MODEL.TEXT_PROMPT")


def trains_text(cfg: CfgNode) -> bool:
    return cfg.MODEL.TEXT_TOWER == "trainable"


def check_captions(cfg: CfgNode) -> Iterator[str]:
    caption = cfg.TRAIN.CAPTION
    if trains_text(cfg) and caption.ENABLE and caption.TEXT_TOWER != "trainable":
        yield (f"TRAIN.CAPTION.TEXT_TOWER is {caption.TEXT_TOWER}; with MODEL.TEXT_TOWER trainable "
               "it must be trainable: captions and classes share one text tower")


OTHERS = {
    "TUNE_HEAD": (False, "the class embeddings are those of the text tower"),
    "TRAIN.SHARDING": ("ddp", "processes encode different texts"),
    "TRAIN.LINEAR_CONNECT_PER_RANK": (False, "processes share the texts at the same weights"),
    "MODEL.STATIC_GRAPH": (False, "part of the backward pass is taken twice"),
}
refuse_others = refuse_with("MODEL.TEXT_TOWER trainable", trains_text, OTHERS)
refuse_with_prompts = refuse_with("MODEL.TEXT_PROMPT True", lambda cfg: cfg.MODEL.TEXT_PROMPT, {
    **OTHERS,
    "MODEL.TEXT_TOWER": ("frozen", "prompts come with what trains beside them"),
    "MODEL.TEXT_TEMPLATES": ("openvclip28", "prompts take the place of templates"),
    "MODEL.CLASS_DESCRIPTIONS": ("", "prompts take the place of descriptions"),
    "TRAIN.LORA.ENABLE": (False, "it freezes what trains with the prompts"),
    "TRAIN.CAPTION.ENABLE": (False, "captions would train the text tower without its prompts"),
})

declare({
    # Trained vectors in the classes' sentences instead of templates; beside them and the image
    # tower the text tower's positional embedding, last normalisation and projection train.
    "MODEL.TEXT_PROMPT": False,
    "MODEL.PROMPT_NUM": 1,  # How many, the same for all classes.
    # Ours. Factor on their learning rate; with MODEL.DEFAULT_FINETUNE_FACTOR 0 they train alone.
    "MODEL.PROMPT_FINETUNE_FACTOR": 1.0,
}, ranges={
    "MODEL.PROMPT_NUM": (1, None),
    "MODEL.PROMPT_FINETUNE_FACTOR": (0, None),
}, needs=[
    is_on("MODEL.TEXT_PROMPT", ("MODEL.PROMPT_NUM",), RESULT),
    is_on("MODEL.TEXT_PROMPT", ("MODEL.PROMPT_FINETUNE_FACTOR",)),
], rules=[refuse_with_prompts])

# Ours.
declare({
    # trainable: the classes' sentences are encoded at every step, with gradients; the text tower is
    # also interpolated, averaged and patched then. No captions are needed.
    "MODEL.TEXT_TOWER": "frozen",
    # So many templates, or descriptions of a class, drawn at each step; 0: all.
    "MODEL.TEXT_SAMPLE": 0,
    "MODEL.TEXT_CHUNK": 256,  # Most sentences whose activations are held at once.
}, choices={
    "MODEL.TEXT_TOWER": ("frozen", "trainable"),
}, ranges={
    "MODEL.TEXT_SAMPLE": (0, None),
    "MODEL.TEXT_CHUNK": (1, None),
}, needs=[
    equals("MODEL.TEXT_TOWER", ("trainable",), ("MODEL.TEXT_SAMPLE",)),
    Pair(("MODEL.TEXT_CHUNK",), ("MODEL.TEXT_TOWER", "MODEL.TEXT_PROMPT", "TRAIN.OBJECTIVES"),
         "MODEL.TEXT_TOWER trainable, MODEL.TEXT_PROMPT True, or an objective that trains the text "
         "tower",
         lambda flat: flat["MODEL.TEXT_TOWER"] == "trainable" or flat["MODEL.TEXT_PROMPT"]
         or not TEXT_TRAINERS.isdisjoint(flat["TRAIN.OBJECTIVES"])),
], rules=[check_captions, refuse_others])
