"""What a cluster's signals do: a run ends at a moment of its own choosing, with its own exit code.

SIGTERM and SIGUSR1 are what Slurm and torchrun send before they kill.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openvclip.utils.logging import get_logger

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# EX_TEMPFAIL of sysexits.h: try the same again later.
EXIT_CODE = 75

logger = get_logger(__name__)


class Interrupted(SystemExit):
    """Ends the process with :data:`EXIT_CODE`: a signal asked for it, and it may be continued."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopSignals:
    """Notes SIGTERM and SIGUSR1 inside a ``with`` block, instead of dying of them.

    A signal that has a handler already is left to it: submitit's jobs queue themselves again. In
    a thread other than the main one, which cannot have handlers, nothing is noted.

    Attributes:
        received: name of the signal that came last, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._at_once = False
        self._pid = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL)

    def leave_at_once(self) -> None:
        """From now on a signal ends the process where it stands; nothing is there to be saved.

        Raises:
            Interrupted: now, if a signal has come before; else when one comes.
        """
        self._at_once = True
        if self.received:
            self._leave()

    def _note(self, number: int, _: Any) -> None:
        if os.getpid() != self._pid:  # a forked child has the handler, but not the work
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number).name
        if self._at_once:
            self._leave()

    def _leave(self) -> None:
        logger.warning("%s: stopped; the same command goes on (exit code %d)", self.received,
                       EXIT_CODE)
        raise Interrupted


def leave_signals_to_parent(parent: int) -> None:
    """Make this loader worker outlive a signal that is sent to the whole job.

    torchrun and Slurm signal every process at once; the training process still needs its batches
    to reach the end of a step. Only a SIGTERM of the parent itself, or its death, ends the worker.

    Args:
        parent: process id of the training process.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Blocked, and awaited in a thread: a handler is not told who sent the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, args=(parent,), daemon=True).start()


def _obey_parent(parent: int) -> None:
    # torch's own watch misses a parent that was killed before the worker first looked.
    while os.getppid() == parent:
        found = signal.sigtimedwait({signal.SIGTERM}, 5)
        if found and found.si_pid == parent:
            break
    os._exit(0)


@contextmanager
def forwarding(pids: Sequence[int]) -> Iterator[None]:
    """Hand SIGTERM and SIGUSR1 on to the processes ``pids`` instead of dying of them."""

    def forward(number: int, _: Any) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
