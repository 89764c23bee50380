"""EMA: any number of processes, resuming, validation, and every tool that reads its weights."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from conftest_integration import CLASSES, INTERPOLATED, options
from conftest_training import make_trainer, read_lines, stop_after

from openvclip.checkpoints.export import load_export
from openvclip.checkpoints.files import checkpoint_path, load_file
from openvclip.checkpoints.loading import load_weights
from openvclip.config import load_cfg
from openvclip.data.captions.index import write_captions
from openvclip.models.resolve import build_resolved
from openvclip.predict.classifier import load_model

# 12 rows: one batch of 8 an epoch, so 4 steps.
CHANGES = {"TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 4, "TRAIN__CHECKPOINT_PERIOD": 4,
           "TRAIN__EVAL_PERIOD": 4, "TEST__ENABLE": False, "TRAIN__EMA__ENABLE": True}
# Checkpoints of whole epochs only.
EPOCHS = {"TRAIN__BATCH_SIZE": 4, "TRAIN__CHECKPOINT_ITERS": 0}
METHODS = {
    "ema": {},
    "anchor": {**INTERPOLATED, "TRAIN__LINEAR_CONNECT_ANCHOR": "ema"},
}


@pytest.fixture(scope="module")
def train(double):
    """Train in float64 with some processes; returns the whole checkpoint and the log's lines."""

    def start(processes, **changes):
        run = double(processes, **{**CHANGES, **changes})
        return run.content, read_lines(run.output)

    return start


@pytest.fixture(scope="module")
def alone(train):
    """What one process makes of a method, with patched validation; each is trained once."""
    return cache(lambda name: train(1, **METHODS[name], TRAIN__EVAL_PATCHING_RATIO=0.5))


@pytest.mark.parametrize(("name", "sharding"), [
    ("anchor", "ddp"), ("anchor", "fsdp")])
