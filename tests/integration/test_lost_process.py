"""One process of a run is killed or fails: the others stop within a minute and say so."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from conftest_integration import hold_at, options

LIMIT = 60  # seconds from the loss to the end of all processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Run:
    """Started tools/run_net.py processes, their output in files."""

    def __init__(self, commands, folder, repo):
        self.logs = [folder / f"log{i}.txt" for i in range(len(commands))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes = []
        for command, log in zip(commands, self.logs, strict=True):
            with open(log, "w") as file:
                self.processes.append(subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, cwd=repo, env=environment,
                    start_new_session=True))

    def text(self, number: int = 0) -> str:
        return self.logs[number].read_text()

    def wait_for(self, done, seconds: float = 120):
        deadline = time.monotonic() + seconds
        while not done():
            alive = all(process.poll() is None for process in self.processes)
            assert alive and time.monotonic() < deadline, [self.text(i) for i in
                                                           range(len(self.logs))]
            time.sleep(0.02)

    def worker(self, number: int, rank: int) -> psutil.Process:
        """The process of ``rank`` that runs the model, below the started command ``number``."""
        for process in psutil.Process(self.processes[number].pid).children(recursive=True):
            command = " ".join(process.cmdline())
            if process.environ().get("RANK") == str(rank) and "run_net.py" in command:
                return process
            if "RANK" not in process.environ() and "spawn_main" in command:
                return process
        raise AssertionError(self.text(number))

    def end(self) -> list[int]:
        """Wait for all; returns their exit codes."""
        deadline = time.monotonic() + LIMIT
        return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]

    def clean(self):
        for process in self.processes:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()


@pytest.fixture
def start(tmp_path, empty_cfg, repo):
    """Start a run with torchrun, or as two shards with options of their own."""
    runs = []
    tool = [str(repo / "tools" / "run_net.py"), "--cfg", str(empty_cfg)]

    def start(launcher: str, *opts: list[str]) -> Run:
        if launcher == "torchrun":
            commands = [[sys.executable, "-m", "torch.distributed.run", "--standalone",
                         "--nproc_per_node", "2", *tool, "--opts", *opts[0]]]
        else:
            place = f"tcp://localhost:{free_port()}"
            commands = [[sys.executable, *tool, "--num_shards", "2", "--shard_id", str(shard),
                         "--init_method", place, "--opts", *opts[shard % len(opts)]]
                        for shard in range(2)]
        runs.append(Run(commands, tmp_path, repo))
        return runs[-1]

    yield start
    for run in runs:
        run.clean()


@pytest.fixture
def held(tiny, monkeypatch):
    """The dataset with a test video, in the share of process 1, that is never read to its end."""
    row = (tiny / "test.csv").read_text().splitlines()[4]
    hold_at(monkeypatch, tiny / "videos" / row.rpartition(",")[0])
    return tiny


def one_line(text: str, *parts: str) -> None:
    lines = [line for line in text.splitlines() if all(part in line for part in parts)]
    assert len(lines) == 1, text


def test_a_process_killed_in_a_test_under_torchrun(held, start, tmp_path):
    opts = options(held, tmp_path / "run", TRAIN__ENABLE=False, TEST__RESUME=True)
    run = start("torchrun", opts)
    # Process 0 has scored its two groups (4 + 1 videos) and waits for the other.
    run.wait_for(lambda: "testing: 5/5 videos" in run.text())
    run.worker(0, rank=1).kill()
    (code,) = run.end()
    assert code != 0 and "Signal 9 (SIGKILL)" in run.text()


def test_a_process_killed_in_a_test_of_two_shards(held, start, tmp_path):
    opts = options(held, tmp_path / "run", TRAIN__ENABLE=False)
    run = start("shards", opts)
    run.wait_for(lambda: "testing: 5/5 videos" in run.text(0))
    run.worker(1, rank=1).kill()
    assert run.end() == [2, 2]
    one_line(run.text(0), "TrainingError: a process of this run died", "0 of 2")
    one_line(run.text(1), "TrainingError: process 1 of the run was killed by SIGKILL")
    assert "Traceback" not in run.text(0) + run.text(1)


def test_the_first_process_killed_in_training(tiny, start, tmp_path):
    opts = options(tiny, tmp_path / "run", SOLVER__MAX_EPOCH=1000, TRAIN__CHECKPOINT_PERIOD=1000,
                   TRAIN__EVAL_PERIOD=1000)
    run = start("shards", opts)
    run.wait_for(lambda: "train_epoch: epoch 2/1000" in run.text(0))
    run.worker(0, rank=0).send_signal(signal.SIGKILL)
    assert run.end() == [2, 2]
    one_line(run.text(0), "TrainingError: process 0 of the run was killed by SIGKILL")
    one_line(run.text(1), "TrainingError: a process of this run died")
    assert "Traceback" not in run.text(0) + run.text(1)


def test_a_process_that_fails_is_named_with_its_reason(tiny, start, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(tiny, root)
    for video in (root / "videos" / "train").rglob("*.mp4"):
        video.write_bytes(b"not a video")
    out = tmp_path / "run"
    changes = {"SOLVER__MAX_EPOCH": 1000, "DATA__MAX_BAD_FRACTION": 1.0,
               "TRAIN__CHECKPOINT_PERIOD": 1000, "TRAIN__EVAL_PERIOD": 1000}
    run = start("shards", options(tiny, out, **changes), options(root, out, **changes))
    assert run.end() == [2, 2]
    one_line(run.text(1), "DataError:", "cannot be read")
    one_line(run.text(1), "TrainingError: process 1 of the run failed")
    one_line(run.text(0), "TrainingError: a process of this run died")
    assert "Traceback" not in run.text(0) + run.text(1)


def test_a_process_that_never_comes_is_an_error(monkeypatch):
    from datetime import timedelta

    from openvclip.launch import group
    from openvclip.utils.errors import ConfigError

    monkeypatch.setattr(group, "JOIN_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(ConfigError, match="process 0 of 2 could not meet the others at tcp://"):
        group._join(f"tcp://localhost:{free_port()}", 2, 0)
