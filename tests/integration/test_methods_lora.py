"""LoRA and probing first: any number of processes, parts of a batch, resuming, averages, tests."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from conftest_integration import INTERPOLATED, options
from conftest_training import assert_close, assert_equal, make_trainer, stop_when_saved

from openvclip.checkpoints.files import checkpoint_path
from openvclip.config import load_cfg
from openvclip.models.resolve import build_resolved
from openvclip.report.run.predictions_file import load_predictions
from openvclip.training.build import build_trainer

LORA = {"TRAIN__LORA__ENABLE": True, "TRAIN__LORA__RANK": 4,
        "TRAIN__LORA__TARGETS": "['q','v','out','c_fc']"}
PROBE = {"TUNE_HEAD": True, "TRAIN__LP_FT__ENABLE": True, "TRAIN__LP_FT__EPOCHS": 2,
         "TRAIN__LP_FT__LR_FACTOR": 5.0}
METHODS = {"lora": LORA, "lp_ft": PROBE, "both": {**LORA, **PROBE}}
# 12 rows: one batch of 8 an epoch.
SHORT = {**INTERPOLATED, "TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 4,
         "TRAIN__CHECKPOINT_PERIOD": 4, "TRAIN__EVAL_PERIOD": 4, "TEST__ENABLE": False}
HEAD = 3 * 32


@pytest.fixture(scope="module")
def train(double):
    """Train in float64 with some processes; returns the checkpoint, the log's epochs, exchanges."""

    def start(processes, **changes):
        run = double(processes, **{**SHORT, **changes})
        return run.content, run.epochs, run.exchanged

    return start


@pytest.fixture(scope="module")
def alone(train):
    """What one process makes of a method; each is trained once."""
    return cache(lambda name: train(1, **METHODS[name]))


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_and_parts_of_a_batch_are_one_process(name, alone, train):
    content, rows, _ = alone(name)
    other, other_rows, exchanged = train(2, TRAIN__GRAD_ACCUM_STEPS=2, **METHODS[name])
    for key in ("model_state", "objectives", "optimizer_state"):
        assert_close(content.get(key), other.get(key), key)
    for ours, theirs in zip(rows, other_rows, strict=True):
        for loss in ("loss", "connect_loss", "grad_norm", "lr"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=2e-5), loss
    if name == "lora":
        factors = content["objectives"]["lora"]["factors"].values()
        assert exchanged == [sum(t.numel() for t in factors)] * 4
    else:  # DistributedDataParallel exchanges nothing while the head is probed
        assert exchanged[:2] == [0, 0] and exchanged[2] == exchanged[3] > HEAD


