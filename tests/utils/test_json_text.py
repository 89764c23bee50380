"""JSON and numbers of files that others wrote: what is wrong with them is one kind of error."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from openvclip.utils.json_text import MOST, parse_json, read_whole

LIBRARY = Path(__file__).resolve().parents[2] / "openvclip"
FILES = [path for path in sorted(LIBRARY.rglob("*.py")) if path.name != "json_text.py"]


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[1" + "0" * 400 + "]", "-" + "9" * 20, "{", "",
    b"\xff",
])
def test_whatever_is_wrong_is_a_value_error_of_one_short_line(text):
    with pytest.raises(ValueError) as found:
        parse_json(text)
    assert "\n" not in str(found.value) and len(str(found.value)) < 200


def test_whatever_is_right_is_read_as_ever():
    text = json.dumps({"a": [1, -2**62, 1.5e300, None, "ü"], "b": {"c": True}})
    assert parse_json(text) == json.loads(text)
    assert parse_json('{"a": 1, "a": 2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_nobody_reads_json_otherwise(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("json.loads", "json.load"), node.lineno


def test_whole_numbers():
    assert read_whole(f" {MOST}\n") == MOST and read_whole("-3") == -3
    for text in (str(MOST + 1), "9" * 5000, "-" + "9" * 4000, "1.5", "", "x"):
        with pytest.raises(ValueError) as found:
            read_whole(text)
        assert len(str(found.value)) < 100
