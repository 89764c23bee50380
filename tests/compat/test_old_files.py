"""Files that version 0.1.0 left behind are read and gone on with; ``make_files.py`` made them."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from openvclip import load_model
from openvclip.config import load_cfg
from openvclip.data.captions.index import CaptionFile
from openvclip.metrics.classification import compute_accuracy
from openvclip.report.run.predictions_file import load_predictions
from tests.compat.old_files import CLASSES, COMMON, TESTED

ARCHIVE = Path(__file__).with_name("version_0.1.0.tar.xz")
CHECKPOINT = "run/checkpoints/checkpoint_epoch_00002.pyth"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The folder that the old version's runs were started in, which is the current one."""
    with tarfile.open(ARCHIVE) as archive:
        # Pythons of before mid-2023 have no filters.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safely)
    (tmp_path / "empty.yaml").write_text("NUM_GPUS: 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tool(repo, monkeypatch):
    """Call the main function of a tool in this process."""
    monkeypatch.syspath_prepend(str(repo / "tools"))

    def call(name: str, *arguments: object) -> None:
        assert __import__(name).main([str(argument) for argument in arguments]) == 0

    return call


def state_of(path: str) -> dict:
    return torch.load(path, weights_only=True)["model_state"]


def read_results(folder: str) -> list:
    return json.loads(Path(folder, "results.json").read_text("utf-8"))["results"]


def test_a_training_goes_on_from_its_checkpoint(old, tool):
    tool("run_net", "--cfg", "empty.yaml", "--opts", *COMMON, "SOLVER.MAX_EPOCH", 3,
         "TEST.ENABLE", False, "OUTPUT_DIR", "run")
    assert "resuming after epoch 2" in Path("run/stdout.log").read_text("utf-8")
    new = torch.load("run/checkpoints/checkpoint_epoch_00003.pyth", weights_only=True)
    before = torch.load(CHECKPOINT, weights_only=True)
    assert new.keys() >= before.keys() and new["model_state"].keys() == before["model_state"].keys()
    steps = {int(moments["step"]) for moments in new["optimizer_state"]["state"].values()}
    assert steps == {9}, "the optimizer's state was taken over"


def test_checkpoints_are_averaged(old, tool):
    tool("weight_average", "--source", "run", "--start", 2, "--end", 2, "--output", "one.pth")
    one, checkpoint = state_of("one.pth"), state_of(CHECKPOINT)
    assert one.keys() == checkpoint.keys()
    assert all(torch.equal(one[name], checkpoint[name]) for name in one)


@pytest.mark.parametrize("name", ["run", "test"])
def test_a_resolved_config_says_the_same(old, name):
    cfg = load_cfg(f"{name}/config.yaml")

    def compare(section, written: dict) -> None:
        for key, value in written.items():
            if isinstance(value, dict):
                compare(section[key], value)
            else:
                found = section[key]
                assert (list(found) if isinstance(found, tuple) else found) == value, key

    compare(cfg, yaml.safe_load(Path(name, "config.yaml").read_text("utf-8")))


def test_an_average_is_tested_as_it_was(old, tool):
    tool("run_net", "--cfg", "test/config.yaml", "--opts", "OUTPUT_DIR", "again")
    assert read_results("again") == read_results("test")
    for name in ("predictions_ratio0.00.pkl", "predictions_ratio0.50.pkl"):
        scores, labels = load_predictions(f"again/{name}")
        old_scores, old_labels = load_predictions(f"test/{name}")
        torch.testing.assert_close(scores, old_scores, atol=1e-3, rtol=1e-4)
        assert torch.equal(labels, old_labels)


def test_a_test_goes_on_from_its_resume_log(old, tool, monkeypatch):
    # Scores of other versions, of torch for one, are not mixed.
    versions = json.loads(Path("test/results.json").read_text("utf-8"))["versions"]
    monkeypatch.setattr("openvclip.evaluation.facts.__version__", versions["openvclip"])
    monkeypatch.setattr("torch.__version__", versions["torch"])
    monkeypatch.setattr("platform.python_version", lambda: versions["python"])
    shutil.copytree("half/resume", "again/resume")
    # What was scored before is not decoded again.
    for row in ("0_0", "0_1", "0_2", "1_0"):
        Path(f"videos/test/{row}.mp4").write_bytes(b"gone")
    tool("run_net", "--cfg", "empty.yaml", "--opts", *COMMON, *TESTED, "OUTPUT_DIR", "again")
    assert "4 videos are scored already" in Path("again/stdout.log").read_text("utf-8")
    assert read_results("again") == read_results("test")


def test_results_are_those_of_the_predictions_and_are_summarized(old, tool, capsys):
    for row, name in zip(read_results("test"), ("0.00", "0.50"), strict=True):
        scores, labels = load_predictions(f"test/predictions_ratio{name}.pkl")
        assert [row["top1"], row["top5"]] == pytest.approx(compute_accuracy(scores, labels))
    tool("summarize", "test", "--output", "summary")
    assert Path("summary/accuracy_vs_ratio.png").is_file()


def test_captions_are_found(old):
    captions = CaptionFile("captions.sqlite")
    assert len(captions) == 3 and captions.get("train/0_1.mp4") == ["the clip 0_1"]
    videos = [row.rpartition(",")[0] for row in Path("train.csv").read_text().splitlines()]
    assert captions.match(videos).matched == 3


def test_an_export_is_loaded(old):
    exported = load_model(clip="export/openvclip.safetensors", config="run/config.yaml")
    patched = load_model(clip="clip.pt", checkpoint="run/swa_1_2.pth", patching_ratio=0.5)
    video = "videos/test/1_1.mp4"
    torch.testing.assert_close(exported.encode_video(video), patched.encode_video(video),
                               atol=5e-3, rtol=0)
    classifier = load_file("export/openvclip-classifier.safetensors")
    assert any(tensor.shape == (len(CLASSES), 16) for tensor in classifier.values())
