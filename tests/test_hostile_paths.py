"""Pipes and devices where files are wanted: one line at once, whoever would read or write them."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch

from openvclip.config import get_cfg
from openvclip.config.stored import read_config
from openvclip.data.captions.generate import _read_known
from openvclip.data.captions.index import CaptionFile
from openvclip.data.captions.sources import read_captions
from openvclip.data.check.run import read_raw_list
from openvclip.data.check.table import VideoTable
from openvclip.data.lists.draws import read_draw
from openvclip.data.lists.labels import LabelSpace, read_label_file, read_list
from openvclip.data.lists.retrieval import read_retrieval_list
from openvclip.data.prepare.official import read_json, read_rows
from openvclip.data.video.cache import FrameCache
from openvclip.evaluation.resume_log import ResumeLog, ScoredGroup, read_records
from openvclip.models.text import _load, _save
from openvclip.models.text_choices import load_descriptions, load_templates
from openvclip.report.run.curves import write_curves
from openvclip.report.run.predictions_file import load_predictions, save_predictions
from openvclip.report.summary.runs import read_results
from openvclip.report.writers import build_tensorboard, read_class_names, write_csv, write_json
from openvclip.utils.errors import ConfigError, OpenVCLIPError
from openvclip.utils.logging import log_json_stats, setup_logging

# Name of the file -> what reads it.
READERS = {
    "list.csv": lambda p: read_list(p, separator=",", num_classes=1),
    "map.json": LabelSpace.from_json,
    "labels.txt": read_label_file,
    "raw.csv": lambda p: read_raw_list(p, ","),
    "captions.json": read_captions, "captions.jsonl": read_captions,
    "captions.csv": read_captions, "captions.pt": read_captions,
    "known.jsonl": lambda p: _read_known(p, "me"),
    "captions.sqlite": CaptionFile,
    "pairs.json": read_retrieval_list, "pairs.csv": read_retrieval_list,
    "draw.json": lambda p: read_draw(p.parent),
    "videos.csv": lambda p: VideoTable(p.parent).load(),
    "rows.txt": lambda p: list(read_rows(p)), "official.json": read_json,
    "templates.txt": lambda p: load_templates(str(p)),
    "descriptions.json": lambda p: load_descriptions(str(p), ["a"]),
    "results.json": read_results, "predictions.pkl": load_predictions,
    "names.json": lambda p: read_class_names(p, 1),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_named_in_one_line(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OpenVCLIPError) as caught:
        READERS[name](path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_run_can_do_without_is_left_out(tmp_path):
    for name in ("json_stats.jsonl", "classes.pt", "config.yaml", "a.journal"):
        os.mkfifo(tmp_path / name)
    assert write_curves(tmp_path) is None and read_config(tmp_path) is None
    assert _load(tmp_path / "classes.pt", (1, 1)) is None
    assert read_records(tmp_path / "a.journal", "0" * 64, (1, 1)) == []


@pytest.fixture
def log():
    yield
    for name in ("openvclip", "py.warnings"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()


@pytest.mark.parametrize("name", ["stdout.log", "json_stats.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "read pipe", "device", "folder"])
def test_logs_are_files(name, kind, tmp_path, log):
    path, reader = tmp_path / name, None
    if kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    if kind == "read pipe":
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ConfigError, match=f"the log .*{name} is a .*OUTPUT_DIR"):
        setup_logging(tmp_path)
    if name != "stdout.log":
        with pytest.raises(ConfigError, match=f"the log .*{name} is a .*OUTPUT_DIR"):
            log_json_stats({"_type": "x"}, tmp_path)
    if reader is not None:
        os.close(reader)


def test_tensorboards_folder_is_one(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, cfg.TENSORBOARD.LOG_DIR = str(tmp_path), True, "events"
    os.mkfifo(tmp_path / "events")
    with pytest.raises(ConfigError, match="TENSORBOARD.LOG_DIR: .*events is not a folder"):
        build_tensorboard(cfg, ["a"])


# What is written -> the names that it, or the project before, could be expected under.
WRITERS = {
    "a.csv": lambda p: write_csv(p, ["a"], [["b"]]), "a.json": lambda p: write_json(p, {"a": 1}),
    "a.pt": lambda p: _save(p, torch.ones(1, 1)),
    "a.pkl": lambda p: save_predictions(p, torch.ones(1, 1), torch.zeros(1)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_links_under_names_that_could_be_guessed_lead_nowhere(name, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.write_text("mine")
    folder.mkdir()
    traps = [name, f".{name}.tmp", f"{name}.part", f"{name}.tmp", f".{name}.{os.getpid()}.tmp"]
    for trap in traps:
        (folder / trap).symlink_to(outside)
    WRITERS[name](folder / name)
    assert outside.read_text() == "mine"
    assert sorted(os.listdir(folder)) == sorted(traps)
    assert (folder / name).is_file() and not (folder / name).is_symlink()


def test_journals_and_the_cache_follow_no_link(tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    name = f"{'0' * 16}-1-0.journal"
    (tmp_path / name).symlink_to(outside)
    ResumeLog(tmp_path, "0" * 64, 1, frozenset()).append(
        ScoredGroup(0, [0], torch.zeros(1, 1, 1), {}))
    assert "cannot be written" in caplog.text
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "total").symlink_to(outside)
    cache = FrameCache(tmp_path / "cache", max_bytes=1 << 20, spec="")
    (tmp_path / "video").write_text("x")
    assert cache.get(str(tmp_path / "video")) is None
    assert not cache.put(str(tmp_path / "video"), {"a": np.zeros(3)})
    assert outside.read_text() == "mine" and "nothing more is added" in caplog.text


LARGE = {
    "lines.csv": lambda p: p.write_bytes(b"x,0\n" * 3_000_000),
    "line.csv": lambda p: p.write_bytes(b"ab," * 1_000_000),
    "zeros.csv": lambda p: os.truncate(p, 1 << 40),
    "zeros.jsonl": lambda p: os.truncate(p, 1 << 40),
    "objects.json": lambda p: p.write_bytes(b"[" + b"{}," * 10_000_000 + b"{}]"),
    "lists.json": lambda p: p.write_bytes(b'{"0":[' + b"[]," * 10_000_000 + b"[]]}"),
    "line.jsonl": lambda p: p.write_bytes(b"[" + b"[]," * 1_000_000 + b"[]]"),
    "zeros.json": lambda p: os.truncate(p, 1 << 40),
}
READ_LARGE = """
    import sys
    from pathlib import Path
    from openvclip.data.captions.sources import read_captions
    from openvclip.data.check.run import read_raw_list
    from openvclip.data.lists.labels import LabelSpace, read_label_file, read_list
    from openvclip.data.lists.retrieval import read_retrieval_list
    from openvclip.utils.errors import OpenVCLIPError

    for path in map(Path, sys.argv[1:]):
        readers = [read_captions, read_retrieval_list]
        if path.suffix == ".json":
            readers += [LabelSpace.from_json]
        if path.suffix == ".csv":
            readers += [lambda p: read_list(p, separator=",", num_classes=1), read_label_file,
                        lambda p: read_raw_list(p, ",")]
        for number, reader in enumerate(readers):
            try:
                reader(path)
                print("read", path, number)
            except OpenVCLIPError as error:
                assert path.name in str(error) and "\\n" not in str(error), error
                assert len(str(error)) < 500
"""


def test_large_lists_stay_small_in_memory(tmp_path, bounded):
    for name, write in LARGE.items():
        (tmp_path / name).touch()
        write(tmp_path / name)
    assert bounded(READ_LARGE, *(tmp_path / name for name in LARGE)) == ""
