"""Signals are noted, answered at the right moment, handed on, and left alone where others do."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from openvclip.utils.distributed import spawn
from openvclip.utils.signals import EXIT_CODE, Interrupted, StopSignals, leave_signals_to_parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_handlers_go_with_the_block(number):
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number.name
    assert signal.getsignal(number) is signal.SIG_DFL


def test_leaving_at_once_counts_what_came_before_and_what_comes():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as found:
            stop.leave_at_once()
        assert found.value.code == EXIT_CODE
    with StopSignals() as stop:
        stop.leave_at_once()
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_handler_that_is_there_stays():
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert seen == [1] and stop.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [1, 1]
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_a_forked_child_dies_of_the_signal_as_it_would_have():
    with StopSignals() as stop:
        pid = os.fork()
        if pid == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert stop.received is None


def test_a_loader_worker_ends_for_its_parent_only():
    read, write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            leave_signals_to_parent(parent)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
            os.write(write, b"alive")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(read, 5) == b"alive"
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _wait_for_signal(number: int, folder: str) -> None:
    with StopSignals() as stop:
        open(os.path.join(folder, str(number)), "w").close()
        end = time.monotonic() + 60
        while not stop.received and time.monotonic() < end:
            time.sleep(0.01)
        raise Interrupted if stop.received == "SIGUSR1" else RuntimeError("no signal came")


def test_spawned_processes_get_the_signal_and_their_exit_code_comes_back(tmp_path):
    def send() -> None:
        end = time.monotonic() + 60
        while len(os.listdir(tmp_path)) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted):
        spawn(_wait_for_signal, (str(tmp_path),), 2)
    sender.join()
