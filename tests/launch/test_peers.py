"""Signs of life between the processes of a run."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch.distributed as dist

from openvclip.launch import group as peers
from openvclip.launch.group import explain_lost_process
from openvclip.utils.errors import DataError


@pytest.fixture
def left(monkeypatch):
    """Beats of 20 ms, and the codes that processes would have left with."""
    codes = []
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(peers.os, "_exit", codes.append)
    return codes


@pytest.fixture
def store():
    return dist.TCPStore("localhost", 0, 2, is_master=True, wait_for_workers=False)


def wait_until(done, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(done())


def test_processes_that_live_and_end_disturb_nobody(left, store):
    first, second = (peers.PeerWatch(store, rank, 2) for rank in range(2))
    time.sleep(0.5)
    second.finish()
    time.sleep(0.5)
    first.finish()
    assert left == []


def test_a_silent_process_is_noticed(left, store, caplog):
    first, second = (peers.PeerWatch(store, rank, 2) for rank in range(2))
    second._stop.set()  # as if it had been killed
    assert wait_until(lambda: left)
    first.finish()
    assert left[0] == 2 and "process 1 of the run died or hangs" in caplog.text


def test_a_process_that_never_gave_a_sign_is_noticed(left, store, caplog):
    first = peers.PeerWatch(store, 0, 2)
    assert wait_until(lambda: left)
    first.finish()
    assert "process 1 of the run died or hangs" in caplog.text


def test_the_reason_of_a_failure_is_told(left, store, caplog):
    first, second = (peers.PeerWatch(store, rank, 2) for rank in range(2))
    second.fail(DataError("the list is torn"))
    assert wait_until(lambda: left)
    first.finish()
    assert "process 1 of the run failed (the list is torn)" in caplog.text


def test_errors_of_exchanges_are_told_from_others():
    lost = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:1] Connection closed by peer [::1]")
    assert "a process of this run died" in str(explain_lost_process(lost))
    assert explain_lost_process(dist.DistBackendError("NCCL error: remote process exited\nmore"))
    assert explain_lost_process(RuntimeError("shape mismatch")) is None
    assert explain_lost_process(ValueError("Connection closed by peer")) is None


def test_a_process_whose_parent_is_gone_stops(left, store):
    watch = peers.PeerWatch(store, 0, 1)
    time.sleep(0.2)
    assert left == []
    watch._parent = os.getppid() + 1
    assert wait_until(lambda: left)
    watch.finish()
    assert set(left) == {peers.FAILED}


def test_finishing_waits_for_a_beat_that_takes_long(left, store, monkeypatch):
    """A thread that is inside the store when Python ends would abort the process."""
    monkeypatch.setattr(peers, "MOST_SILENT_BEATS", 1000)
    watch = peers.PeerWatch(store, 0, 2)
    begun = threading.Event()

    def slow_beat() -> None:
        begun.set()
        time.sleep(5 * peers.BEAT_SECONDS)  # more than one beat, much less than the store's timeout

    monkeypatch.setattr(watch, "_find_lost", slow_beat)
    assert begun.wait(20)
    watch.finish()
    assert not watch._thread.is_alive()
