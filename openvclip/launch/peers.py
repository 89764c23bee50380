"""Each process of a run tells the others that it is alive, and stops when one of them is not.

A process that waits for another in an exchange, or that decodes for an hour before the next one,
would not notice by itself that the other is gone (NCCL waits for its timeout, gloo until it next
speaks to it).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from datetime import timedelta

import torch.distributed as dist

from openvclip.utils.errors import OpenVCLIPError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

BEAT_SECONDS = 4.0
# Counted in own beats, not in seconds: a machine that slept has lost no process.
MOST_SILENT_BEATS = 8
FAILED = 2  # Exit code after an error, as of the tools.


class PeerWatch:
    """A thread that writes a heartbeat to the run's store and watches those of the others.

    When one fails, or sends none for about 36 s, the reason is logged and this process exits with
    the code :data:`FAILED`: the main thread may be waiting where nothing else can reach it.

    Args:
        store: what all processes share.
        rank: number of this process.
        world_size: number of processes.
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
