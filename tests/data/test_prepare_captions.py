"""``tools/prepare_captions.py``: formats, bad entries, and how lists match."""

from __future__ import annotations

import importlib.util
import json
import pickle

import pytest
import torch

from openvclip.clip.tokenizer import count_tokens
from openvclip.data.captions.index import CaptionFile
from openvclip.data.captions.prepare import describe_preparation, prepare_captions
from openvclip.utils.errors import ConfigError, DataError

PAIRS = {"train/a b/x y.mp4": ["one", "two, with a comma"], "train/c/Zz_1.mp4": ["three"]}


@pytest.fixture
def tool(repo):
    """The tool's module."""
    path = repo / "tools/prepare_captions.py"
    spec = importlib.util.spec_from_file_location("prepare_captions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, content):
    """Write captions in the format of the file's extension; return the path."""
    if path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def prepare(tmp_path, *sources, **options):
    return prepare_captions(sources, tmp_path / "out.sqlite", count_tokens=count_tokens, **options)


@pytest.mark.parametrize(("name", "content"), [
    ("c.pt", {**PAIRS, "train/c/Zz_1.mp4": "three"}),
    ("c.json", {**PAIRS, "train/c/Zz_1.mp4": "three"}),
    ("c.json", '{"x y": "one", "x y": "two, with a comma", "Zz_1.mp4": ["three"]}'),
    ("c.JSON", [{"video": "x y", "caption": PAIRS["train/a b/x y.mp4"]},
                {"path": "Zz_1", "sentence": "three"}]),
    ("c.jsonl", '\ufeff{"video": "x y", "caption": "one"}\n\n'
                '{"video": "Zz_1", "captions": ["three"], "more": {"a": 1}}\n'
                '{"video": "x y", "caption": "two, with a\\ncomma"}'),
    ("c.csv", 'x y,one\r\nx y,"two, with a comma"\r\nZz_1, three \r\n'),
    ("c.csv", 'number,Caption,video\n1,one,x y\n2,"two,\nwith a comma",x y\n3,three,Zz_1\n'),
])
def test_every_format_gives_the_same_captions(tmp_path, name, content):
    result = prepare(tmp_path, write(tmp_path / name, content))
    captions = CaptionFile(tmp_path / "out.sqlite")
    assert captions.get("test/x_y.avi") == ["one", "two, with a comma"]
    assert captions.get("Zz_1.mp4") == ["three"]
    assert (result["videos"], result["captions"], result["longest_tokens"]) == (2, 3, 8)
    assert all(problem["count"] == 0 for problem in result["problems"].values())


def test_bad_entries_are_counted_named_and_left_out(tmp_path):
    source = write(tmp_path / "c.json", {
        "a/good.mp4": [" two  words ", "two words", "other"], "a/empty.mp4": "", "a/blank.mp4": " ",
        "a/none.mp4": None, "a/list.mp4": [], "a/number.mp4": [3, "kept"], "a/dict.mp4": {"a": 1},
        "b/good.mp4": "of another folder", "": "no name", "a/half.mp4": "\ud800",
        "a/\ud800.mp4": "x", "a/long.mp4": "word " * 76, "a/fits.mp4": "word " * 75,
    })
    result = prepare(tmp_path, source, report=tmp_path / "deep/report.json")
    found = {kind: problem["entries"] for kind, problem in result["problems"].items()}
    assert found == {
        "unreadable": ["entry 9: '' is not a path", "entry 11: 'a/\\ud800.mp4' is not a path"],
        "empty": ["a/empty.mp4", "a/blank.mp4", "a/none.mp4", "a/list.mp4"],
        "not_text": ["a/number.mp4: 3", "a/dict.mp4: [('a', 1)]", "a/half.mp4: '\\ud800'"],
        "repeated": ["a/good.mp4: two words"],
        "same_name": ["b/good.mp4 (first: a/good.mp4)"],
        "over_long": ["a/long.mp4: 78 tokens"],
    }
    captions = CaptionFile(tmp_path / "out.sqlite")
    assert list(captions.names()) == ["fits", "good", "long", "number"]
    assert captions.get("good") == ["two words", "other"] and captions.get("number") == ["kept"]
    assert captions.get("long") == [("word " * 76).strip()]
    assert json.loads((tmp_path / "deep/report.json").read_text("utf-8")) == result
    text = "\n".join(describe_preparation(result))
    assert "4 videos with 5 captions, the longest of 78 tokens" in text
    assert "tokens, kept, of which CLIP sees the beginning: 1\n  a/long.mp4: 78 tokens" in text


def test_bad_rows_are_named_by_line(tmp_path):
    lines = ['{"video": "a", "caption": "x"}', "{", "[1]", '{"caption": "x"}', '{"video": "b"}',
             '{"video": 5, "caption": "x"}']
    result = prepare(tmp_path, write(tmp_path / "c.jsonl", "\n".join(lines)))
    assert result["problems"]["unreadable"]["entries"] == [
        "line 2: not JSON", "line 3: not an object with a field 'video'",
        "line 4: not an object with a field 'video'", "line 6: 5 is not a path",
    ]
    assert result["problems"]["empty"]["entries"] == ["b"]
    result = prepare(tmp_path, write(tmp_path / "c.csv", "a,x\nb\nc,one, two\n"))
    assert result["problems"]["unreadable"]["entries"] == [
        "line 2: 1 columns, expected 2", "line 3: 3 columns, expected 2"]


def test_several_files_are_put_together(tmp_path):
    first = write(tmp_path / "a.json", {"train/x.mp4": "one"})
    second = write(tmp_path / "b.csv", "/data/x.mp4,two\n/data/x.mp4,one\n/data/y.mp4,three\n")
    result = prepare(tmp_path, first, second, first)
    assert CaptionFile(tmp_path / "out.sqlite").get("x.mp4") == ["one", "two"]
    assert result["problems"]["repeated"]["count"] == 1
    assert result["problems"]["same_name"]["count"] == 0
    assert [source["entries"] for source in result["sources"]] == [1, 3]


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("c.txt", "a,b", r"extension '\.txt' is none of \.pt, \.json, \.jsonl, \.csv"),
    ("c.json", "{", "are not JSON"),
    ("c.json", "[" * 100_000, "are not JSON"),
    ("c.json", "3", "are a int; expected a dict"),
    ("c.json", "[]", "no caption is left .*: there is no entry; nothing was written"),
    ("c.json", {"a": "", "b": 2}, r"1 empty \(first: a\), 1 not text \(first: b: 2\)"),
    ("c.csv", 'a,"' + "x" * 200_000, "line 1: field larger.*is a quote left open"),
    ("c.pt", [1], "are a list; expected a dict"),
    ("c.pt", {"a": Evil()}, "nothing else is unpickled"),
])
def test_files_that_cannot_be_used_are_named_and_nothing_is_written(
    tmp_path, capsys, name, content, message
):
    source = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, source)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name] and capsys.readouterr().out == ""


