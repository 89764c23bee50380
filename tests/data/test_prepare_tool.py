"""``tools/prepare_labels.py`` as a user calls it, and what it does to files that are there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.conftest_prepare import make_hmdb, make_ucf, read_rows, touch, ucf_video


@pytest.fixture
def tool(repo: Path):
    """The tool's module."""
    path = repo / "tools/prepare_labels.py"
    spec = importlib.util.spec_from_file_location("prepare_labels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ucf(tmp_path: Path) -> list[str]:
    """Command line for a small UCF-101."""
    videos, official = make_ucf(tmp_path)
    root = tmp_path / "root"
    return ["ucf101", "--videos", str(videos), "--annotations", str(official), "--root", str(root)]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_counts_are_printed(tool, ucf, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert tool.main(ucf) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert ("zs_label_db/ucf101_full/test.csv 15 of 13,320 published 5 of 101 0 / 0 / 3") in lines
    assert ("zs_label_db/ucf101_split2/test.csv 5 of 3,734 published 5 of 101 0 / 0 / 1") in lines
    assert ("zs_label_db/ucf101_split2/train.csv 10 5 of 101 0 / 0 / 2") in lines
    assert sum("ucf101_half_test" in line for line in lines) >= 10
    assert "Apply Eye Makeup 3" in " ".join(lines) and "Yoyo 3" in " ".join(lines)
    assert text.count("Apply Eye Makeup") == 1, "classes are counted once, not for every half"
    assert "96 of 101 classes have no videos" in text and "Apply Lipstick" not in text
    assert max(map(len, text.split("Videos per class")[1].split("note:")[0].splitlines()[1:])
               ) <= 120
    assert "42 files written, 0 unchanged" in text


def test_missing_and_extra_files_are_printed_by_name(tool, ucf, capsys):
    videos = Path(ucf[2])
    (videos / ucf_video("YoYo", 3)).unlink()
    touch(videos, [f"Diving/{i:02d}.avi" for i in range(30)] + ["YoYo/a\nb.avi"])
    assert tool.main(ucf) == 0
    text = capsys.readouterr().out
    assert "1 annotated files are not on disk:\n  YoYo/v_YoYo_g03_c01.avi" in text
    assert "30 videos on disk are in no list, the first 20, all in " in text
    assert "Diving/19.avi" in text and "Diving/20.avi" not in text
    assert "'YoYo/a\\nb.avi': a list cannot hold this name" in text
    reports = Path(ucf[6]) / "zs_label_db/ucf101_full"
    assert len((reports / "extra_files.txt").read_text().splitlines()) == 30


def test_strict_writes_nothing_if_files_are_missing(tool, ucf, capsys):
    (Path(ucf[2]) / ucf_video("YoYo", 3)).unlink()
    assert tool.main([*ucf, "--strict"]) == 2
    text = capsys.readouterr().out
    assert "DataError: --strict: 1 annotated files are not on disk, the first YoYo/v_YoYo_" in text
    assert not Path(ucf[6]).exists()


def test_lists_that_are_there_are_not_replaced_unasked(tool, ucf, capsys):
    root = Path(ucf[6])
    assert tool.main(ucf) == 0
    assert tool.main(ucf) == 0
    assert "0 files written, 41 unchanged" in capsys.readouterr().out
    changed = root / "zs_label_db/ucf101_split1/test.csv"
    whole = changed.read_bytes()
    changed.write_text("mine.avi,0\n")
    (root / "zs_label_db/ucf101_full/test.csv").unlink()
    before = snapshot(root)
    assert tool.main(ucf) == 2
    text = capsys.readouterr().out
    assert f"{changed} already exist with other content; nothing was written" in text
    assert snapshot(root) == before
    assert tool.main([*ucf, "--overwrite"]) == 0
    assert changed.read_bytes() == whole
    assert len(read_rows(root / "zs_label_db/ucf101_full/test.csv")) == 15
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_label_map_of_other_order_is_never_replaced(tool, ucf, capsys, options):
    path = Path(ucf[6]) / "zs_label_db/ucf101-index2cls.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"0": "Apply Eye Makeup", "1": "Archery"}')
    before = snapshot(Path(ucf[6]))
    assert tool.main([*ucf, *options]) == 2
    assert "label 1 is 'Archery' there and should be 'Apply Lipstick'" in capsys.readouterr().out
    assert snapshot(Path(ucf[6])) == before


def test_hmdb51_and_subsets_of_it(tool, tmp_path, capsys):
    videos, official = make_hmdb(tmp_path)
    root = tmp_path / "root"
    assert tool.main(["hmdb51", "--videos", str(videos), "--annotations", str(official),
                      "--root", str(root)]) == 0
    source, label_map = root / "zs_label_db/hmdb_split1", root / "zs_label_db/hmdb-index2cls.json"
    for command in ("few-shot", "base-to-novel"):
        given = [command, "--source", str(source), "--map", str(label_map),
                 "--output", str(root / command), "--shots", "1"]
        assert tool.main(given) == 0
    assert {p.relative_to(root).as_posix() for p in root.glob("*-*/**/*.csv")} >= {
        "few-shot/shots_1/train.csv", "base-to-novel/base/train.csv"
    }
    assert tool.main([*given, "--shots", "3", "--overwrite"]) == 2
    assert "fewer than 3 training videos of 'brush hair' (2)" in capsys.readouterr().out


def test_a_folder_that_is_not_there(tool, ucf, capsys):
    ucf[2] = "/nowhere/at/all"
    assert tool.main(ucf) == 2
    assert "ConfigError: --videos /nowhere/at/all is not a folder" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["ucf101", "hmdb51", "ssv2", "kinetics_lists", "folders",
                                    "subsets", "summary", "writer"])
def test_lists_need_no_torch(repo, module):
    code = f"import sys, openvclip.data.prepare.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repo).returncode == 0


def test_a_place_that_cannot_be_written_to(tool, ucf, capsys):
    Path(ucf[6]).mkdir()
    (Path(ucf[6]) / "zs_label_db").touch()
    assert tool.main(ucf) == 2
    assert "DataError: cannot " in capsys.readouterr().out


def test_a_command_that_is_not_there_is_refused_by_the_nearest(tool, capsys):
    assert tool.main(["hmdb15", "--videos", "x"]) == 2
    assert "command 'hmdb15' is unknown; use one of 'kinetics400', " in capsys.readouterr().out
