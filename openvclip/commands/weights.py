"""The option --weights of commands that read a checkpoint."""

from __future__ import annotations

from collections.abc import Callable


def add_weights_option(add: Callable) -> None:
    """Add it to a parser, by its ``add_argument``."""
    add("--weights", choices=("current", "ema"), default="current",
        help="of a checkpoint: the current ones, or ema, their moving average (TRAIN.EMA); "
        "default: current")
