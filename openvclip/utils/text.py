"""Text from files, made safe to show: in a terminal, in the log, in a spreadsheet.

Class names, keys and paths come from files that others wrote. Some of their characters control a
terminal, reverse the text after them or are invisible; a spreadsheet computes cells that begin
like formulas.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# Control, format (directions, invisible), halves of characters, private, line and paragraph ends.
_SHOWN_AS_CODES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Joiners that some scripts and emoji are written with.
_JOINERS = "\u200c\u200d"
_NEW_LINE = re.compile(r"\n(?=\[\d)")
_NAMES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?", re.ASCII)


def _show(character: str) -> str:
    kind = unicodedata.category(character)
    if character in _JOINERS or kind not in _SHOWN_AS_CODES:
        return character
    if kind == "Cs":  # half of a character, as of a name that is not UTF-8
        return "\ufffd"
    code = ord(character)
    if code < 0x100:
        return _NAMES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clean(text: str) -> str:
    """Return one line in which every character is visible: others are written as codes.

    ``clean("a\\x1b[2J") == "a\\\\x1b[2J"``. Letters of every script are unchanged.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_show, text))


def clean_lines(text: str) -> str:
    """Clean text of several lines, keeping its tabs and line ends.

    A line after the first that begins as log lines do is indented, so that no name can pass
    for one.
    """
    if text.isascii() and text.isprintable():
        return text
    lines = ("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))
    return _NEW_LINE.sub("\n  ", "\n".join(lines))


def guard_cell(value: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet evaluates.

    Texts that begin like a formula get an apostrophe, as typing them into a spreadsheet would;
    numbers, written out or not, are unchanged. :func:`read_cell` removes it again.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def guard_row(row: Iterable[Any]) -> list[Any]:
    """Return a row with :func:`guard_cell` applied to every cell."""
    return [guard_cell(value) for value in row]


def show_row(row: Iterable[Any]) -> list[Any]:
    """Return a row of a CSV file for people: texts cleaned, then guarded; not to be read back."""
    return guard_row(clean(value) if isinstance(value, str) else value for value in row)


def read_cell(text: str) -> str:
    """Return what :func:`guard_cell` was given."""
    return text[1:] if _QUOTED.match(text) else text
