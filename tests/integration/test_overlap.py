"""A test on videos that were trained on says so, wherever its numbers are shown."""

from __future__ import annotations

import json

import pytest
import torch
from conftest_integration import options

from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.training_config import VIDEOS, find_overlap
from openvclip.report.summary.collect import summarize
from openvclip.report.summary.files import build_json
from openvclip.report.summary.formats import format_markdown, format_text

ONCE = {"SOLVER__MAX_EPOCH": 1, "TRAIN__EVAL_PERIOD": 9, "TEST__NUM_ENSEMBLE_VIEWS": 1}


@pytest.fixture(scope="module")
def lists(tiny, tmp_path_factory):
    """Lists whose test has two of the training videos, as the third and the fifth row."""
    folder = tmp_path_factory.mktemp("lists")
    train, test = ((tiny / name).read_text().splitlines() for name in ("train.csv", "test.csv"))
    (folder / "train.csv").write_text("\n".join(train) + "\n")
    rows = [*test[:2], train[0], test[2], train[5]]
    (folder / "test.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_overlap_is_in_log_results_report_and_summary(
    tiny, lists, tmp_path, empty_cfg, in_process, repo
):
    out = tmp_path / "out"
    in_process(empty_cfg, options(tiny, out, DATA__PATH_TO_DATA_DIR=lists, **ONCE))
    said = "2 of the 5 videos of this list are in the list that"
    assert said in (out / "stdout.log").read_text()
    results = json.loads((out / "results.json").read_text())
    assert results["tested_on_training"] == {"videos": 2, "rows": [2, 4]}
    shown = "2 of 5 videos are in the list that the weights were trained on"
    assert (out / "report.html").read_text().count(shown) == 2  # with and without JavaScript

    summary = summarize([out], root=repo)
    text = format_text(summary)
    row = next(line for line in text.splitlines() if line.startswith(lists.name))
    assert "‖" in row and "‖ Tested on videos that were trained on; not comparable" in text
    assert shown in " ".join(text.split()) and shown in format_markdown(summary)
    (table,) = build_json(summary)["tables"]
    assert table["key"] == "supervised"
    assert table["lines"][0]["cells"]["top1"]["marks"] == "‖"

    # An average carries the names, and so do weights whose training's folder has gone.
    averaged = average_checkpoints(out, start=1, end=1, output=tmp_path / "alone" / "swa.pth")
    assert find_overlap(averaged, [str(tiny / "videos/train/red moving/0.mp4")], "")["rows"] == [0]


def test_a_training_does_not_go_on_from_one_on_other_videos(
    tiny, tmp_path, empty_cfg, in_process
):
    rows = (tiny / "train.csv").read_text().splitlines()
    for name, part in (("a", rows[0::2]), ("b", rows[1::2]), ("both", rows)):
        (tmp_path / name).mkdir()
        for csv in ("train.csv", "val.csv"):
            (tmp_path / name / csv).write_text("\n".join(part) + "\n")
    out = tmp_path / "out"

    def train(name: str, check: int = 0) -> str:
        in_process(empty_cfg, options(
            tiny, out, DATA__PATH_TO_DATA_DIR=tmp_path / name, TEST__ENABLE=False,
            TRAIN__BATCH_SIZE=2, **ONCE), check=check)
        return (out / "stdout.log").read_text()

    assert "another list of videos" not in train("a")
    assert "is from training on other videos: its list has none" in train("b", check=2)
    assert "another list of videos (50 % of this list's names" in train("both")


def test_a_list_of_new_videos_is_said_to_be_one(tiny, tmp_path, empty_cfg, in_process, repo):
    in_process(empty_cfg, options(tiny, tmp_path, **ONCE))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tested_on_training"] == {"videos": 0, "rows": []}
    assert "trained on" not in (tmp_path / "report.html").read_text()
    assert "‖" not in format_text(summarize([tmp_path], root=repo))


def test_checkpoints_without_names_are_held_to_their_training_list_if_it_is_there(tiny, tmp_path):
    config = (f"DATA: {{PATH_TO_DATA_DIR: '{tiny}', PATH_PREFIX: '/v', PATH_LABEL_SEPARATOR: ','}}"
              "\nTRAIN: {ENABLE: true}\n")
    old = tmp_path / "old.pth"
    paths = ["/v/test/a.mp4", "/v/train/red moving/1.mp4"]
    torch.save({"model_state": {}, "cfg": config}, old)
    assert find_overlap(old, paths, "/v") == {"videos": 1, "rows": [1]}
    torch.save({"model_state": {}, "cfg": config.replace(str(tiny), "/nowhere")}, old)
    assert find_overlap(old, paths, "/v") is None
    for content in ({}, {"cfg": "[" * 99}, {VIDEOS: torch.zeros(3)}, {"cfg": "DATA: 3"}):
        torch.save({"model_state": {}, **content}, old)
        assert find_overlap(old, paths, "/v") is None
    assert find_overlap(None, paths, "/v") is None
    assert find_overlap(tmp_path / "nowhere.pth", paths, "/v") is None
