"""Lists of the real shape of HMDB-51: what the union has, and what the full list lacks."""

from __future__ import annotations

import json
import random
import re
import runpy

import pytest
import torch

from openvclip.data.lists.label_maps import SHIPPED
from openvclip.data.lists.labels import LabelSpace, read_list
from openvclip.data.lists.protocols import PROTOCOLS, find_sources
from openvclip.data.prepare.hmdb51 import plan_hmdb51
from openvclip.data.prepare.writer import write_preparation
from openvclip.metrics.classification import compute_scores
from openvclip.report.run.predictions_file import save_predictions
from openvclip.report.summary.subset_lists import compare_lists
from openvclip.report.summary.subsets import derive_all
from openvclip.utils.errors import ConfigError, DataError

VIDEOS, CLASSES, TRAIN, TEST = 6766, 51, 70, 30
ALL = ["hmdb_full", *(f"hmdb_split{n}" for n in (1, 2, 3)), *(f"hmdb_half{n}" for n in range(10))]


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Prepared from 6,766 files: of each class 70 for training and 30 for testing, the rest 0."""
    root = tmp_path_factory.mktemp("hmdb")
    space = LabelSpace.from_json(SHIPPED / PROTOCOLS["hmdb_full"].label_map)
    rng = random.Random(0)
    (root / "splits").mkdir()
    for label, name in enumerate(space.names):
        folder = root / "videos" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        files = [f"{i}_{folder.name}.avi"
                 for i in range(VIDEOS // CLASSES + (label < VIDEOS % CLASSES))]
        for file in files:
            (folder / file).touch()
        for split in (1, 2, 3):
            marks = [1] * TRAIN + [2] * TEST + [0] * (len(files) - TRAIN - TEST)
            rng.shuffle(marks)
            (root / "splits" / f"{folder.name}_test_split{split}.txt").write_text(
                "".join(f"{file} {mark} \n" for file, mark in zip(files, marks, strict=True)))
    write_preparation(plan_hmdb51(root / "videos", root / "splits", root / "lists"))
    return root / "lists"


def rows(lists, name):
    return (lists / PROTOCOLS[name].folder / "test.csv").read_text().splitlines()


def test_the_published_lists_have_their_rows_and_the_union_has_all_of_them(lists):
    for name in ("hmdb_full", "hmdb_split1", "hmdb_split2", "hmdb_split3", "hmdb_half7"):
        assert len(rows(lists, name)) == PROTOCOLS[name].rows
    full, union = rows(lists, "hmdb_full"), rows(lists, "hmdb_union")
    # First and in its order: a test of the union computes it in the same groups of clips.
    assert union[:5100] == full
    tests = [row for n in (1, 2, 3) for row in rows(lists, f"hmdb_split{n}")]
    assert set(union) == {*full, *tests} and len(union) == len(set(union)) < VIDEOS
    lacking = [len(set(rows(lists, f"hmdb_split{n}")) - set(full)) for n in (1, 2, 3)]
    assert lacking[0] == 0 and min(lacking[1:]) > 200


def test_everything_follows_from_the_union_but_not_from_the_full_list(lists):
    assert [p.name for p in compare_lists("hmdb_union", lists)] == ALL
    assert [p.name for p in compare_lists("hmdb_full", lists)] == [
        n for n in ALL if n not in ("hmdb_full", "hmdb_split2", "hmdb_split3")]
    assert [p.name for p in find_sources(PROTOCOLS["hmdb_half3"])] == ["hmdb_full", "hmdb_union"]
    assert [p.name for p in find_sources(PROTOCOLS["ucf101_split2"])] == ["ucf101_full"]


def test_lists_that_do_not_fit_are_all_named(lists, tmp_path, caplog):
    copy = tmp_path / "lists"
    for name in ("hmdb_union", "hmdb_split1", "hmdb_split2", "hmdb_split3"):
        (copy / PROTOCOLS[name].folder).mkdir(parents=True)
        content = rows(lists, "hmdb_full" if name == "hmdb_union" else name)
        (copy / PROTOCOLS[name].folder / "test.csv").write_text("\n".join(content))
    label_map = PROTOCOLS["hmdb_union"].label_map
    (copy / label_map).write_bytes((lists / label_map).read_bytes())
    with pytest.raises(DataError) as caught:
        compare_lists("hmdb_union", copy)
    found = re.fullmatch(
        r"hmdb_split2, hmdb_split3 cannot be derived from a test of hmdb_union: (.*hmdb_split2/"
        r"test.csv: '.*' of the class '.*' is not in the list .*hmdb_union/test.csv \((\d+) of "
        r"1,530 videos are not\); test hmdb_split2 itself); see above for the others",
        str(caught.value))
    assert found and int(found[2]) > 200
    assert "hmdb_split3: " in caplog.text and "hmdb_half0 is left out" in caplog.text


def test_what_cannot_be_compared(tmp_path):
    with pytest.raises(ConfigError, match="no protocol hmdb_all; give one of .*hmdb_union"):
        compare_lists("hmdb_all", tmp_path)
    with pytest.raises(ConfigError, match="nothing can be derived from a test of ssv2"):
        compare_lists("ssv2", tmp_path)
    with pytest.raises(DataError):
        compare_lists("hmdb_union", tmp_path)


def test_tool_compares_lists_without_a_test(lists, repo, caplog, monkeypatch):
    monkeypatch.setattr("openvclip.utils.command_line.setup_logging", lambda: None)
    tool = runpy.run_path(str(repo / "tools/derive_results.py"))
    assert tool["main"](["--root", str(lists), "--check-lists", "hmdb_union"]) == 0
    assert tool["main"](["--root", str(lists), "--check-lists", "k600_union"]) == 2
    assert tool["main"](["--from", "x"]) == 2
    assert "--from needs --output" in caplog.text


def test_a_test_of_the_union_gives_every_published_number(lists, tmp_path):
    space = LabelSpace.from_json(lists / PROTOCOLS["hmdb_union"].label_map)
    source = lists / PROTOCOLS["hmdb_union"].folder / "test.csv"
    labels = torch.from_numpy(read_list(source, separator=",", num_classes=CLASSES).labels)
    scores = torch.randn(len(labels), CLASSES, generator=torch.Generator().manual_seed(0))
    scores[torch.arange(len(labels)), labels] += 1.5
    done = torch.ones(len(labels), dtype=torch.bool)
    folder = tmp_path / "hmdb_union"
    folder.mkdir()
    save_predictions(folder / "predictions.pth", scores, labels)
    (folder / "results.json").write_text(json.dumps({
        "list": str(source), "videos": len(labels), "failed": [], "seconds": 1.0, "arch": "vitb16",
        "label_set": {"file": str(lists / PROTOCOLS["hmdb_union"].label_map),
                      "classes": CLASSES, "sha256": space.digest()},
        "results": [{"patching_ratio": 0.5, **compute_scores(scores, labels, done)}],
    }))
    written = derive_all(folder, ["all"], root=lists, output=tmp_path)
    assert [path.name for path in written] == ALL
    for name in ALL:
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["videos"] == PROTOCOLS[name].rows
        assert results["label_set"]["classes"] == PROTOCOLS[name].classes
    # The full list is the union's first 5,100 videos.
    (full,) = json.loads((tmp_path / "hmdb_full/results.json").read_text())["results"]
    assert full["top1"] == compute_scores(scores[:5100], labels[:5100], done[:5100])["top1"]
