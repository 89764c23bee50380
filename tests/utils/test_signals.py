"""Signals are noted, answered at the right moment, handed on, and left alone where others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from openvclip.launch.spawn import spawn
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


def test_an_error_that_a_signal_turned_into_is_still_the_signal():
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:  # As where a file is closed that the interrupted code had handed over already.
            raise OSError("Bad file descriptor")

    with pytest.raises(Interrupted) as found, StopSignals() as stop:
        stop.leave_at_once()
        work()
    assert found.value.code == EXIT_CODE
    with pytest.raises(OSError, match="No space"), StopSignals() as stop:
        stop.leave_at_once()
        raise OSError("No space left on device")


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


WAIT = """
import sys, time
from openvclip.utils.command_line import run_tool
from openvclip.launch.spawn import spawn

def wait(number):
    print("ready", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    sys.exit(run_tool(lambda: spawn(wait, (), 2), log=False))
"""


@pytest.mark.parametrize("when", ["working", "starting"])
def test_an_interrupt_ends_started_processes_with_one_line(tmp_path, repo, when):
    path = tmp_path / "wait.py"
    early = "import os; os.kill(os.getpid(), 2)" if when == "starting" else ""
    # The one that starts them is interrupted where it begins to wait; they are still importing.
    path.write_text(WAIT.replace("import sys, time", "import sys, time, os").replace(
        'if __name__ == "__main__":', 'if __name__ == "__main__":\n'
        '    import openvclip.launch.spawn as distributed\n'
        '    before = distributed.forwarding\n'
        '    from contextlib import contextmanager\n'
        '    @contextmanager\n'
        '    def forwarding(*args):\n'
        '        with before(*args):\n'
        f'            {early or "pass"}\n'
        '            yield\n'
        '    distributed.forwarding = forwarding'))
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
    )
    try:
        if when == "working":
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        text = process.stdout.read()
        assert process.wait(120) == 130, text
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
    lines = text.splitlines()
    assert "Traceback" not in text and all("stopped by Ctrl-C" in line for line in lines)
    assert 1 <= len(lines) <= 2  # here no process has a rank; in a run the first one speaks
