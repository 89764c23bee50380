"""Inspecting torch's pickles before they are read: how much they make, and of what kind.

A pickle is a list of operations. torch writes few kinds of them; other kinds are refused here, as
by torch itself. Each operation is followed, keeping only the size of each value.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# A tensor takes about 40 operations, so there is room for 25,000.
MOST_STEPS = 1_000_000
# Items in tuples, counted as often as they occur: hashing a tuple takes as many steps.
MOST_IN_TUPLE = 100_000
# The number with which a file in torch's older format begins.
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
# Calling one makes an object of whatever size it is given.
_MAKERS = re.compile(rb"(__builtin__|builtins)\nbytearray|torch(\.\w+)*\n\w*Tensor")


class ArchiveError(ValueError):
    """A file declares more than it can hold, or contradicts itself."""


class BombError(ArchiveError):
    """It would unpack to far more than its size."""


class _Kind(NamedTuple):
    """What an operation does.

    Attributes:
        fixed: bytes of its argument.
        length: bytes of the preceding number that says how many more there are.
        takes: values that it takes; -1: all back to the last mark.
        gives: whether it produces a value.
    """

    fixed: int = 0
    length: int = 0
    takes: int = 0
    gives: bool = True


_GLOBAL, _PUT, _LONG_PUT, _GET, _LONG_GET, _MARK, _STOP = b"cqrhj(."
_KINDS = {
    **dict.fromkeys(b"N\x88\x89)]}\x8f", _Kind()),
    ord("J"): _Kind(4), ord("K"): _Kind(1), ord("M"): _Kind(2), ord("G"): _Kind(8),
    ord("X"): _Kind(length=4), ord("U"): _Kind(length=1), 0x8A: _Kind(length=1),
    0x80: _Kind(1, gives=False), ord("Q"): _Kind(takes=1),
    0x85: _Kind(takes=1), 0x86: _Kind(takes=2), 0x87: _Kind(takes=3), ord("t"): _Kind(takes=-1),
    # The container stays and is not taken.
    ord("a"): _Kind(takes=1, gives=False), ord("s"): _Kind(takes=2, gives=False),
    ord("b"): _Kind(takes=1, gives=False), ord("e"): _Kind(takes=-1, gives=False),
    ord("u"): _Kind(takes=-1, gives=False), ord("R"): _Kind(takes=2), 0x81: _Kind(takes=2),
}


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
    scan = _Scan(data, most_steps)
    scan.run()
    if count > 1 and _TORCH_MAGIC in data[:16]:
        for _ in range(count - 1):
            scan.run()


class _Scan:
    """Follows the operations of one pickle after another."""

    def __init__(self, data: bytes, most_steps: int) -> None:
        self._data, self._place = data, 0
        self._most_steps, self._steps = most_steps, 0

    def run(self) -> None:
        """Follow one pickle to its end.

        Raises:
            ArchiveError: see :func:`check_pickles`.
        """
        try:
            self._run()
        except (IndexError, KeyError):
            raise ArchiveError("its pickle is cut off, damaged or not of torch's kind") from None

    def _run(self) -> None:
        data, place = self._data, self._place
        stack: list[Any] = []
        memo: dict[int, int] = {}
        for step in range(self._steps, self._most_steps):
            code = data[place]
            place += 1
            if code == _PUT:
                memo[data[place]] = stack[-1]
                place += 1
            elif code == _LONG_PUT:
                number = int.from_bytes(data[place:place + 4], "little")
                if number > self._most_steps:  # Python's reader makes room for all below it
                    raise ArchiveError(f"its pickle stores a value as number {number:,}")
                memo[number] = stack[-1]
                place += 4
            elif code == _GET:
                stack.append(memo[data[place]])
                place += 1
            elif code == _LONG_GET:
                stack.append(memo[int.from_bytes(data[place:place + 4], "little")])
                place += 4
            elif code == _MARK:
                stack.append(0)  # no value is of this size
            elif code == _GLOBAL:
                place = self._name(place)
                stack.append(1)
            elif code == _STOP:
                self._place, self._steps = place, step + 1
                return
            else:
                place = _step(_KINDS[code], data, place, stack)
        raise ArchiveError(f"its pickle has more than {self._most_steps:,} steps, as many as no "
                           "model needs")

    def _name(self, place: int) -> int:
        """Check the name of a class or function; return where its two lines end."""
        end = self._data.find(b"\n", self._data.find(b"\n", place) + 1)
        if not place < end < place + 1000:
            raise IndexError
        name = self._data[place:end]
        if _MAKERS.fullmatch(name):
            text = name.decode("ascii", "replace").replace("\n", ".")
            raise ArchiveError(f"its pickle makes a {text} of whatever size it says")
        return end + 1


def _step(kind: _Kind, data: bytes, place: int, stack: list[int]) -> int:
    """Do what most operations do; return the position of the next one."""
    place += kind.fixed
    if kind.length:
        place += kind.length + int.from_bytes(data[place:place + kind.length], "little")
    size = 0
    if kind.takes < 0:
        while top := stack.pop():
            size += top
    for _ in range(kind.takes):
        size += stack.pop()
    if kind.gives:
        if size > MOST_IN_TUPLE:
            raise ArchiveError("its pickle has tuples that contain one another too often")
        stack.append(1 + size)
    return place
