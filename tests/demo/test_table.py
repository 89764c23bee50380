"""The quickstart's table and picture from results on disk."""

from __future__ import annotations

import json

import pytest

from openvclip.demo.table import choose_ratio, collect, format_table, write_report
from openvclip.utils.errors import DataError


def write_results(path, sweep):
    path.parent.mkdir(parents=True)
    rows = [{"patching_ratio": ratio, "top1": top1} for ratio, top1 in sweep.items()]
    path.write_text(json.dumps({"results": rows}))


@pytest.fixture
def root(tmp_path):
    sets = ("trained", "unseen", "knew", "val_trained", "val_knew")
    for run, shift in (("plain", 0.0), ("interpolated", 5.0)):
        for name in sets:
            falling = "trained" in name
            sweep = {
                r: (70 - 50 * r if falling else 30 + 60 * r**0.5) + shift for r in (0.0, 0.5, 1.0)
            }
            write_results(tmp_path / "test" / f"{run}_swa" / name / "results.json", sweep)
        for name in sets[:3]:
            path = tmp_path / "test" / run / name / "results.json"
            write_results(path, {None: 42.0 + shift})
    return tmp_path


def test_ratio_is_chosen_by_the_mean_of_the_validation_sets():
    learned = {0.0: 80.0, 0.5: 70.0, 1.0: 20.0}
    kept = {0.0: 30.0, 0.5: 70.0, 1.0: 90.0}
    assert choose_ratio([learned, kept]) == 0.5
    assert choose_ratio([{0.0: 1.0, 0.3: 1.0}, {0.0: 1.0, 0.3: 1.0, 0.9: 9.0}]) == 0.0


def test_rows_come_from_the_right_tests(root):
    found = collect(root)
    rows = found["rows"]
    assert list(rows) == [
        "CLIP", "fine-tuned", "+ interpolated training", "+ averaging", "+ patching at 0.5"
    ]
    assert rows["CLIP"]["knew"] == 95.0
    assert rows["fine-tuned"]["trained"] == 42.0
    assert rows["+ interpolated training"]["trained"] == 47.0
    assert rows["+ averaging"]["trained"] == 75.0
    assert rows["+ patching at 0.5"]["trained"] == 50.0


def test_table_is_aligned_markdown(root):
    lines = format_table(collect(root)["rows"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].count("|") == 5 and set(lines[1]) == set("|-:")


def test_report_leaves_table_and_picture(root):
    table = write_report(root)
    assert (root / "table.md").read_text().strip() == table
    assert json.loads((root / "table.json").read_text())["chosen_ratio"]["interpolated"] == 0.5
    picture = (root / "accuracy_vs_ratio.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_missing_or_foreign_results_are_named(root):
    path = root / "test" / "plain" / "knew" / "results.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="plain/knew/results.json"):
        collect(root)
    path.unlink()
    with pytest.raises(DataError, match="run the test again"):
        collect(root)