def test_damaged_missing_and_undecodable_files_are_named(tmp_path):
    whole = write(tmp_path / "c.pt", PAIRS).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    (tmp_path / "latin.csv").write_bytes(b"a,caf\xe9\n")
    for name, message in {"cut.pt": r"cut\.pt \(\d+ bytes\)", "pickle.pt": "plain dict",
                          "none.pt": "do not exist", "none.csv": "do not exist",
                          "latin.csv": "are not UTF-8"}.items():
        with pytest.raises(DataError, match=message):
            prepare(tmp_path, tmp_path / name)


def test_lists_are_compared(tmp_path, tool, capsys):
    source = write(tmp_path / "c.pt", {f"k/{i:011d}.mp4": "a caption" for i in range(20)})
    train = tmp_path / "train.csv"
    train.write_text("".join(f"c/{i:011d}.mkv 0\n" for i in range(10, 40)) + "d/00000000010.mp4 1")
    val = tmp_path / "val.csv"
    val.write_text("none.mp4 1\n")
    report = tmp_path / "report.json"
    arguments = ["--captions", str(source), "--output", str(tmp_path / "out"), "--list", str(train),
                 str(val), "--separator", " ", "--report", str(report)]
    assert tool.main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{train}: 11 of 31 videos have captions (35.48 %)\n  without: c/00000000020.mkv" in text
    assert "c/00000000024.mkv" in text and "c/00000000025.mkv" not in text
    assert ("  and 15 more\n"
            "  of these, with the captions of another video of the same name: 1") in text
    assert "none matches: 'none.mp4' is looked up as 'none'; is --separator right?" in text
    assert "videos with captions that are in no list: 10\n  00000000000\n" in text
    assert "20 videos with 20 captions, one each" in text
    found = json.loads(report.read_text())
    assert len(found["lists"][0]["unmatched"]) == 20 and found["unused"]["count"] == 10
    assert found["lists"][0]["shared"] == ["d/00000000010.mp4"]
    assert found["bytes"] == (tmp_path / "out").stat().st_size


def test_the_tool_reports_in_one_line_and_keeps_the_old_file(tmp_path, tool, capsys):
    output = tmp_path / "out"
    good = write(tmp_path / "c.json", PAIRS)
    assert tool.main(["--captions", str(good), "--output", str(output)]) == 0
    before = output.read_bytes()
    bad = write(tmp_path / "bad.json", {"a": ""})
    capsys.readouterr()
    assert tool.main(["--captions", str(bad), "--output", str(output)]) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert "DataError: no caption is left of" in lines[-1] and "Traceback" not in "".join(lines)
    assert output.read_bytes() == before
    missing = ["--captions", str(good), "--output", str(output), "--list", str(tmp_path / "no.csv")]
    assert tool.main(missing) == 2
    assert "cannot read the list" in capsys.readouterr().out


def test_impossible_options_are_refused(tmp_path):
    source = write(tmp_path / "c.json", PAIRS)
    for options, message in (
        ({"separator": ""}, "--separator is empty"),
        ({"report": source}, "would be replaced"),
        ({"report": tmp_path / "out.sqlite"}, "are the same file"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(tmp_path, source, **options)
    with pytest.raises(ConfigError, match="is a folder"):
        prepare_captions([source], tmp_path, count_tokens=count_tokens)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the caption file"):
        prepare_captions([source], tmp_path / "file/out", count_tokens=count_tokens)
    with pytest.raises(DataError, match="cannot write the report"):
        prepare(tmp_path, source, report=tmp_path / "file/report.json")
