"""Further weights that a checkpoint holds beside the current ones: their moving average (EMA).

An objective of training that keeps such weights stores them in its state, under ``weights``; those
that did not train are not stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvclip.utils.errors import CheckpointError, ConfigError

CURRENT = "current"
KEYS = {"ema": "TRAIN.EMA.ENABLE"}  # Who keeps other weights, and the key of training for it.
HELD = "weights"  # Key of an average of checkpoints: which of their weights it is of.


def check_which(which: str, given: bool) -> None:
    """Raise a ConfigError unless there are such weights, and a checkpoint is ``given``."""
    if which not in (CURRENT, *KEYS):
        raise ConfigError(f"weights is {which!r}; give {' or '.join((CURRENT, *KEYS))}")
    if which != CURRENT and not given:
        raise ConfigError(f"{which} weights are those of a checkpoint, but none is given; give one "
                          "(--checkpoint) or leave them out (--weights)")


def choose_weights(content: Any, which: str, where: Any) -> Any:
    """Return the content of a checkpoint with the weights ``which`` as its ``model_state``.

    Args:
        content: of the file.
        which: ``current``, or the objective that keeps others: ``ema``.
        where: the file.

    Raises:
        CheckpointError: it has no such weights, or they are not of its model.
    """
    if which == CURRENT:
        return content
    current = _get(content, "model_state")
    held = _get(_get(_get(content, "objectives"), which), "weights")
    if not isinstance(held, Mapping) or not isinstance(current, Mapping):
        if _get(content, HELD) == which:
            raise CheckpointError(f"{where} is itself an average of {which} weights and holds no "
                                  f"others; ask for its {CURRENT} ones, the default")
        raise CheckpointError(f"{where} has no {which} weights; checkpoints of a training with "
                              f"{KEYS[which]} True have them")
    wrong = [name for name, tensor in held.items()
             if name not in current or getattr(current[name], "shape", None) is None
             or current[name].shape != getattr(tensor, "shape", None)]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} of its {which} weights are not of its model, the first "
            f"{str(wrong[0])[:100]!r}: it is damaged; give another")
    return {**content, "model_state": {**current, **held}}


def name_weights(content: Any, which: str) -> str:
    """Return whose the weights ``which`` of a file are: an average of EMA weights is ``ema``."""
    stored = _get(content, HELD)
    return stored if which == CURRENT and isinstance(stored, str) and stored in KEYS else which


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None
