"""Methods that keep the raw model: any number of processes, resuming, and tests with it."""

from __future__ import annotations

import json
import shutil
from functools import cache

import pytest
import torch
from conftest_integration import INTERPOLATED, options
from conftest_training import assert_close, assert_equal, make_trainer, stop_after

from openvclip.checkpoints.files import checkpoint_path
from openvclip.config import load_cfg
from openvclip.data.captions.index import write_captions
from openvclip.evaluation.build import build_runner
from openvclip.predict.input_spec import find_input_spec
from openvclip.report.run.predictions_file import load_predictions

DISTILL = {"MODEL__KEEP_RAW_MODEL": True, "MODEL__RAW_MODEL_DISTILLATION": True,
           "MODEL__DISTILLATION_RATIO": 2.0}
METHODS = {
    "distill": DISTILL,
    "lipsum": {"TRAIN__OBJECTIVES": "['lipsum']"},
    "froster": {"TRAIN__OBJECTIVES": "['froster']", "MODEL__TEXT_TEMPLATES": "froster29"},
}
# 12 rows: one batch of 8 an epoch.
SHORT = {"TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 4, "TRAIN__CHECKPOINT_PERIOD": 4,
         "TRAIN__EVAL_PERIOD": 4, "TEST__ENABLE": False}


@pytest.fixture(scope="module")
def train(double):
    """Train in float64 with some processes; returns the whole checkpoint and the log's epochs."""

    def start(processes, **changes):
        run = double(processes, **{**SHORT, **changes})
        return run.content, run.epochs

    return start


@pytest.fixture(scope="module")
def alone(train):
    """What one process makes of a method; each is trained once."""
    return cache(lambda name: train(1, **INTERPOLATED, **METHODS[name]))


# Compiling takes longest: one of them does.
WAYS = {"ddp": {"MODEL__COMPILE": shutil.which("g++") is not None}, "fsdp": {}}


@pytest.mark.parametrize(("name", "sharding"), [
    ("distill", "ddp"), ("distill", "fsdp"), ("lipsum", "ddp"), ("lipsum", "fsdp"),
    ("froster", "ddp")])
