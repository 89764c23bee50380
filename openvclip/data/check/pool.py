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
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from openvclip.utils.errors import OpenVCLIPError

CRASHED, TIMEOUT = "crashed", "timeout"
# Seconds to wait for a process that was killed; one that hangs in a dead disk stays behind.
GRACE = 5.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of one item.

    Attributes:
        item: the item.
        value: what the function returned, if it did.
        failure: empty, ``crashed`` or ``timeout``.
        reason: why it failed, in words.
    """

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
        items: the items, all different; handed out in this order.
        workers: number of processes, at least 1.
        timeout: seconds for one item, after which its process is killed.

    Raises:
        OpenVCLIPError: a process ended before it took an item.
    """
    queue = deque(items)
    team = [_Worker(function) for _ in range(min(workers, len(queue)))]
    try:
        while team:
            for worker in ready_workers(team, timeout):
                try:
                    outcome = worker.collect()
                except _DeathError as death:
                    team.remove(worker)
                    again = worker.item if worker.may_retry(death) else None
                    if again is not None or queue:
                        team.append(_Worker(function, again))
                    outcome = None
                    if again is None and worker.item is not None:
                        outcome = Outcome(worker.item, failure=death.failure, reason=str(death))
                else:
                    if not worker.take_next(queue):
                        team.remove(worker)
                        worker.end()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in team:
            worker.end()


def ready_workers(team: list[_Worker], timeout: float) -> list[_Worker]:
    """Wait until workers have answered, died, or taken too long; return those."""
    deadlines = [worker.since + timeout for worker in team if worker.item is not None]
    patience = max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None
    pipes = connection.wait([worker.pipe for worker in team], patience)
    latest = time.monotonic() - timeout
    return [
        worker for worker in team
        if worker.pipe in pipes or (worker.item is not None and worker.since <= latest)
    ]


class _DeathError(Exception):
    """A process died, or was killed, while working on an item."""

    def __init__(self, failure: str, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


class _Worker:
    """One process, the pipe to it and its current item.

    Args:
        function: what it applies.
        again: the item to begin with, on which another process died.
    """

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

    def take_next(self, queue: deque[str]) -> bool:
        """Hand out the next item; False if there is none left."""
        if self.again is not None and self.item is None:
            self.item = self.again
        elif queue:
            self.item = queue.popleft()
        else:
            return False
        self.since = time.monotonic()
        try:
            self.pipe.send(self.item)
        except OSError:
            return True  # The process is gone; collect() will find that out.
        return True

    def collect(self) -> Outcome | None:
        """Return the finished item, or None if the process only says that it has started.

        Raises:
            _DeathError: it died, or was killed here for being overdue.
            OpenVCLIPError: it ended before it had an item.
        """
        try:
            if not self.pipe.poll():
                elapsed = time.monotonic() - self.since
                self.end()
                raise _DeathError(TIMEOUT, f"stopped after {elapsed:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            reason = self._cause_of_death()
            if self.item is None:
                raise OpenVCLIPError(
                    f"a worker process {reason} before it could begin; what was done is kept, "
                    "and fewer workers may fit the memory"
                ) from error
            raise _DeathError(CRASHED, f"its process {reason}") from error
        if self.item is None:
            return None
        value, failure = answer
        return Outcome(self.item, value, CRASHED if failure else "", failure)

    def may_retry(self, death: _DeathError) -> bool:
        """Whether the item deserves a fresh process: it crashed, and has not had one before."""
        return death.failure == CRASHED and self.item != self.again

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
