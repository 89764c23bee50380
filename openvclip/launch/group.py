"""The group formed by a run's processes: how they meet, and what they say when one is lost."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from openvclip.utils.command_line import FAILED
from openvclip.utils.distributed import barrier, is_distributed, rank, world_size
from openvclip.utils.errors import ConfigError, OpenVCLIPError, TrainingError, first_line
from openvclip.utils.logging import get_logger
from openvclip.utils.signals import Interrupted

logger = get_logger(__name__)

# Process groups, until the process ends. Were the last reference dropped right after an exchange,
# gloo's destructor would wait, holding the interpreter, for a thread that waits for it to let the
# exchange's tensors go.
_KEPT: list[Any] = []

# How long a process waits in an exchange for one that is alive: rank 0 may be writing or computing
# alone meanwhile. One that died is noticed much sooner, see PeerWatch.
TIMEOUT = timedelta(hours=2)
JOIN_TIMEOUT = timedelta(minutes=10)  # For all processes to arrive, at the start.
# gloo's messages, in errors without a type of their own, when another process is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error",
        "Write error", "Timed out waiting", "Connection refused")
BEAT_SECONDS = 4.0
# Counted in own beats, not in seconds: a machine that slept has lost no process.
MOST_SILENT_BEATS = 8


@contextmanager
def process_group(meeting: str, backend: str, total: int, number: int) -> Iterator[None]:
    """Be process ``number`` of ``total`` inside the block; all learn how each leaves it.

    They meet at ``env://`` or, for example, ``tcp://host:9999``; the backend is nccl or gloo.

    Raises:
        ConfigError: they did not all come.
        TrainingError: another process was lost.
    """
    store = _join(meeting, total, number)
    watch = PeerWatch(store, number, total)
    try:
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), world_size=total, rank=number,
            timeout=TIMEOUT,
        )
        _KEPT.append(dist.group.WORLD)
        yield
        watch.finish()
        barrier()  # no process leaves, taking the store along, before all are done
    except BaseException as error:
        if isinstance(error, Interrupted):  # a signal, which the others had as well
            watch.finish()
        else:
            watch.fail(error)
        explained = explain_lost_process(error)
        if backend == "gloo" and is_distributed():  # NCCL would wait for those that are gone
            dist.destroy_process_group()
        if explained is None:
            raise
        raise explained from error
    dist.destroy_process_group()


def _join(init_method: str, total: int, number: int) -> dist.Store:
    """Meet the other processes, and return the store through which they communicate."""
    try:
        store, _, _ = next(rendezvous(init_method, number, total, timeout=JOIN_TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {number} of {total} could not meet the others at {init_method} "
            f"({first_line(error)}); start all {total}, with the same --init_method, and see "
            "that the port is free and reachable"
        ) from error
    return store


def explain_lost_process(error: BaseException) -> TrainingError | None:
    """Say what a failed exchange between processes means, or return None for other errors."""
    text = str(error)
    lost = isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError))
    if not isinstance(error, RuntimeError) or not (lost or any(s in text for s in LOST)):
        return None
    return TrainingError(
        f"a process of this run died or stopped, so that this one, {rank()} of {world_size()}, "
        f"cannot go on; the log of that process says why ({first_line(error)}). Start the same "
        "command again to go on from the last checkpoint"
    )


class PeerWatch:
    """A thread that writes a heartbeat to the run's store and watches those of the others.

    A process that waits in an exchange, or decodes for an hour before the next one, would not
    notice that another is gone: NCCL waits for its timeout, gloo until it next speaks to it.
    When one fails, or sends none for about 36 s, the reason is logged and this process exits with
    the code :data:`FAILED`: the main thread may be waiting where nothing else can reach it.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        # The process that started this one, if we did: without it nothing would end this one.
        parent = multiprocessing.parent_process()
        self._parent = parent.pid if parent is not None else None
        # A connection of its own: the main thread may be waiting in the other.
        own = store.clone() if hasattr(store, "clone") else store
        self._store = dist.PrefixStore("watch", own)
        self._store.set_timeout(timedelta(seconds=BEAT_SECONDS * MOST_SILENT_BEATS))
        self.rank = rank
        self._keys = {number: str(number) for number in range(world_size) if number != rank}
        self._last: dict[int, bytes] = {}
        self._silent = dict.fromkeys(self._keys, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Tell the others that this process has done its work, and stop watching."""
        # A thread that is still inside the store when Python ends aborts the process. What it waits
        # for there is over by the store's timeout.
        self._end("done", BEAT_SECONDS * MOST_SILENT_BEATS)

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process stops, and stop watching."""
        text = str(error) if isinstance(error, OpenVCLIPError) else f"{type(error).__name__}"
        self._end(f"failed: {text[:500]}", BEAT_SECONDS)

    def _end(self, word: str, patience: float) -> None:
        self._stop.set()
        self._thread.join(patience)
        try:
            self._store.set(str(self.rank), word)
        except RuntimeError as error:  # the store is gone with the first process
            logger.debug("the others could not be notified: %s", error)

    def _watch(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._store.set(str(self.rank), f"alive {beat}")
                lost = self._find_lost()
            except RuntimeError:
                lost = "process 0 of the run, where all meet, is gone"
            if lost and not self._stop.is_set():
                self._leave(lost)

    def _find_lost(self) -> str | None:
        """Return what happened to one of the others, if anything."""
        if self._parent is not None and os.getppid() != self._parent:
            return "the process that started this one is gone"
        for number, key in self._keys.items():
            if self._stop.is_set():
                return None
            value = self._store.get(key) if self._store.check([key]) else b""
            if value.startswith(b"failed: "):
                return f"process {number} of the run failed ({value[8:].decode(errors='replace')})"
            silent = value == self._last.get(number) and value != b"done"
            self._silent[number] = self._silent[number] + 1 if silent else 0
            self._last[number] = value
            if self._silent[number] > MOST_SILENT_BEATS:
                return f"process {number} of the run died or hangs; its own log says more"
        return None

    def _leave(self, reason: str) -> None:
        # Let the main thread say it first, if it is about to fail by itself.
        if self._stop.wait(1.0):
            return
        logger.error("TrainingError: %s; process %d stops", reason, self.rank)
        for handler in get_logger().handlers:
            handler.flush()
        os._exit(FAILED)
