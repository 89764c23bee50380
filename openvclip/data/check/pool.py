"""A function applied to items in processes that may die: each death costs one item.

``concurrent.futures`` gives up all its work when one of its processes dies. Here a crash, or a
stop for taking too long, costs only the item that the process had. Existing pools wait for a
process that they have killed: one that cannot die, because it waits for a disk, would stop all the
others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from openvclip.utils.errors import OpenVCLIPError

CRASHED, TIMEOUT = "crashed", "timeout"
# Seconds to wait for a process that was killed; one that hangs in a dead disk stays behind.
GRACE = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of one item: the function's value, or ``crashed`` or ``timeout`` and why."""

    item: str
    value: Any = None
    failure: str = ""
    reason: str = ""


def run_isolated(
    function: Callable[[str], Any], items: Iterable[str], *, workers: int, timeout: float
) -> Generator[Outcome, None, None]:
    """Apply ``function`` to every item in processes of their own; yield as they finish.

    An item whose process dies is tried once more in a fresh one, since an item before it may
    have spoiled the memory. The processes end with the iterator, and with the caller, however
    that ends.

    Args:
        function: importable by name from a fresh process. An exception that it raises counts
            as a crash of that item.
        items: all different; handed out in this order.
        workers: number of processes, at least 1.
        timeout: seconds for one item, after which its process is killed.

    Raises:
        OpenVCLIPError: a process ended before it took an item.
    """
    queue = deque(items)
    team = [_Worker(function) for _ in range(min(workers, len(queue)))]
    try:
        while team:
            for worker in _wait_for_some(team, timeout):
                outcome = worker.collect()
                if not worker.alive or not worker.take_next(queue):
                    team.remove(worker)
                    worker.end()
                if not worker.alive and outcome is not None:
                    crashed_first = outcome.failure == CRASHED and worker.item != worker.again
                    if crashed_first or queue:
                        team.append(_Worker(function, worker.item if crashed_first else None))
                    if crashed_first:
                        continue
                if outcome is not None:
                    yield outcome
    finally:
        for worker in team:
            worker.end()


def _wait_for_some(team: list[_Worker], timeout: float) -> list[_Worker]:
    """Wait until workers have answered, died, or taken too long; return those."""
    busy = [worker for worker in team if worker.item is not None]
    first = min((worker.since for worker in busy), default=None)
    patience = None if first is None else max(first + timeout - time.monotonic(), 0.0)
    pipes = connection.wait([worker.pipe for worker in team], patience)
    latest = time.monotonic() - timeout
    return [worker for worker in team
            if worker.pipe in pipes or (worker.item is not None and worker.since <= latest)]


class _Worker:
    """One process and its current item; ``again`` is the first, on which another one died."""

    def __init__(self, function: Callable[[str], Any], again: str | None = None) -> None:
        # A forked process would inherit locks that the parent's threads hold.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        # With its other end open here too, the pipe would not tell that the process is gone.
        theirs.close()
        self.again = again
        self.item: str | None = None
        self.since = 0.0
        self.alive = True

    def take_next(self, queue: deque[str]) -> bool:
        """Hand out the next item; False if there is none left."""
        if self.again is not None and self.item is None:
            self.item = self.again
        elif queue:
            self.item = queue.popleft()
        else:
            return False
        self.since = time.monotonic()
        with suppress(OSError):  # The process is gone; collect() will find that out.
            self.pipe.send(self.item)
        return True

    def collect(self) -> Outcome | None:
        """Return the item's outcome, or None if the process only says that it has started.

        If it has died or is overdue, it is no longer ``alive``.
        """
        try:
            if not self.pipe.poll():
                assert self.item is not None  # nothing else can be overdue
                self.alive = False
                elapsed = time.monotonic() - self.since
                return Outcome(self.item, None, TIMEOUT, f"stopped after {elapsed:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            reason = self._cause_of_death()
            if self.item is None:
                raise OpenVCLIPError(
                    f"a worker process {reason} before it could begin; what was done is kept, "
                    "and fewer workers may fit the memory"
                ) from error
            self.alive = False
            return Outcome(self.item, None, CRASHED, f"its process {reason}")
        if self.item is None:
            return None
        value, failure = answer
        return Outcome(self.item, value, CRASHED if failure else "", failure)

    def _cause_of_death(self) -> str:
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        hint = ", as happens when memory runs out" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def end(self) -> None:
        """Kill the process and close the pipe."""
        self.process.kill()
        self.process.join(GRACE)
        self.pipe.close()


def _serve(pipe: connection.Connection, function: Callable[[str], Any]) -> None:
    """Answer items with (value, reason of failure) until the pipe is closed."""
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(None)
        while True:
            item = pipe.recv()
            try:
                answer = (function(item), "")
            except Exception as error:
                answer = (None, f"{type(error).__name__}: {error}".rstrip(": "))
            pipe.send(answer)
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """End this process, even in the middle of an item, when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in workers only
    connection.wait([parent.sentinel])
    os._exit(1)
