"""Config keys of interpolated training."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import is_on
from openvclip.training.objectives.keys import refuse_with, switch

switch("connect", "TRAIN.LINEAR_CONNECT_CLIMB")


def check_connect(cfg: CfgNode) -> Iterator[str]:
    train = cfg.TRAIN
    if train.LINEAR_CONNECT_SAMPLE_L > train.LINEAR_CONNECT_SAMPLE_R:
        yield (f"TRAIN.LINEAR_CONNECT_SAMPLE_L is {train.LINEAR_CONNECT_SAMPLE_L}; it must not "
               f"exceed TRAIN.LINEAR_CONNECT_SAMPLE_R, {train.LINEAR_CONNECT_SAMPLE_R}")
    if train.LINEAR_CONNECT_CLIMB and train.LINEAR_CONNECT_LOSS_RATIO == 0:
        yield ("TRAIN.LINEAR_CONNECT_LOSS_RATIO is 0.0; TRAIN.LINEAR_CONNECT_CLIMB True needs a "
               "ratio over 0")
    if train.LINEAR_CONNECT_ANCHOR == "ema" and not train.EMA.ENABLE:
        yield ("TRAIN.LINEAR_CONNECT_ANCHOR is 'ema', but TRAIN.EMA.ENABLE is False; the anchor is "
               "that average: set TRAIN.EMA.ENABLE True")


refuse_others = refuse_with(
    "TRAIN.LINEAR_CONNECT_ANCHOR ema",
    # MODEL.TEXT_TOWER trainable makes them at each step, at the weights of each pass.
    lambda cfg: (cfg.TRAIN.LINEAR_CONNECT_CLIMB and cfg.TRAIN.LINEAR_CONNECT_ANCHOR == "ema"
                 and cfg.MODEL.TEXT_TOWER != "trainable"), {
        "TRAIN.CAPTION.TEXT_TOWER": ("frozen", "the class embeddings of the anchor would be those "
                                     "of a text tower that moves at every step"),
    })

declare({
    "TRAIN.LINEAR_CONNECT_CLIMB": False,  # Interpolated training (the connect loss).
    "TRAIN.LINEAR_CONNECT_LOSS_RATIO": 1.0,  # Weight of the loss at the interpolated weights.
    "TRAIN.LINEAR_CONNECT_SAMPLE": True,  # Draw the ratio at every step; True only.
    "TRAIN.LINEAR_CONNECT_SAMPLE_L": 0.4,  # Smallest share of the original CLIP.
    "TRAIN.LINEAR_CONNECT_SAMPLE_R": 0.6,  # Largest share of the original CLIP.
    # Ours. Multiply the interpolated gradient by (1 - ratio), as differentiation by the trained
    # weights would; the method leaves the factor out.
    "TRAIN.LINEAR_CONNECT_CHAIN_RULE": False,
    # Ours. What the weights are mixed with: clip, or ema, their moving average (TRAIN.EMA).
    "TRAIN.LINEAR_CONNECT_ANCHOR": "clip",
    # Ours. A ratio for each process, as published code draws.
    "TRAIN.LINEAR_CONNECT_PER_RANK": False,
}, choices={
    "TRAIN.LINEAR_CONNECT_SAMPLE": (True,),
    "TRAIN.LINEAR_CONNECT_ANCHOR": ("clip", "ema"),
}, ranges={
    "TRAIN.LINEAR_CONNECT_LOSS_RATIO": (0, None),
    "TRAIN.LINEAR_CONNECT_SAMPLE_L": (0, 1),
    "TRAIN.LINEAR_CONNECT_SAMPLE_R": (0, 1),
}, needs=[
    is_on("TRAIN.LINEAR_CONNECT_CLIMB", under(
        "TRAIN", "LINEAR_CONNECT_LOSS_RATIO LINEAR_CONNECT_SAMPLE_L LINEAR_CONNECT_SAMPLE_R "
        "LINEAR_CONNECT_CHAIN_RULE LINEAR_CONNECT_PER_RANK LINEAR_CONNECT_ANCHOR")),
], rules=[check_connect, refuse_others])
