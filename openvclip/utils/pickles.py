"""Inspecting torch's pickles before they are read: how much they make, and of what kind.

A pickle is a list of operations. torch writes few kinds of them; other kinds are refused here, as
by torch itself. Each operation is followed, keeping only the size of each value.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import Any

# A tensor takes about 40 operations, so there is room for 25,000.
MOST_STEPS = 1_000_000
# Items in tuples, counted as often as they occur: hashing a tuple takes as many steps.
MOST_IN_TUPLE = 100_000
# The number with which a file in torch's older format begins.
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
# Calling one makes an object of whatever size it is given.
_MAKERS = re.compile(r"(__builtin__|builtins) bytearray|torch(\.\w+)* \w*Tensor")
# The operations that torch writes, and how many values each takes (-1: all back to the last mark):
# those that make a value of them, and those that do not, such as filling a container, which stays.
_MAKING = {
    **dict.fromkeys((
        "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET",
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
        "GLOBAL"), 0),
    "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": -1, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2,
}
_FILLING = {"PROTO": 0, "STOP": 0, "APPEND": 1, "APPENDS": -1, "SETITEM": 2, "SETITEMS": -1,
            "BUILD": 1}


class ArchiveError(ValueError):
    """A file declares more than it can hold, or contradicts itself."""


class BombError(ArchiveError):
    """It would unpack to far more than its size."""


def check_pickles(data: bytes, count: int, most_steps: int = MOST_STEPS) -> None:
    """Follow the pickles at the beginning of ``data``.

    Args:
        data: their bytes, and any that come after.
        count: how many; only the first if that is not the number with which torch's older format
            begins.
        most_steps: most operations that they may have in all.

    Raises:
        ArchiveError: they make too much, or an object of any size they like, or are cut off or not
            of torch's kind.
    """
    file, steps = io.BytesIO(data), 0
    try:
        for _ in range(count if _TORCH_MAGIC in data[:16] else 1):
            steps = _follow(file, steps, most_steps)
    except ArchiveError:
        raise
    except (IndexError, KeyError, ValueError):
        raise ArchiveError("its pickle is cut off, damaged or not of torch's kind") from None


def _follow(file: io.BytesIO, steps: int, most_steps: int) -> int:
    """Follow one pickle to its end; return the number of steps with those before it."""
    stack: list[int] = []  # the size of each value; 0 is a mark
    memo: dict[int, int] = {}
    argument: Any  # an int or a text, by the operation
    for operation, argument, _ in pickletools.genops(file):
        name, steps = operation.name, steps + 1
        if steps > most_steps:
            raise ArchiveError(f"its pickle has more than {most_steps:,} steps, as many as no "
                               "model needs")
        if name in ("BINPUT", "LONG_BINPUT"):
            if argument > most_steps:  # Python's reader makes room for all below it
                raise ArchiveError(f"its pickle stores a value as number {argument:,}")
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(0)
        elif name == "GLOBAL" and _MAKERS.fullmatch(argument):
            raise ArchiveError(f"its pickle makes a {argument.replace(' ', '.')} of whatever size "
                               "it says")
        elif name in _MAKING:
            size = _take(stack, _MAKING[name])
            if size > MOST_IN_TUPLE:
                raise ArchiveError("its pickle has tuples that contain one another too often")
            stack.append(1 + size)
        else:
            _take(stack, _FILLING[name])
    return steps


def _take(stack: list[int], count: int) -> int:
    """Take values off the stack; return their size together."""
    size = 0
    while count < 0 and (top := stack.pop()):
        size += top
    for _ in range(count):
        size += stack.pop()
    return size
