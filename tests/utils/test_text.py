"""What files call things is shown so that it can do nothing, and be read."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest

from openvclip.utils.text import clean, clean_lines, guard_cell, guard_row, read_cell


@pytest.mark.parametrize(("text", "shown"), [
    ("plain", "plain"), ("café 中文 ไทย हिन्दी עברית", "café 中文 ไทย हिन्दी עברית"),
    ("\x1b[2J", r"\x1b[2J"), ("\x1b]0;title\x07", r"\x1b]0;title\x07"), ("\x9b1m", r"\x9b1m"),
    ("a\u202eb\u2066c", r"a\u202eb\u2066c"), ("a\nb\rc\td", r"a\nb\rc\td"),
    ("\u2028\u200b\ufeff\x00\x7f", r"\u2028\u200b\ufeff\x00\x7f"), ("\udce9", "\ufffd"),
    ("\U000e0041", r"\U000e0041"), ("👩\u200d🍳", "👩\u200d🍳"),
])
def test_one_line(text, shown):
    assert clean(text) == shown


def test_no_character_of_all_commands_a_terminal():
    text = "".join(map(chr, range(0x110000)))
    left = {unicodedata.category(sign) for sign in clean(text)}
    assert not left & {"Cc", "Cs", "Zl", "Zp", "Co"}
    assert {sign for sign in clean(text) if unicodedata.category(sign) == "Cf"} == {
        "\u200c", "\u200d"}


def test_lines_stay_lines_and_cannot_pass_for_the_logs():
    assert clean_lines("a\tb\n  c\x1b") == "a\tb\n  c\\x1b"
    forged = "[11/23 13:00:00][INFO] a\n[11/23 13:00:01][INFO] all is well"
    assert clean_lines(forged) == "[11/23 13:00:00][INFO] a\n  [11/23 13:00:01][INFO] all is well"


NAMES = ["=1+1", "+a", "-b.mp4", "@c", "\td", "\re", "'=x", "''=x", "'quoted'", "a=b", "", "-",
         "'-1", "-1", "-1.5", "+3e-5", "=-1", "-1+cmd|' /C calc'!A0", "-nan", "- 1"]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_read_back_as_they_were(name):
    cell = guard_cell(name)
    assert read_cell(cell) == name
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r") or float(cell) is not None
    file = io.StringIO(newline="")
    csv.writer(file).writerow(guard_row([name, -1.5, None]))
    row = next(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert [read_cell(row[0]), *row[1:]] == [name, "-1.5", ""]


def test_all_cells_differ():
    assert len({guard_cell(name) for name in NAMES}) == len(NAMES)
    assert guard_cell(-2) == -2 and guard_cell("-2") == "-2" and guard_cell("=2") == "'=2"
