"""Names that files give to things reach a terminal, a table and a spreadsheet as text only."""

from __future__ import annotations

import csv
import json
import logging
import unicodedata
from pathlib import Path

import pytest

from openvclip.config import load_cfg
from openvclip.data.captions.prepare import describe_preparation as describe_captions
from openvclip.data.check.table import Record, VideoTable
from openvclip.data.prepare import summary
from openvclip.predict.results import (
    Prediction,
    Ranked,
    Timeline,
    describe,
    printable,
    write_predictions,
    write_timeline,
)
from openvclip.report.summary.formats import escape_markdown as _escape
from openvclip.report.summary.tables import shorten
from openvclip.report.writers import write_per_class
from openvclip.utils import live
from openvclip.utils.command_line import run_tool
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger, setup_logging
from openvclip.utils.text import clean, show_row

EVIL = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\r\x9b31m\u2028\x00\x08"
FORGED = "x\n[11/23 13:00:00][INFO] all is well"


def is_clean(text: str) -> bool:
    return not any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")
                   for sign in text.replace("\n", ""))


@pytest.fixture
def log(tmp_path, capsys):
    """Begins a log; returns what reads what reached the terminal and the file."""
    def read():
        return capsys.readouterr().out, (tmp_path / "stdout.log").read_text("utf-8")

    def begin():
        setup_logging(tmp_path)
        return read

    yield begin
    for name in ("openvclip", "py.warnings"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()


def test_the_log_shows_codes(log):
    read = log()
    get_logger().info("label %s", EVIL)
    get_logger().warning("label %s", FORGED)
    try:
        raise ValueError(EVIL)
    except ValueError:
        get_logger().exception("failed")
    for text in read():
        assert is_clean(text) and r"\x1b]0;owned\x07\x1b[2J\u202eevil" in text
        assert "\n  [11/23 13:00:00][INFO] all is well" in text and "Traceback" in text


def test_unknown_keys_and_errors_are_one_clean_line(log, tmp_path):
    read = log()
    keys = {f"NO{EVIL}": 1, f"TRAIN{FORGED}": {"A": EVIL}}
    (tmp_path / "run.yaml").write_text(json.dumps(keys), encoding="utf-8")
    assert run_tool(lambda: load_cfg(tmp_path / "run.yaml"), log=False) == 2
    assert all(is_clean(text) for text in read())
    with pytest.raises(ConfigError) as caught:
        load_cfg(tmp_path / f"no{EVIL}.yaml".replace("\0", ""))
    assert run_tool(lambda: (_ for _ in ()).throw(caught.value), log=False) == 2
    for text in read():
        assert is_clean(text) and "no such config file" in text


def test_the_live_line_is_clean():
    line = live.fit([live.Field(EVIL, EVIL), live.Field(FORGED, FORGED)], 400)
    assert is_clean(line) and "\n" not in line


def test_predictions_are_clean_on_the_terminal():
    ranking = [Ranked(EVIL, 0.5, 1.0), Ranked(FORGED, 0.25, 0.5), Ranked("e\u0301té", 0.25, 0.5)]
    text = str(Prediction(f"{EVIL}.mp4", ranking, 1.0, ((0.0,),)))
    assert is_clean(text) and len(text.splitlines()) == 4 and "e\u0301té" in text
    failed = str(Prediction(f"{EVIL}.mp4", error=f"{EVIL}.mp4: {FORGED}"))
    assert is_clean(failed) and len(failed.splitlines()) == 2


def test_tables_and_notes_of_tools_are_clean():
    assert is_clean(shorten(EVIL)) and "\n" not in shorten(FORGED)
    assert is_clean(_escape(EVIL)) and "\n" not in _escape(FORGED)
    assert _escape("a|b*c`d<e\\f") == r"a\|b\*c\`d\<e\\f"
    found = {
        "videos": 1, "captions": 1, "longest_tokens": 3, "problems": {}, "bytes": 1,
        "unused": {"count": 1, "videos": [EVIL]}, "output": "x", "seconds": 1,
        "lists": [{"list": "l", "matched": 0, "videos": 1, "rate": 0.0, "unmatched": [FORGED],
                   "shared": [], "example": EVIL}],
    }
    assert all(is_clean(line) and "\n" not in line for line in describe_captions(found))


def test_the_summary_of_prepared_lists_is_clean():
    assert is_clean(summary._cut(EVIL, 100)) and is_clean(summary._name(Path(EVIL), None))
    assert all(is_clean(line) for line in summary._names("names", [EVIL], None, ""))


FORMULAS = ["=1+1", "+cmd", "-x.mp4", "@SUM(A1)", "\tx", "\rx", "'=x", "plain", "-1.5"]


def read_rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def is_harmless(cell: str) -> bool:
    return cell[:1] not in tuple("=+-@\t\r") or cell == "-1.5"


def test_spreadsheets_compute_nothing_of_a_test(tmp_path):
    import torch

    count = len(FORMULAS)
    write_per_class(tmp_path / "per_class.csv", FORMULAS, torch.arange(count),
                    {"top1": (torch.eye(count), torch.ones(count).bool())})
    ranking = [Ranked(name, 0.5, -2.0) for name in FORMULAS]
    videos = [describe(Prediction(name, ranking, 1.0, ((0.0,),))) for name in FORMULAS]
    failed = [describe(Prediction(name, error=name)) for name in FORMULAS]
    write_predictions(tmp_path, {}, videos, failed)
    for name in ("per_class.csv", "predictions.csv"):
        rows = read_rows(tmp_path / name)
        assert "'=1+1" in (cell for row in rows for cell in row)
        numbers = {"-2.0", "-2"}
        assert all(is_harmless(cell) or cell in numbers for row in rows for cell in row)
    assert any("-2.0" in row for row in read_rows(tmp_path / "predictions.csv"))


def test_csv_files_for_people_are_clean(tmp_path):
    import torch

    names = [EVIL, FORGED]
    write_per_class(tmp_path / "per_class.csv", names, torch.arange(2),
                    {"top1": (torch.eye(2), torch.ones(2).bool())})
    ranking = [Ranked(name, 0.5, -2.0) for name in names]
    write_predictions(tmp_path, {}, [describe(Prediction(EVIL, ranking, 1.0, ((0.0,),)))],
                      [describe(Prediction(FORGED, error=EVIL))])
    write_timeline(tmp_path / "timeline.csv", Timeline(
        EVIL, names, 1.0, 1.0, ((0.0, 1.0),), torch.tensor([[0.5, 0.5]])))
    for name in ("per_class.csv", "predictions.csv", "timeline.csv"):
        rows = read_rows(tmp_path / name)
        assert all(is_clean(cell) and "\n" not in cell for row in rows for cell in row)
        assert clean(EVIL) in (cell for row in rows for cell in row)
    assert EVIL in [row["label"] for row in json.loads(
        (tmp_path / "predictions.json").read_text("utf-8"))["videos"][0]["ranking"]]
    assert show_row(["\u202e=1", "=1", -2.0]) == ["\\u202e=1", "'=1", -2.0]
    assert printable("a\u202eb\udcff") == "a\\u202eb\ufffd"


def test_the_table_of_a_check_reads_its_names_back(tmp_path):
    records = [Record(name, "damaged", size_bytes=3, mtime_ns=4, reason=name) for name in FORMULAS
               if name.strip() == name]
    table = VideoTable(tmp_path)
    with table.appending(records[:2]) as append:
        for record in records[2:]:
            append(record)
        assert list(table.load().values()) == records
    table.finish(records, ())
    assert all(is_harmless(cell) for row in read_rows(table.finished) for cell in row)
    assert list(table.load().values()) == records
