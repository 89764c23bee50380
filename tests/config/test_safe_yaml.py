"""Settings that were written to do harm: refused in one line, at a bounded cost."""

from __future__ import annotations

import os

import pytest

from openvclip.config import load_cfg
from openvclip.config.safe_yaml import load_yaml
from openvclip.config.values import parse_text
from openvclip.utils.errors import ConfigError


def nested(make, depth: int = 30) -> str:
    """yaml in which each value has nine times the one before."""
    lines = ["a0: &a0 " + make(["x"] * 9)]
    lines += [f"a{i}: &a{i} " + make([f"*a{i - 1}"] * 9) for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def as_list(items):
    return f"[{', '.join(items)}]"


def as_mapping(items):
    return "{" + ", ".join(f"k{i}: {item}" for i, item in enumerate(items)) + "}"


def as_merge(items):
    return as_mapping(items) if items[0] == "x" else "{<<: [" + ", ".join(items) + "]}"


HOSTILE = {
    "list": nested(as_list), "mapping": nested(as_mapping), "merge": nested(as_merge),
    "itself": "a: &a [*a]\n", "merged itself": "a: &a {<<: *a}\n", "deep": "[" * 5000,
    "deep blocks": "- " * 500 + "x\n", "deep mapping": "{a: " * 500, "many": "- x\n" * 60_000,
    "large": "# " + "x" * 300_000, "number": "a: " + "1:" * 60_000 + "1\n",
    "hexadecimal": "a: 0x" + "f" * 60_000, "tag": "a: !!int '" + "1" * 5000 + "'\n",
    "key": "? [1, 2]\n: 3\n", "zero": "a: \0", "surrogate": "a: \ud800",
}
# Keys that are read and, with them, what the error prints.
NAMED = {kind: text.replace("a29:", "TRAIN:") for kind, text in HOSTILE.items()}


@pytest.mark.parametrize("kind", HOSTILE)
def test_one_line_for_every_kind(kind):
    with pytest.raises(ValueError) as caught:
        load_yaml(HOSTILE[kind])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert parse_text(HOSTILE[kind]) == HOSTILE[kind]


@pytest.mark.parametrize(("kind", "said"), [
    ("itself", "[*]a refers to itself"), ("deep blocks", "nested more than 30 levels deep")])
def test_what_is_wrong_is_said_plainly(kind, said):
    with pytest.raises(ValueError, match=said):
        load_yaml(HOSTILE[kind])


def test_aliases_within_reason_are_read():
    assert load_yaml("a: &a {x: 1, y: &y [2]}\nb: {<<: *a, z: *y}\nc: [*a, *a]\n") == {
        "a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2], "z": [2]},
        "c": [{"x": 1, "y": [2]}] * 2}


def test_hostile_configs_stay_small_and_quick(tmp_path, bounded):
    small = nested(as_list, 12)
    assert len(small) < 700
    (tmp_path / "small.yaml").write_text(small)
    paths = [tmp_path / "small.yaml", "/dev/zero", tmp_path / "pipe", tmp_path / "sparse"]
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 36)
    for number, (kind, text) in enumerate(NAMED.items()):
        if kind not in ("zero", "surrogate"):
            paths.append(tmp_path / f"{number}.yaml")
            paths[-1].write_text(text)
    for index, base in enumerate(paths[1:4]):
        paths.append(tmp_path / f"base{index}.yaml")
        paths[-1].write_text(f"_BASE_: {base}\n")
    found = bounded("""
        import sys
        from openvclip.config import load_cfg
        from openvclip.utils.errors import ConfigError
        for path in sys.argv[1:]:
            try:
                load_cfg(path)
            except ConfigError as error:
                assert "\\n" not in str(error) and len(str(error)) < 1000
                print(error)
    """, *paths)
    assert len(found.splitlines()) == len(paths)


@pytest.mark.parametrize("base", ["7", "1.5", "{a: 1}", "[7]", "[[x.yaml]]", "True", "2020-01-01"])
def test_bases_that_are_no_paths(tmp_path, base):
    (tmp_path / "run.yaml").write_text(f"_BASE_: {base}\n")
    with pytest.raises(ConfigError, match="run.yaml: _BASE_ is .*give the path"):
        load_cfg(tmp_path / "run.yaml")


def test_each_base_is_read_once_however_often_it_is_named(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(
            f"_BASE_: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "30.yaml").write_text("NUM_GPUS: 0\n")
    assert load_cfg(tmp_path / "0.yaml").NUM_GPUS == 0


def test_the_number_of_bases_is_bounded(tmp_path):
    (tmp_path / "x.yaml").write_text("NUM_GPUS: 0\n")
    (tmp_path / "run.yaml").write_text(f"_BASE_: [{', '.join(['x.yaml'] * 101)}]\n")
    with pytest.raises(ConfigError, match="run.yaml.*more than 100 files"):
        load_cfg(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text('_BASE_: "a\\0b"\n')
    with pytest.raises(ConfigError, match="no config file can have this name") as caught:
        load_cfg(tmp_path / "run.yaml")
    assert caught.value.args[0].isprintable()


def test_long_values_are_shown_in_part(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"TRAIN: {{BATCH_SIZE: {['x'] * 900}}}\nNO_KEY: {'x' * 9000}\n")
    with pytest.raises(ConfigError, match="TRAIN.BATCH_SIZE is ") as caught:
        load_cfg(tmp_path / "run.yaml")
    assert len(str(caught.value)) < 1000
