"""Every example of docs/extending.md, as a user's module outside the package, in a real run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest_integration import CLASSES, options

MOST_LINES = 30


@pytest.fixture(scope="module")
def modules(repo, tmp_path_factory):
    """Folder of the page's modules."""
    folder = tmp_path_factory.mktemp("own")
    page = (repo / "docs/extending.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        name = re.match(r"# (\w+\.py)\n", code)[1]
        assert len(code.splitlines()) - 1 <= MOST_LINES, name
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def run(repo, modules, tmp_path):
    """Start a tool with the modules on the path, not the package's folder; returns its output."""

    def start(tool, *args, check=0):
        done = subprocess.run(
            [sys.executable, str(repo / f"tools/{tool}.py"), *map(str, args)],
            capture_output=True, text=True, cwd=tmp_path, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": f"{modules}{os.pathsep}{repo}"},
        )
        assert done.returncode == check, done.stdout + done.stderr
        return done.stdout + done.stderr

    return start


def named(module):
    return ["EXTENSIONS", json.dumps([module])]


def load(path):
    return torch.load(path, weights_only=True)


def last_stats(out, kind):
    rows = map(json.loads, (out / "json_stats.jsonl").read_text().splitlines())
    return [row for row in rows if row["_type"] == kind][-1]


def test_a_temporal_variant_trains_and_tests(run, tiny, tmp_path, empty_cfg):
    out = tmp_path / "run"
    changes = {"MODEL__TEMPORAL_MODELING_TYPE": "clip_mean", "SOLVER__MAX_EPOCH": 1}
    run("run_net", "--cfg", empty_cfg, "--opts", *options(tiny, out, **changes),
        *named("my_variant"))
    state = load(out / "checkpoints/checkpoint_epoch_00001.pyth")["model_state"]
    gate = state["model.visual.transformer.resblocks.0.mean_gate"]
    assert gate.shape == (64,) and gate.abs().max() > 0
    assert (out / "report.html").is_file()
    video = next((tiny / "videos/test").rglob("*.mp4"))
    weights = ["--clip", tiny / "clip.pt", "--checkpoint",
               out / "checkpoints/checkpoint_epoch_00001.pyth"]
    predict = ["predict", "--video", video, "--labels", ",".join(CLASSES), *weights]
    said = run(*predict, check=2)
    assert "names EXTENSIONS my_variant; give EXTENSIONS yourself with --opts if you trust" in said
    assert "clip_mean" in run(*predict, "--opts", *named("my_variant"))


def test_a_training_objective_is_logged_weighted_and_checked(run, tiny, tmp_path, empty_cfg):
    out = tmp_path / "run"
    own = ["TRAIN.OBJECTIVES", '["confidence"]', "TRAIN.CONFIDENCE.WEIGHT", "0.2"]
    given = [*options(tiny, out, SOLVER__MAX_EPOCH=1, TEST__ENABLE=False), *named("my_objective")]
    run("run_net", "--cfg", empty_cfg, "--opts", *given, *own)
    stats = last_stats(out, "train_epoch")
    assert -1.1 <= stats["confidence_loss"] < 0 < stats["loss"]
    config = (out / "config.yaml").read_text()
    assert "WEIGHT: 0.2" in config and "- my_objective" in config
    said = run("run_net", "--cfg", empty_cfg, "--opts", *given, *own[2:], check=2)
    assert "CONFIDENCE.WEIGHT is 0.2, which has no effect without 'confidence' in TRAIN.OB" in said
    said = run("run_net", "--cfg", empty_cfg, "--opts", *given, "TRAIN.OBJECTIVES", "[confidense]",
               check=2)
    assert "nearest: confidence" in said


def test_a_merge_method_merges(run, tmp_path):
    for number in (1, 2, 3):
        torch.save({"model_state": {"model.w": torch.full((2,), float(number))}},
                   tmp_path / f"checkpoint_epoch_0000{number}.pyth")
    run("weight_average", "--source", tmp_path, "--start", 1, "--end", 3, "--output",
        tmp_path / "ema.pth", "--method", "ema", "--opts", *named("my_merge"),
        "MERGE.EMA.DECAY", 0.5)
    assert load(tmp_path / "ema.pth")["model_state"]["model.w"].tolist() == [2.25, 2.25]


def test_an_evaluation_task_scores_at_every_ratio(run, tiny, tmp_path, empty_cfg):
    out = tmp_path / "run"
    run("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, out, TRAIN__ENABLE=False, TEST__TASK="calibration", TEST__PATCHING_RATIOS="[1.0]"),
        *named("my_task"))
    row, = json.loads((out / "results.json").read_text())["results"]
    assert row["patching_ratio"] == 1.0 and 0 <= row["calibration_error"] <= 1
    said = run("run_net", "--cfg", empty_cfg, "--opts", "TRAIN.ENABLE", False, "NUM_GPUS", 0,
               "OUTPUT_DIR", out, "TEST.TASK", "calibration", *named("my_task"), check=2)
    assert "INDEX_LABEL_MAPPING_FILE is empty" in said and "loading torch" not in said


def test_a_preparer_writes_its_lists(run, tiny, tmp_path):
    rows = [f"{name}/{i}.mp4;{name}" for name in CLASSES for i in range(3)]
    (tmp_path / "test.txt").write_text("\n".join(rows) + "\n")
    given = ["my-data", "--videos", tiny / "videos/test", "--annotations", tmp_path, "--root",
             tmp_path, "--opts", *named("my_data")]
    said = run("prepare_labels", *given)
    assert "zs_label_db/my-data/test.csv" in said
    names = json.loads((tmp_path / "zs_label_db/my-data-index2cls.json").read_text())
    assert sorted(names.values()) == sorted(CLASSES)
    assert len((tmp_path / "zs_label_db/my-data/test.csv").read_text().splitlines()) == 9
    (tmp_path / "test.txt").write_text("gone.mp4;nothing\n")
    assert "gone.mp4" in run("prepare_labels", *given, "--overwrite")


def test_a_backbone_is_tested(run, tiny, tmp_path, empty_cfg):
    scores = []
    for backbone in ("clip", "clip_gelu"):
        out = tmp_path / backbone
        run("run_net", "--cfg", empty_cfg, "--opts", *options(
            tiny, out, TRAIN__ENABLE=False, TEST__SAVE_RESULTS_PATH="scores.pt",
            MODEL__BACKBONE=backbone), *named("my_backbone"))
        scores.append(out)
    assert all((out / "report.html").is_file() for out in scores)
    assert (scores[0] / "scores.pt").read_bytes() != (scores[1] / "scores.pt").read_bytes()
