"""``report.html`` as a test with tools/run_net.py leaves it."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from conftest_integration import CLASSES, options


def read_data(path):
    text = path.read_text("utf-8")
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start:text.index("</script>", start)])


def test_report_says_what_the_other_files_say(tiny, tmp_path, empty_cfg, in_process):
    root, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny, root)
    damaged = root / "videos" / "test" / CLASSES[0] / "0.mp4"
    damaged.write_bytes(b"not a video")
    in_process(empty_cfg, options(
        root, out, SOLVER__MAX_EPOCH=1, DATA__MAX_BAD_FRACTION=0.5,
        TEST__PATCHING_RATIOS="[0.0,0.5,1.0]"))
    results, data = json.loads((out / "results.json").read_text()), read_data(out / "report.html")
    ratios = [row["patching_ratio"] for row in results["results"]]
    assert ratios == [row["patching_ratio"] for row in data["tested"]] == [0.0, 0.5, 1.0]
    for found, wanted in zip(data["tested"], results["results"], strict=True):
        assert {key: found[key] for key in wanted} == wanted
    with open(out / "per_class.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for i, line in enumerate(table):
        assert data["classes"][i] == line["class"] and data["totals"][i] == int(line["videos"])
        for row in data["tested"]:
            assert float(line[f"top1_ratio{row['patching_ratio']:g}"]) == pytest.approx(
                100 * row["right"][i] / 3, abs=0.005)
    assert data["failed"]["count"] == 1 and data["failed"]["shown"] == results["failed"]
    assert results["failed"][0]["path"] == str(damaged)
    mistakes = [mistake for row in data["tested"] for mistake in row["mistakes"]]
    assert {str(mistake["row"]) for mistake in mistakes} == set(data["pictures"]) != set()
    loaded = dict(data["loaded"])
    assert loaded["SHA-256 of the checkpoint"] == results["checkpoint"]["sha256"]
    assert dict(data["protocol"])["temporal views"] == "2"


def test_report_that_cannot_be_written_is_a_warning(tiny, tmp_path, empty_cfg, in_process):
    (tmp_path / "report.html").mkdir()
    in_process(empty_cfg, options(tiny, tmp_path, TRAIN__ENABLE=False))
    assert json.loads((tmp_path / "results.json").read_text())["videos"] == 9
    assert (tmp_path / "per_class.csv").is_file()
    assert "could not write" in (tmp_path / "stdout.log").read_text()
    assert list((tmp_path / "report.html").iterdir()) == []
    assert not list(tmp_path.glob(".report*"))
