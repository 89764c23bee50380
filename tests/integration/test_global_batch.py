"""A training run depends on the global batch, not on how many processes share it."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest_integration import INTERPOLATED

from openvclip.checkpoints.files import checkpoint_path
from openvclip.data.captions.index import write_captions

# 12 rows: one batch of 8 an epoch, so 20 interpolated steps.
CHANGES = {
    **INTERPOLATED, "TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 20, "TRAIN__CHECKPOINT_PERIOD": 20,
    "TRAIN__EVAL_PERIOD": 20, "TEST__ENABLE": False,
}


@pytest.fixture(scope="module")
def train(double):
    """Train with some processes; returns the weights, the log's rows and the exchanges."""

    def start(processes, **changes):
        run = double(processes, output=changes.pop("OUTPUT_DIR", None), **{**CHANGES, **changes})
        return run.state, run.epochs, run.exchanged

    return start


@pytest.fixture(scope="module")
def alone(train):
    return train(1)


FSDP = {"TRAIN__SHARDING": "fsdp"}
WAYS = {"TRAIN__GRAD_ACCUM_STEPS": 2, "MODEL__USE_CHECKPOINT": True,
        "MODEL__COMPILE": shutil.which("g++") is not None}


@pytest.fixture(scope="module")
def captioned(train, tmp_path_factory):
    """Settings with captions, of which every fourth video has none, and a run of one process."""
    file = tmp_path_factory.mktemp("captions") / "captions.sqlite"
    write_captions(file, {str(n): [f"clip number {n}", f"a clip {n}"] for n in range(3)})
    captions = {"TRAIN__CAPTION__ENABLE": True, "TRAIN__CAPTION__FILE": file,
                "TRAIN__CAPTION__TEXT_TOWER": "trainable"}
    return captions, train(1, **captions)


@pytest.mark.parametrize("sharding", [{}, FSDP], ids=["ddp", "fsdp"])
def test_captions_meet_those_of_the_other_processes(sharding, train, captioned):
    """With a text tower that trains."""
    captions, (state, rows, _) = captioned
    other, other_rows, exchanged = train(2, **captions, **sharding, TRAIN__GRAD_ACCUM_STEPS=2)
    trained = sum(t.numel() for t in state.values())
    assert exchanged == ([0] if sharding else [trained]) * 20
    for name, tensor in state.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)
        assert not torch.equal(tensor, tensor.float().double()), f"{name} did not train"
    for ours, theirs in zip(rows, other_rows, strict=True):
        for name in ("caption_loss", "connect_caption_loss", "loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5), name


@pytest.mark.parametrize(
    ("processes", "changes"), [(2, {}), (4, {}), (2, WAYS), (2, {**WAYS, **FSDP})],
    ids=["2", "4", "2, compiled and in parts", "2, sharded as well"])
def test_twenty_interpolated_steps_in_float64(processes, changes, alone, train):
    state, rows, exchanged = train(processes, **changes)
    trained = sum(t.numel() for n, t in state.items()
                  if n.startswith("model.visual.") or n == "model.logit_scale")
    # Sharded gradients are exchanged block by block, which nothing counts.
    assert exchanged == ([0] if "TRAIN__SHARDING" in changes else [trained]) * 20
    moved = 0
    for name, tensor in alone[0].items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=0)
        moved += not torch.equal(tensor, tensor.float().double())
    assert moved > 20
    for ours, theirs in zip(rows, alone[1], strict=True):
        for name in ("loss", "connect_loss", "grad_norm", "top1_err"):
            # The log has six digits.
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5), name


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 3)])
def test_a_sharded_run_resumes_on_another_number_of_processes(first, second, train, tmp_path):
    """With patched weights in validation."""
    changes = {**FSDP, "TRAIN__BATCH_SIZE": 6, "SOLVER__MAX_EPOCH": 4,
               "TRAIN__CHECKPOINT_PERIOD": 2, "TRAIN__EVAL_PATCHING_RATIO": 0.5}
    whole, rows, _ = train(first, **changes, OUTPUT_DIR=tmp_path / "whole")
    file = checkpoint_path(tmp_path / "resumed", 2)
    file.parent.mkdir(parents=True)
    shutil.copy(checkpoint_path(tmp_path / "whole", 2), file)
    state, other_rows, _ = train(second, **changes, OUTPUT_DIR=tmp_path / "resumed")
    for name, tensor in whole.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-9, rtol=0)
    assert [row["epoch"] for row in other_rows] == [row["epoch"] for row in rows[2:]]
