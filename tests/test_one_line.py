"""What used to end in a traceback and is one line: numbers, paths and values that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from openvclip.checkpoints.training_config import TrainingConfig
from openvclip.config import load_cfg
from openvclip.config.defaults import flatten, get_cfg
from openvclip.config.safe_yaml import load_yaml
from openvclip.config.values import ELEMENTS
from openvclip.data.check.run import read_raw_list
from openvclip.data.lists.labels import read_list
from openvclip.launch import slurm
from openvclip.models.text import _save
from openvclip.predict.classifier import VideoClassifier
from openvclip.predict.input_spec import InputSpec, parse_input_spec
from openvclip.report.summary.runs import find_runs, read_results
from openvclip.utils.errors import CheckpointError, ConfigError, DataError

HUGE = "9" * 5000


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize("value", ["[1,a]", "[a,1]", "[1.5,2]", f"[1,{HUGE}]", f"[1,{'9' * 400}]"])
def test_a_range_of_checkpoints_has_whole_numbers(value):
    with pytest.raises(ConfigError) as error:
        load_cfg(None, ["TRAIN.CHECKPOINT_KEEP_RANGE", value, "TRAIN.CHECKPOINT_KEEP_LAST", "2"])
    assert "TRAIN.CHECKPOINT_KEEP_RANGE" in one_line(error)
    assert load_cfg(None, ["TRAIN.CHECKPOINT_KEEP_RANGE", "[1,3]", "TRAIN.CHECKPOINT_KEEP_LAST",
                           "2"]).TRAIN.CHECKPOINT_KEEP_RANGE == [1, 3]


def test_every_list_that_is_empty_by_default_says_what_it_takes():
    empty = {key for key, value in flatten(get_cfg()).items() if value in ([], ())}
    assert empty <= set(ELEMENTS)


@pytest.mark.parametrize("number", [HUGE, "9" * 400, str(2**65), f"-{HUGE}", f"1e{HUGE}"])
@pytest.mark.parametrize("key", ["TRAIN.BATCH_SIZE", "SOLVER.BASE_LR", "RNG_SEED"])
def test_numbers_of_very_many_digits(key, number, tmp_path):
    path = tmp_path / "run.yaml"
    section, _, name = key.rpartition(".")
    path.write_text(f"{section}:\n  {name}: {number}\n" if section else f"{name}: {number}\n")
    for source in ((None, [key, number]), (path, [])):
        try:
            load_cfg(*source)
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert key == "SOLVER.BASE_LR" and number == str(2**65)  # a rate is a float


@pytest.mark.parametrize("values", [
    "[0.0, 0.0, 0.0]", "[.nan, 1.0, 1.0]", "[.inf, 1.0, 1.0]", "[-1.0, 1.0, 1.0]", "[1.0]",
])
def test_a_standard_deviation_that_nothing_can_be_divided_by(values):
    with pytest.raises(CheckpointError) as error:
        parse_input_spec(TrainingConfig(
            Path("x.pth"), load_yaml(f"DATA:\n  STD: {values}\n")))
    assert "x.pth" in one_line(error)
    with pytest.raises(ConfigError) as error:
        load_cfg(None, ["DATA.STD", values.replace(".nan", "1e999").replace(".inf", "1e999")])
    assert "DATA.STD" in one_line(error)
    with pytest.raises(ConfigError):
        InputSpec(std=(0.0, 0.0, 0.0))


def test_zero_bytes_in_paths(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text('OUTPUT_DIR: "a\\0b"\n')
    for source in ((path, []), (None, ["OUTPUT_DIR", '"a\\0b"'])):
        with pytest.raises(ConfigError, match="OUTPUT_DIR.*zero byte") as error:
            load_cfg(*source)
        assert "\0" not in one_line(error)
    videos = tmp_path / "videos.csv"
    videos.write_text("a\0b.mp4,0\n")
    for read in (lambda: read_list(videos, separator=",", num_classes=2),
                 lambda: read_raw_list(videos, ",")):
        with pytest.raises(DataError, match="zero byte"):
            read()


def test_labels_of_very_many_digits(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"a.mp4,{HUGE}\n")
    with pytest.raises(DataError, match="train.csv, line 1") as error:
        read_list(path, separator=",", num_classes=2)
    one_line(error)


@pytest.mark.parametrize("top1", ["1" + "0" * 400, HUGE, "1e400", "[" * 100_000, "NaN"])
def test_results_that_no_table_can_show(tmp_path, top1):
    text = json.dumps({"list": "x/test.csv", "videos": 1, "failed": [],
                       "results": [{"patching_ratio": None, "top1": 77}]}).replace("77", top1)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match="results.json") as error:
        read_results(tmp_path / "results.json")
    one_line(error)
    runs, problems = find_runs([tmp_path])
    assert not runs and len(problems) == 1


def test_a_text_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    for error in (RuntimeError("PytorchStreamWriter failed\nat some line"), OSError(27, "too big")):
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(torch, "save", fail)
        _save(tmp_path / "cache" / "classes.pt", torch.zeros(1))
        assert "were not cached" in caplog.records[-1].getMessage()
        assert "\n" not in caplog.records[-1].getMessage()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("video", [torch.zeros(8, 3, 4, 4), np.zeros((8, 4, 4, 3)), None, 3,
                                   b"clip.mp4", "a\0b.mp4"], ids=lambda v: type(v).__name__)
def test_what_is_no_path_of_a_video(tiny_video_clip, video):
    classifier = VideoClassifier(tiny_video_clip.eval(), InputSpec())
    for call in (classifier.encode_video, lambda v: next(classifier.encode_many([v])),
                 lambda v: classifier.timeline(v, ["a", "b"])):
        with pytest.raises(DataError, match="video") as error:
            call(video)
        one_line(error)


def test_slurm_without_srun(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    path = tmp_path / "run.yaml"
    path.write_text("NUM_GPUS: 0\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="srun") as error:
        slurm.submit(str(path), [], job_dir=tmp_path / "jobs", cluster="slurm",
                     gpus=0)
    one_line(error)
