"""One training a folder: whom the lock keeps out, and whom it does not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from openvclip.launch import lock
from openvclip.launch.lock import FILE, training_lock
from openvclip.utils.errors import ConfigError

HOLD = """
import os, sys, time
from openvclip.launch.lock import training_lock
with training_lock(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:  # as loader workers are
        time.sleep(600)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(repo, tmp_path):
    """Start a process that holds the lock of tmp_path/out; returns it."""
    started = []

    def start(*args: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "out"), *args], cwd=repo, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_training_is_refused_by_folder_process_and_machine(hold, tmp_path):
    holder = hold()
    with pytest.raises(ConfigError) as found, training_lock(tmp_path / "out"):
        pass  # at once: the holder is a process of this machine with its parent
    text = str(found.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in text and "\n" not in text
    assert str(tmp_path / "out") in text
    with training_lock(tmp_path / "other"):
        pass


def test_the_lock_ends_with_its_process_even_where_workers_live_on(hold, tmp_path):
    holder = hold("fork")
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / FILE).is_file()  # whatever it still says
    with training_lock(tmp_path / "out", patience=0):
        said = json.loads((tmp_path / "out" / FILE).read_text())
        assert said["pid"] == os.getpid()


def test_one_process_cannot_have_it_twice_and_has_it_again_after(tmp_path):
    with training_lock(tmp_path):
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), \
                training_lock(tmp_path / "link"):
            pass
    for _ in range(2):
        with training_lock(tmp_path):
            pass


def test_a_holder_that_may_be_about_to_end_is_waited_for(hold, tmp_path, monkeypatch):
    holder = hold()
    monkeypatch.setattr(lock, "_is_well", lambda _: False)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with training_lock(tmp_path / "out"):
        assert waited


@pytest.mark.parametrize("holder", [
    {}, {"host": "elsewhere", "pid": os.getpid(), "parent": os.getppid()},
    {"host": socket.gethostname(), "pid": os.getpid(), "parent": -1},
    {"host": socket.gethostname(), "pid": 2**22 + 1, "parent": 1},
])
def test_who_is_not_known_to_be_well(holder):
    assert not lock._is_well(holder)


@pytest.mark.parametrize("number", sorted(lock.UNSUPPORTED))
def test_where_there_are_no_locks_the_log_says_so(tmp_path, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with training_lock(tmp_path), training_lock(tmp_path):
        pass
    assert "has no locks" in caplog.text and "start only one" in caplog.text


def test_a_folder_that_cannot_be_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), training_lock(tmp_path / "file"):
        pass
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(OSError, match="not a regular file") as found, training_lock(tmp_path):
        pass
    assert found.value.errno == errno.EINVAL