def test_two_processes_equal_one(name, sharding, train, alone):
    """In float64, interpolated; two processes accumulate, and checkpoint activations."""
    content, rows = alone(name)
    other, other_rows = train(
        2, **INTERPOLATED, **METHODS[name], **(WAYS[sharding] if name == "distill" else {}),
        TRAIN__GRAD_ACCUM_STEPS=2, MODEL__USE_CHECKPOINT=True, TRAIN__SHARDING=sharding)
    for part in ("model_state", "objectives"):
        assert_close(content.get(part, {}), other.get(part, {}))
    for ours, theirs in zip(rows, other_rows, strict=True):
        for key in (f"{name}_loss", f"connect_{name}_loss", "total_loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-5), key
            assert ours[key] > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(name, tiny, tmp_path):
    changes = {**INTERPOLATED, **METHODS[name]}
    make_trainer(tiny, tmp_path / "whole", **changes).run()
    stop_after(make_trainer(tiny, tmp_path / "parts", **changes), 8)  # the third of six
    resumed = make_trainer(tiny, tmp_path / "parts", **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == (1, 2)
    resumed.run()
    contents = [torch.load(checkpoint_path(tmp_path / folder, 2), weights_only=True)
                for folder in ("whole", "parts")]
    for part in ("model_state", "optimizer_state", "objectives"):
        assert_equal(*(content.get(part) for content in contents))


def test_distillation_with_all_around_it_and_a_test_with_the_raw_model(
    tiny, tmp_path, empty_cfg, in_process
):
    """Captions, mixup's soft targets in another run, a tuned head; the test states the share."""
    captions = tmp_path / "captions.sqlite"
    write_captions(captions, {str(n): [f"clip number {n}"] for n in range(3)})
    run = tmp_path / "run"
    in_process(empty_cfg, options(
        tiny, run, TRAIN__CAPTION__ENABLE=True, TRAIN__CAPTION__FILE=captions,
        TRAIN__EVAL_PATCHING_RATIO=0.5, TEST__ENABLE=False, **INTERPOLATED, **DISTILL))
    stats = [json.loads(x) for x in (run / "json_stats.jsonl").read_text().splitlines()]
    rows = [row for row in stats if row["_type"] == "train_epoch"]
    assert all(row["distill_loss"] > 0 and row["caption_loss"] > 0 for row in rows)
    in_process(empty_cfg, options(
        tiny, tmp_path / "head", TUNE_HEAD=True, MIXUP__ENABLE=True, TEST__ENABLE=False,
        MODEL__LOSS_FUNC="soft_cross_entropy", **DISTILL))

    weights = {"TRAIN__ENABLE": False, "TEST__CUSTOM_LOAD": True, "TEST__SAVE_RESULTS_PATH": "p.pt",
               "TEST__CUSTOM_LOAD_FILE": checkpoint_path(run, 2)}
    raw = {"MODEL__KEEP_RAW_MODEL": True, "MODEL__ENSEMBLE_PRED": True,
           "MODEL__ENSEMBLE_RAWMODEL_RATIO": 0.25}
    scores = {}
    for name, changes in {
        "own": weights, "mixed": {**weights, **raw}, "clip": {
            "TRAIN__ENABLE": False, "MODEL__TEMPORAL_MODELING_TYPE": None,
            "TEST__SAVE_RESULTS_PATH": "p.pt"},
    }.items():
        in_process(empty_cfg, options(tiny, tmp_path / name, **changes))
        scores[name] = load_predictions(tmp_path / name / "p.pt")[0]
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["raw_model_ratio"] == (0.25 if name == "mixed" else None)
    torch.testing.assert_close(
        scores["mixed"], 0.25 * scores["clip"] + 0.75 * scores["own"], atol=1e-4, rtol=0)
    assert not torch.allclose(scores["mixed"], scores["own"], atol=1e-2)
    assert "share of the raw model's logits" in (tmp_path / "mixed/report.html").read_text()

    keys = [build_runner(load_cfg(None, options(
        tiny, tmp_path / "key", TEST__RESUME=True, **weights, **more)), tmp_path).resume_key
        for more in ({}, raw, {**raw, "MODEL__ENSEMBLE_RAWMODEL_RATIO": 0.5})]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == 3
    assert "raw_model_ratio" not in keys[0]["facts"]  # logs of earlier versions remain valid


def test_predictions_say_that_they_leave_the_raw_model_out(tiny, tmp_path, caplog):
    trained = tmp_path / "config.yaml"
    cfg = load_cfg(None, options(tiny, tmp_path, MODEL__KEEP_RAW_MODEL=True,
                                 MODEL__ENSEMBLE_PRED=True))
    trained.write_text(cfg.dump())
    find_input_spec(None, trained)
    assert "config.yaml mixes the raw model's logits into those of tests" in caplog.text


def test_froster_from_training_to_patched_tests(tiny, tmp_path, empty_cfg, in_process):
    """Mixed precision, validation of patched weights, averaging's input, the raw model in tests."""
    run = tmp_path / "run"
    texts = {"MODEL__TEXT_TEMPLATES": "froster29"}
    in_process(empty_cfg, options(
        tiny, run, **METHODS["froster"], **INTERPOLATED, TRAIN__MIXED_PRECISION=True,
        TRAIN__EVAL_PATCHING_RATIO=0.5, MODEL__TEXT_CHUNK=2, SOLVER__BASE_LR=1e-2,
        TEST__PATCHING_RATIOS="[0.0,0.5,1.0]", TEST__SAVE_RESULTS_PATH="p.pt"))
    stats = [json.loads(x) for x in (run / "json_stats.jsonl").read_text().splitlines()]
    rows = [row for row in stats if row["_type"] == "train_epoch"]
    assert all(row["froster_loss"] > 0 and row["connect_froster_loss"] > 0 for row in rows)
    content = torch.load(checkpoint_path(run, 2), weights_only=True)
    assert not [name for name in content["model_state"] if "projector" in name]
    projectors = content["objectives"]["froster"]
    assert len(projectors) == 4 and all(t.any() for t in projectors.values())
    clip = torch.load(tiny / "clip.pt", weights_only=True)
    for name in ("token_embedding.weight", "ln_final.weight", "visual.proj", "logit_scale"):
        assert not torch.equal(content["model_state"][f"model.{name}"], clip[name]), name
    results = json.loads((run / "results.json").read_text())
    assert (results["prompts"]["name"], results["prompts"]["count"]) == ("froster29", 29)

    alone = {"TRAIN__ENABLE": False, "TEST__SAVE_RESULTS_PATH": "p.pt", **texts}
    in_process(empty_cfg, options(tiny, tmp_path / "clip", **alone))
    scores = {ratio: load_predictions(run / f"p_ratio{ratio:.2f}.pt")[0] for ratio in (0.0, 1.0)}
    torch.testing.assert_close(
        scores[1.0], load_predictions(tmp_path / "clip/p.pt")[0], atol=1e-4, rtol=0)
    assert not torch.allclose(scores[0.0], scores[1.0], atol=1e-2)
    # As published: beside the model its projectors and the raw model.
    state = {**content["model_state"], **{f"raw_model.{n}": t for n, t in clip.items()},
             **projectors}
    torch.save({"model_state": state}, tmp_path / "published.pyth")
    in_process(empty_cfg, options(
        tiny, tmp_path / "published", **alone, TEST__CUSTOM_LOAD=True,
        TEST__CUSTOM_LOAD_FILE=tmp_path / "published.pyth"))
    assert torch.equal(load_predictions(tmp_path / "published/p.pt")[0], scores[0.0])
    in_process(empty_cfg, options(
        tiny, tmp_path / "mixed", **alone, TEST__CUSTOM_LOAD=True, MODEL__KEEP_RAW_MODEL=True,
        MODEL__ENSEMBLE_PRED=True, MODEL__ENSEMBLE_RAWMODEL_RATIO=0.5,
        TEST__CUSTOM_LOAD_FILE=checkpoint_path(run, 2)))
    assert not torch.equal(load_predictions(tmp_path / "mixed/p.pt")[0], scores[0.0])
