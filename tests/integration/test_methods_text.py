"""Class texts that train: any number of processes, parts of a batch, resuming, testing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest_integration import INTERPOLATED, options

from openvclip.checkpoints.files import checkpoint_path

PROGRAM = Path(__file__).with_name("double_run.py")
# 12 rows: one batch an epoch, so 4 interpolated steps.
CHANGES = {
    **INTERPOLATED, "TRAIN__BATCH_SIZE": 12, "SOLVER__MAX_EPOCH": 4, "TRAIN__CHECKPOINT_PERIOD": 4,
    "TRAIN__EVAL_PERIOD": 4, "TRAIN__GRAD_ACCUM_STEPS": 2, "TEST__ENABLE": False,
}
# 3 sentences: of two processes one has two, in two chunks; of four, one has none.
TEXTS = {"MODEL__TEXT_TOWER": "trainable", "MODEL__TEXT_SAMPLE": 1, "MODEL__TEXT_CHUNK": 1}
METHODS = {"class texts": TEXTS}


@pytest.fixture(scope="module")
def train(tiny, repo, tmp_path_factory):
    """Train in float64 with some processes; returns the weights, the log's rows, the exchanges."""

    def start(processes, **changes):
        output = tmp_path_factory.mktemp(f"by{processes}")
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone",
                        "--nproc_per_node", str(processes)]
        done = subprocess.run(
            [*command, str(PROGRAM), *options(tiny, output, **{**CHANGES, **changes})],
            capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("exchanged")]
        state = torch.load(checkpoint_path(output, 4), weights_only=True)["model_state"]
        rows = [json.loads(x) for x in (output / "json_stats.jsonl").read_text().splitlines()]
        return state, [row for row in rows if row["_type"] == "train_epoch"], json.loads(line[9:])

    return start


@pytest.fixture(scope="module")
def alone(train):
    """Runs of one process that keeps all texts' activations, by the name of the method."""
    return cache(lambda name: train(1, **{**METHODS[name], "MODEL__TEXT_CHUNK": 256}))


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_processes_share_the_texts(name, processes, train, alone):
    state, rows, _ = alone(name)
    other, other_rows, exchanged = train(processes, **METHODS[name])
    assert exchanged == [sum(t.numel() for t in state.values())] * 4
    for key, tensor in state.items():
        torch.testing.assert_close(other[key], tensor, atol=1e-9, rtol=0, msg=key)
        assert not torch.equal(tensor, tensor.float().double()), f"{key} did not train"
    for ours, theirs in zip(rows, other_rows, strict=True):
        for loss in ("connect_loss", "loss", "grad_norm"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=2e-5), loss
