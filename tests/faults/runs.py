"""Runs that are started, killed and compared."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from conftest_integration import INTERPOLATED, options

from openvclip.checkpoints import files as ckpt

DEADLINE = 120
CHANGES = {**INTERPOLATED, "TEST__ENABLE": False, "SOLVER__MAX_EPOCH": 3}


class Runs:
    """Forks runs of ``tools/run_net.py`` on the tiny dataset."""

    def __init__(self, root: Path, config: Path) -> None:
        self.root, self.config = root, config
        self._driver = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._driver.stdout.readline() == "0\n"

    def _ask(self, **request) -> int:
        self._driver.stdin.write(json.dumps(request) + "\n")
        self._driver.stdin.flush()
        return int(self._driver.stdout.readline())

    def start(self, output: Path, processes: int = 1, file_limit: int | None = None,
              held: Path | None = None, **changes) -> list[int]:
        """Start the run in ``output``; returns the ids of its processes, which wait at ``held``."""
        argv = ["--cfg", str(self.config), "--opts",
                *options(self.root, output, **{**CHANGES, **changes})]
        shared = {} if held is None else {"HELD_VIDEO": str(held)}
        if processes > 1:
            with socket.socket() as probe:
                probe.bind(("localhost", 0))
                shared |= {"MASTER_ADDR": "localhost", "WORLD_SIZE": str(processes),
                           "MASTER_PORT": str(probe.getsockname()[1])}
        return [
            self._ask(argv=argv, log=f"{output}.{rank}.log", file_limit=file_limit,
                      env=shared if processes == 1 else
                      {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(processes)
        ]

    def wait(self, pids: list[int]) -> list[int]:
        """Exit codes of started processes, once they have ended."""
        return [self._ask(wait=pid) for pid in pids]

    def finish(self, output: Path, processes: int = 1, **changes) -> str:
        """Run to the end and return rank 0's log of it."""
        log = Path(f"{output}.0.log")
        before = log.stat().st_size if log.exists() else 0
        codes = self.wait(self.start(output, processes, **changes))
        text = log.read_text()[before:]
        assert codes == [0] * processes, text
        return text

    def close(self) -> None:
        self._driver.stdin.close()
        self._driver.wait(DEADLINE)


def wait_for_file(folder: Path, pattern: str) -> Path:
    """Wait until a file appears and return it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.002)
    raise AssertionError(f"no {pattern} in {folder}")


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)


def same(first, second) -> bool:
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_end(first: Path, second: Path, epochs: int = 3) -> None:
    """Final weights, optimizer and the last epoch's log line are those of the other run."""
    states = [ckpt.load_file(ckpt.checkpoint_path(out, epochs)) for out in (first, second)]
    for key in ("epoch", "model_state", "optimizer_state"):
        assert same(states[0][key], states[1][key]), key
    lines = [epoch_lines(out)[f"{epochs}/{epochs}"] for out in (first, second)]
    for key in ("loss", "connect_loss", "grad_norm", "top1_err", "lr"):
        assert lines[0][key] == lines[1][key], key
    assert not list((second / "checkpoints").glob("partial_*"))
    assert not list((second / "checkpoints").glob(".*"))


def read_stats(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "json_stats.jsonl").read_text().splitlines()]


def epoch_lines(output: Path) -> dict[str, dict]:
    """The last ``train_epoch`` line of each epoch."""
    return {row["epoch"]: row for row in read_stats(output) if row["_type"] == "train_epoch"}
