"""Tests that send signals mean the same however the tests were started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.children import forget_environment

CODE = """
import os, signal, sys, time
from tests.children import default_signals
number = signal.Signals[sys.argv[1]]
if sys.argv[2] == "restored":
    default_signals(signal.SIGHUP)
os.kill(os.getpid(), number)
time.sleep(0.2)
print("alive")
"""


def shut(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
@pytest.mark.parametrize("state", ["as it came", "restored"])
def test_signals_reach_a_child_that_was_started_without_them(repo, name, state):
    number = signal.Signals[name]
    child = subprocess.run(
        [sys.executable, "-c", CODE, name, state], cwd=repo, capture_output=True, text=True,
        preexec_fn=lambda: shut(number), timeout=60,
    )
    if state == "as it came":
        assert (child.returncode, child.stdout) == (0, "alive\n"), child.stderr
    else:
        assert child.returncode == -number and not child.stdout


def test_a_batch_job_or_a_narrow_terminal_is_forgotten(monkeypatch):
    foreign = {"SLURM_PROCID": "3", "RANK": "3", "WORLD_SIZE": "4", "COLUMNS": "20"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    forget_environment()
    assert not foreign.keys() & os.environ.keys() and "PATH" in os.environ


def test_the_tests_themselves_get_the_signals_that_they_send():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        assert signal.getsignal(number) != signal.SIG_IGN
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
