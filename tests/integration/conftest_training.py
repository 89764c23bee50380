"""Training that tests compare: in float64 by several processes, or stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest_integration import options

from openvclip.checkpoints.files import checkpoint_path
from openvclip.config import load_cfg
from openvclip.models.resolve import build_resolved
from openvclip.training.build import build_trainer

HERE = Path(__file__).parent


def launch(repo: Path, processes: int, program: str, *arguments: object) -> str:
    """Run a program of this folder, by torchrun if there are several processes; its output."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone",
                    "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*command, str(HERE / program), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_lines(output: Path) -> list[dict]:
    """All lines of a run's statistics."""
    return [json.loads(x) for x in (output / "json_stats.jsonl").read_text().splitlines()]


def read_epochs(output: Path) -> list[dict]:
    """The lines that a run writes after each epoch of training."""
    return [row for row in read_lines(output) if row["_type"] == "train_epoch"]


class Trained(NamedTuple):
    """What a training left: its last checkpoint, and the gradient entries exchanged by step."""

    output: Path
    content: dict
    exchanged: list[int]

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return self.content["model_state"]

    @property
    def epochs(self) -> list[dict]:
        return read_epochs(self.output)


def train_double(
    tiny: Path, repo: Path, output: Path, processes: int, changes: dict[str, Any]
) -> Trained:
    """Train in float64 with some processes."""
    said = launch(repo, processes, "double_run.py", *options(tiny, output, **changes))
    (line,) = [x for x in said.splitlines() if x.startswith("exchanged")]
    path = checkpoint_path(output, changes["SOLVER__MAX_EPOCH"])
    return Trained(output, torch.load(path, weights_only=True), json.loads(line[9:]))


class Stopped(Exception):
    """Stands for a signal between two steps."""


def make_trainer(tiny: Path, folder: Path, **changes: Any):
    """A trainer that writes its state after each step of two videos."""
    folder.mkdir(exist_ok=True)
    return build_trainer(build_resolved(load_cfg(None, options(tiny, folder, **{
        "TRAIN__BATCH_SIZE": 2, "TRAIN__CHECKPOINT_ITERS": 1, "TEST__ENABLE": False, **changes}))))


def stop_after(trainer: Any, step: int) -> None:
    """Train until optimizer step ``step`` is over, whose state is not written any more."""
    objective = trainer.step.objectives[-1]
    after = objective.after_update

    def stop(number: int) -> None:
        after(number)
        if number == step:
            raise Stopped

    objective.after_update = stop
    with pytest.raises(Stopped):
        trainer.run()


def stop_when_saved(trainer: Any, position: tuple[int, int]) -> list[tuple[int, int]]:
    """Train until the state of an epoch (from 0) after so many iterations is written.

    Returns the positions of all states that were written within epochs.
    """
    save, saved = trainer.save_partial, []

    def save_and_stop(epoch: int, done: int) -> None:
        save(epoch, done)
        saved.append((epoch, done))
        if saved[-1] == position:
            raise Stopped

    trainer.save_partial = save_and_stop
    with pytest.raises(Stopped):
        trainer.run()
    return saved


def assert_equal(ours: Any, theirs: Any) -> None:
    """Whatever two checkpoints hold is the same."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, (list, tuple)):
        for own, other in zip(ours, theirs, strict=True):
            assert_equal(own, other)
    else:
        assert ours == theirs


def assert_close(ours: Any, theirs: Any, where: str = "") -> None:
    """Whatever tensors two checkpoints hold agree to 1e-9."""
    if isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0, msg=where)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            assert_close(ours[name], theirs[name], f"{where}.{name}")
