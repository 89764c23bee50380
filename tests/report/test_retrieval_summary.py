"""The summary of retrieval results, alone and beside the zero-shot table."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.retrieval_numbers import name_numbers
from openvclip.report.summary.collect import summarize
from openvclip.report.summary.formats import format_markdown, format_text

TUNED = {"file": "/runs/swa_2_22.pth", "sha256": "b" * 64}


@pytest.fixture
def write(tmp_path):
    """Write the results of a retrieval test; T2V R@1 is given, the other numbers count up."""
    def start(folder, r1, when=0, digest="d" * 64, **changes):
        sweep = r1 if isinstance(r1, dict) else {None: r1}
        content = {
            "task": "retrieval", "list": "/lists/MSRVTT_JSFUSION_test.csv",
            "captions": {"count": 1000, "sha256": digest, "split": ""},
            "arch": "vitb16", "clip": {"source": "/clip/ViT-B-16.pt", "sha256": "a" * 64},
            "checkpoint": TUNED, "temporal_modeling": "expand_temporal_view",
            "videos": 1000, "failed": [],
            "results": [
                {"patching_ratio": ratio,
                 **{name: value + i for i, name in enumerate(name_numbers())}}
                for ratio, value in sweep.items()
            ],
            **changes,
        }
        path = tmp_path / folder / "results.json"
        path.parent.mkdir()
        path.write_text(json.dumps(content))
        os.utime(path, (when, when))
        return path
    return start


@pytest.fixture
def table(tmp_path, repo):
    return lambda: summarize([tmp_path], root=repo)


def test_lines_are_by_list_then_weights(write, table):
    write("a", {0.0: 30.0, 0.5: 33.33})
    write("b", 25.0, checkpoint=None)
    write("c", 10.0, list="/lists/all.json",
          captions={"count": 59800, "sha256": "e" * 64, "split": "test"}, videos=2990)
    found = table()
    assert [(line.list, line.row.label, line.numbers[0]) for line in found.retrieval] == [
        ("MSRVTT_JSFUSION_test.csv", "CLIP", 25.0),
        ("MSRVTT_JSFUSION_test.csv", "swa_2_22.pth, ratio 0", 30.0),
        ("MSRVTT_JSFUSION_test.csv", "swa_2_22.pth, ratio 0.5", 33.33),
        ("all.json, test", "swa_2_22.pth", 10.0),
    ]
    text = format_text(found)
    assert "Zero-shot" not in text and "MSRVTT_JSFUSION_test.csv: 1,000 x 1,000" in text
    assert "all.json, test: 2,990 x 59,800" in text
    (line,) = [line for line in text.splitlines() if "ratio 0.5" in line]
    assert line.split()[-10:] == [f"{33.33 + i:.1f}" for i in range(10)]
    assert max(map(len, text.splitlines())) <= 120
    markdown = format_markdown(found)
    assert markdown.startswith("# Retrieval") and markdown.count("| B/16 |") == 4
    assert "| all.json, test | 2,990 x 59,800 | B/16 | swa_2_22.pth | 10.0 | 11.0 |" in markdown


def test_newer_results_count_and_failures_are_told(write, table):
    failed = [{"row": 3, "path": "x.mp4", "reason": "broken"}]
    write("new", 31.0, when=200, failed=failed)
    write("old", 30.0, when=100)
    found = table()
    assert [line.numbers[0] for line in found.retrieval] == [31.0]
    for text in (" ".join(format_text(found).split()), format_markdown(found)):
        assert "1 of 1,000 videos could not be decoded" in text
        assert "left out" in text and "/old" in text


def test_lists_of_one_name_are_told_apart(write, table):
    write("a", 30.0)
    write("b", 31.0, digest="e" * 64)
    assert [line.list for line in table().retrieval] == [
        "MSRVTT_JSFUSION_test.csv (dddddddd)", "MSRVTT_JSFUSION_test.csv (eeeeeeee)"]


@pytest.mark.parametrize("value", [None, float("nan"), "12"])
def test_results_without_a_number_are_named(write, table, value):
    path = write("a", 30.0)
    write("b", 31.0, digest="e" * 64)
    content = json.loads(path.read_text())
    content["results"][0]["v2t_r5"] = value
    path.write_text(json.dumps(content))
    found = table()
    assert len(found.retrieval) == 1
    assert "a row of 'results' has the accuracy" in " ".join(format_text(found).split())


def test_the_tool_writes_both_tables(write, tmp_path, repo):
    write("a", 30.0)
    write("zs", 0.0, task=None, checkpoint=None,
          list=f"{PROTOCOLS['ucf101_split1'].folder}/test.csv",
          results=[{"patching_ratio": None, "top1": 71.2, "top5": 90.0}])
    done = subprocess.run([sys.executable, str(repo / "tools" / "summarize.py"), str(tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("Zero-shot top-1") < done.stdout.index("Retrieval between")
    with open(tmp_path / "retrieval.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["t2v_r1"] == "30.00" and row["v2t_mean_rank"] == "39.00"
    assert (row["videos"], row["texts"], row["checkpoint"]) == ("1000", "1000", TUNED["file"])
    (line,) = json.loads((tmp_path / "summary.json").read_text())["retrieval"]
    assert line["t2v_r10"] == 32.0 and line["captions"]["count"] == 1000
