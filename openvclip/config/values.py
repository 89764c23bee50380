"""Converting what a file or a command line says to a value of the key's type."""

from __future__ import annotations

import ast
from typing import Any

from openvclip.config.auto import AUTO
from openvclip.config.auto import KEYS as AUTO_KEYS
from openvclip.config.safe_yaml import MOST_BYTES, load_yaml

# Types of the keys whose default is None, and of the elements of lists that are empty by default.
OPTIONAL: dict[str, type] = {
    "SOLVER.CLIP_GRAD_VAL": float,
    "SOLVER.CLIP_GRAD_L2NORM": float,
    "AUG.MAX_MASK_PATCHES_PER_BLOCK": int,
}
ELEMENTS: dict[str, type] = {
    "EXTENSIONS": str,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": float,
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": float,
    "TRAIN.CHECKPOINT_KEEP_RANGE": int,
    "SOLVER.LRS": float,
    "SOLVER.STEPS": int,
    "TEST.NUM_TEMPORAL_CLIPS": int,
    "TEST.PATCHING_RATIOS": float,
}
MOST_INT = 2**64  # Keys of smaller ranges say so themselves.
_KINDS = {bool: "True or False", int: "an int", float: "a number", str: "a string"}


def parse_text(text: str) -> Any:
    """Return ``text`` read as a Python literal, else as yaml, else unchanged."""
    if len(text) > MOST_BYTES // 4:
        return text  # no setting is that long, and Python's reader takes much memory
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    try:
        return load_yaml(text)
    except ValueError:
        return text


def _unquote(text: str) -> str:
    """Remove the quotes that a shell script put inside the argument."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        value = parse_text(text)
        return value if isinstance(value, str) else text
    return text


def _scalar(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind`` or raise TypeError; only text and int to float are converted."""
    if kind is not str and isinstance(value, str):
        value = parse_text(value)  # among others 1e-5, which yaml 1.1 takes for a string
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise TypeError from None
    if type(value) is not kind or (kind is int and abs(value) > MOST_INT):
        raise TypeError
    if kind is str and "\0" in value:  # which no path has, and no name
        raise TypeError
    return value


def _sequence(key: str, value: Any, default: list | tuple) -> Any:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    kind = type(default[0]) if default else ELEMENTS.get(key)
    if kind in _KINDS:
        value = [_scalar(item, kind) for item in value]
    return type(default)(value)


def expected(key: str, default: Any) -> str:
    """Say which values the key takes, for an error message."""
    return _expected(key, default) + (f", or {AUTO}," if key in AUTO_KEYS else "")


def _expected(key: str, default: Any) -> str:
    if isinstance(default, (list, tuple)):
        kind = type(default[0]) if default else ELEMENTS.get(key)
        names: dict[Any, str] = {int: " of ints", float: " of numbers", str: " of strings"}
        return f"a list{names.get(kind, '')}, such as [1, 2]" if kind is not str else "a list"
    if default is None:
        return f"{_KINDS[OPTIONAL.get(key, str)]} or None"
    return _KINDS[type(default)]


def convert(key: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type that ``default`` has.

    The type of a key whose default is None, or an empty list, is in a table above. An int is
    accepted for a float, and a list for a tuple and vice versa. Text is accepted for any type of
    which it is a literal. None clears a string whose default is empty. Some keys also take
    ``auto``.

    Raises:
        TypeError: the value is of another type.
    """
    kind = OPTIONAL.get(key, str) if default is None else type(default)
    if default is None and (value is None or value in ("None", "none", "null", "")):
        return None
    if key in AUTO_KEYS and isinstance(value, str) and _unquote(value) == AUTO:
        return AUTO
    if kind is str:
        if value in (None, "None") and default == "":
            return ""
        return _scalar(_unquote(_scalar(value, str)), str)
    if kind in (list, tuple):
        return _sequence(key, parse_text(value) if isinstance(value, str) else value, default)
    return _scalar(value, kind)