def test_probing_moves_the_head_alone(tiny, tmp_path):
    """At five times the rate, and fine-tuning moves the rest."""
    trainer = build_trainer(build_resolved(load_cfg(None, options(
        tiny, tmp_path / "run", **{**SHORT, **PROBE, "TRAIN__CHECKPOINT_PERIOD": 1}))))
    begun = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    (tmp_path / "run").mkdir(exist_ok=True)
    trainer.run()
    states = [torch.load(checkpoint_path(tmp_path / "run", n), weights_only=True)
              for n in (1, 2, 3)]
    changed = [{n for n, t in state["model_state"].items() if not torch.equal(t, begun[n])}
               for state in states]
    assert changed[0] == changed[1] == {"head"} and len(changed[2]) > 20
    # No optimizer state for what has not trained.
    assert [len(state["optimizer_state"]["state"]) for state in states[:2]] == [1, 1]
    rows = [json.loads(x) for x in (tmp_path / "run" / "json_stats.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if row["_type"] == "train_epoch"]
    assert rates[1] / rates[2] > 5  # the cosine falls, too


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("after", [1, 5])
def test_resuming_is_exact(name, after, tiny, tmp_path):
    """In the middle of an epoch, of probing and of fine-tuning."""
    changes = {**SHORT, **METHODS[name], "TRAIN__BATCH_SIZE": 6, "TRAIN__CHECKPOINT_ITERS": after}
    position = (after // 2, 1)
    make_trainer(tiny, tmp_path / "whole", **changes).run()
    file = checkpoint_path(tmp_path / "whole", 4)
    stopped = make_trainer(tiny, tmp_path / "resumed", **changes)
    assert stop_when_saved(stopped, position) == [position]
    resumed = make_trainer(tiny, tmp_path / "resumed", **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == position
    resumed.run()
    ours, theirs = (torch.load(x, weights_only=True) for x in (
        file, checkpoint_path(tmp_path / "resumed", 4)))
    for key in ("model_state", "objectives", "optimizer_state"):
        assert_equal(ours.get(key), theirs.get(key))


def test_merged_checkpoints_are_averaged_patched_and_tested(tiny, tmp_path, empty_cfg, in_process,
                                                            tool):
    """As ordinary ones, which know nothing of LoRA; a new training begins at what they hold."""
    run, swa = tmp_path / "run", tmp_path / "swa.pth"
    short = {**INTERPOLATED, **LORA, "TEST__ENABLE": False, "TRAIN__EVAL_PATCHING_RATIO": 0.5,
             "SOLVER__BASE_LR": 0.01}
    in_process(empty_cfg, options(tiny, run, **short))
    rows = [json.loads(x) for x in (run / "json_stats.jsonl").read_text().splitlines()]
    validated = [row for row in rows if row["_type"] == "val_epoch"][-1]
    tool("weight_average", "--source", run, "--start", 1, "--end", 2, "--output", swa)
    states = [torch.load(x, weights_only=True)["model_state"]
              for x in (swa, checkpoint_path(run, 1), checkpoint_path(run, 2))]
    clip = torch.load(tiny / "clip.pt", weights_only=True)
    trained = {name for name, tensor in states[0].items()
               if not torch.equal(tensor, clip[name.removeprefix("model.")])}
    assert len(trained) == 6 and all(".resblocks." in name for name in trained)
    for name in trained:
        torch.testing.assert_close(states[0][name], (states[1][name] + states[2][name]) / 2)

    # The checkpoint alone has the accuracies that the live model had.
    again = tmp_path / "again"
    alone = {"TRAIN__CHECKPOINT_FILE_PATH": checkpoint_path(run, 2), "VAL_MODE": True,
             "TRAIN__EVAL_PATCHING_RATIO": 0.5}
    in_process(empty_cfg, options(tiny, again, **alone))
    (other,) = [x for x in map(json.loads, (again / "json_stats.jsonl").read_text().splitlines())
                if x["_type"] == "val_epoch"]
    for name in ("top1_acc", "top1_acc_patched", "top5_acc"):
        assert other[name] == validated[name], name

    tested = tmp_path / "tested"
    in_process(empty_cfg, options(
        tiny, tested, TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=swa,
        TEST__PATCHING_RATIOS="[0.0,1.0]", TEST__SAVE_RESULTS_PATH="p.pt"))
    scores = [load_predictions(tested / f"p_ratio{r:.2f}.pt")[0] for r in (0.0, 1.0)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3

    trainer = build_trainer(load_cfg(None, options(
        tiny, tmp_path / "second", TRAIN__CUSTOM_LOAD=True, TRAIN__CUSTOM_LOAD_FILE=swa,
        **{**short, "TRAIN__LORA__RANK": 2})))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, states[0][name]), name
    # Patched validation mixes all that a test would patch, not only what now trains.
    assert len(trainer.validator.weights.names) > len(trainer.step.interpolator.names)


def test_the_live_model_validates_as_its_checkpoint(tiny, tmp_path):
    trainer = build_trainer(build_resolved(load_cfg(None, options(
        tiny, tmp_path / "run", **{**SHORT, **LORA, "SOLVER__BASE_LR": 0.01}))))
    (tmp_path / "run").mkdir(exist_ok=True)
    trainer.run()
    video = torch.randn(2, 3, 4, 32, 32)
    live = trainer.model.eval()
    other = build_trainer(build_resolved(load_cfg(None, options(tiny, tmp_path / "other", **{
        **SHORT, "TRAIN__CHECKPOINT_FILE_PATH": checkpoint_path(tmp_path / "run", 4),
        "TRAIN__CHECKPOINT_EPOCH_RESET": True})))).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(other(video), live(video), rtol=0, atol=1e-5)