def test_two_processes_equal_one(name, sharding, train, alone):
    content, rows = alone(name)
    other, other_rows = train(2, **METHODS[name], TRAIN__GRAD_ACCUM_STEPS=2,
                              TRAIN__SHARDING=sharding, TRAIN__EVAL_PATCHING_RATIO=0.5)
    state, average = content["model_state"], content["objectives"]["ema"]
    theirs = other["objectives"]["ema"]
    assert average["updates"] == theirs["updates"] == 4
    trained = {n for n in state if n.startswith("model.visual.") or n == "model.logit_scale"}
    assert set(average["weights"]) == set(theirs["weights"]) == trained
    for key, tensor in state.items():
        torch.testing.assert_close(other["model_state"][key], tensor, atol=1e-9, rtol=0, msg=key)
    for key, tensor in average["weights"].items():
        torch.testing.assert_close(theirs["weights"][key], tensor, atol=1e-9, rtol=0, msg=key)
        assert tensor.dtype == torch.float64 and not torch.equal(tensor, state[key]), key
    (line,), (their_line,) = ([row for row in found if row["_type"] == "val_epoch"]
                              for found in (rows, other_rows))
    assert {"top1_acc_ema", "top5_acc_ema", "top1_acc_ema_patched", "top5_acc_ema_patched",
            "top1_acc", "top1_acc_patched"} <= set(line)
    assert {k: v for k, v in line.items() if "acc" in k} == {
        k: v for k, v in their_line.items() if "acc" in k}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(name, tiny, tmp_path):
    changes = {"TRAIN__EMA__ENABLE": True, **METHODS[name]}
    make_trainer(tiny, tmp_path / "whole", **changes).run()
    stop_after(make_trainer(tiny, tmp_path / "parts", **changes), 8)  # the third of six
    resumed = make_trainer(tiny, tmp_path / "parts", **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == (1, 2)
    resumed.run()
    whole, parts = (load_file(checkpoint_path(tmp_path / folder, 2))
                    for folder in ("whole", "parts"))
    assert whole["objectives"]["ema"]["updates"] == parts["objectives"]["ema"]["updates"] == 12
    for ours, theirs in ((whole["model_state"], parts["model_state"]),
                         (whole["objectives"]["ema"]["weights"],
                          parts["objectives"]["ema"]["weights"])):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_training_is_the_same_with_and_without(tiny, tmp_path):
    for name, changes in (("with", {"TRAIN__EMA__ENABLE": True}), ("without", {})):
        make_trainer(tiny, tmp_path / name, **changes, **EPOCHS).run()
    ours, theirs = (load_file(checkpoint_path(tmp_path / name, 2))
                    for name in ("with", "without"))
    assert "objectives" not in theirs
    assert all(torch.equal(theirs["model_state"][key], tensor)
               for key, tensor in ours["model_state"].items())


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run with captions, a text tower that trains and an average that stays behind."""
    output = tmp_path_factory.mktemp("run")
    file = output / "captions.sqlite"
    write_captions(file, {str(n): [f"clip number {n}"] for n in range(3)})
    make_trainer(tiny, output, TRAIN__EMA__ENABLE=True, TRAIN__EMA__WARMUP=False,
                 TRAIN__EMA__DECAY=0.9, TRAIN__CAPTION__ENABLE=True, TRAIN__CAPTION__FILE=file,
                 TRAIN__CAPTION__TEXT_TOWER="trainable", TRAIN__EVAL_PATCHING_RATIO=0.5,
                 **EPOCHS).run()
    return output


def test_a_text_tower_that_trains_is_in_it(trained):
    content = load_file(checkpoint_path(trained, 2))
    average = content["objectives"]["ema"]["weights"]
    assert set(average) == set(content["model_state"])
    assert not torch.equal(average["model.text_projection"],
                           content["model_state"]["model.text_projection"])


def test_it_is_tested_predicted_exported_and_averaged(trained, tiny, tmp_path, tool, empty_cfg):
    """Everywhere the same tensors: those in the checkpoint, or their mean."""
    paths = [checkpoint_path(trained, n) for n in (1, 2)]
    averages = [load_file(path)["objectives"]["ema"]["weights"] for path in paths]
    clip, last = tiny / "clip.pt", str(paths[1])
    for weights in (load_model(clip, last, weights="ema").model.state_dict(),
                    {f"model.{name}": tensor for name, tensor in load_export(
                        clip, checkpoint=last, which="ema").model.state_dict().items()}):
        for name, tensor in averages[1].items():
            assert torch.equal(weights[name], tensor), name
    mean = tmp_path / "mean.pth"
    tool("weight_average", "--source", trained, "--start", 1, "--end", 2, "--output", mean,
         "--weights", "ema")
    for name, tensor in load_file(mean)["model_state"].items():
        both = torch.stack([average[name].double() for average in averages]).mean(0)
        torch.testing.assert_close(tensor.double(), both, atol=1e-7, rtol=1e-6)
    found = {}
    for name, changes in {
        "current": {"TEST__CHECKPOINT_FILE_PATH": last},
        "ema": {"TEST__CHECKPOINT_FILE_PATH": last, "TEST__WEIGHTS": "ema"},
        "mean": {"TEST__CHECKPOINT_FILE_PATH": mean},
    }.items():
        tool("run_net", "--cfg", empty_cfg, "--opts", *options(
            tiny, tmp_path / name, TRAIN__ENABLE=False, TEST__PATCHING_RATIOS="[0.0,0.5]",
            **changes))
        found[name] = json.loads((tmp_path / name / "results.json").read_text())
    assert [found[name]["checkpoint"].get("weights") for name in found] == [None, "ema", "ema"]
    refused = tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, tmp_path / "refused", TRAIN__ENABLE=False, TEST__CHECKPOINT_FILE_PATH=mean,
        TEST__WEIGHTS="ema"), check=2)
    assert "mean.pth is itself an average of ema weights" in refused.output
    tool("summarize", *(tmp_path / name for name in found))
    summary = (tmp_path / "current" / "summary_protocols.csv").read_text()
    assert "checkpoint_epoch_00002.pyth, ema weights" in summary
    assert "mean.pth, ema weights" in summary


def test_a_test_of_it_has_the_scores_of_its_weights(trained, tiny, tmp_path):
    """Its own text tower makes the classifier."""
    from openvclip.checkpoints.loading import build_tested

    opts = options(tiny, tmp_path, TRAIN__ENABLE=False, TEST__WEIGHTS="ema",
                   TEST__CHECKPOINT_FILE_PATH=checkpoint_path(trained, 2))
    cfg = build_resolved(load_cfg(None, opts))
    model, weights, ratios, _ = build_tested(cfg, CLASSES, torch.device("cpu"))
    average = load_file(checkpoint_path(trained, 2))["objectives"]["ema"]["weights"]
    assert all(torch.equal(tensor, average[name]) for name, tensor in model.state_dict().items())
    before = model.classifier
    with weights.at(0.0):
        ema = model.classifier
    assert not torch.allclose(ema, before), "the classifier is not that of CLIP"
    assert load_weights(model, str(checkpoint_path(trained, 2)))
    assert not torch.equal(model.state_dict()["model.text_projection"],
                           average["model.text_projection"])
