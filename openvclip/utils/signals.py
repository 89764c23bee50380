"""What a cluster's signals do: a run ends at a moment it chooses, with its own exit code.

Slurm and torchrun send SIGTERM and SIGUSR1 before they kill. Ctrl-C is treated like them while a
training run has steps to save; for other times see :mod:`openvclip.utils.interrupts`.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from openvclip.utils import interrupts
from openvclip.utils.logging import get_logger

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# EX_TEMPFAIL of sysexits.h: try the same again later.
EXIT_CODE = 75

logger = get_logger(__name__)


class Interrupted(SystemExit):
    """Ends the process: a signal asked for it, and the work can be resumed.

    Args:
        name: of the signal; Ctrl-C's has an exit code of its own, others have :data:`EXIT_CODE`.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(interrupts.EXIT_CODE if name == "SIGINT" else EXIT_CODE)


class StopSignals:
    """Records SIGTERM and SIGUSR1 inside a ``with`` block, instead of dying of them.

    A signal that already has a handler is left to it: submitit's jobs requeue themselves. In
    a thread other than the main one, which cannot have handlers, nothing is recorded.

    If :class:`Interrupted` turns into another error on its way up, because it came in the middle of
    something, it leaves the block as Interrupted again.

    Attributes:
        received: name of the signal that came last, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._at_once = False
        self._leaving: Interrupted | None = None
        self._pid = os.getpid()
        self._interrupt: Any = None  # the handler that SIGINT had

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._note)
        return self

    def take_interrupts(self) -> None:
        """Record Ctrl-C too from now on: the caller saves its state and exits soon."""
        old = signal.getsignal(signal.SIGINT)
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and self._interrupt is None and interrupts.is_ours(old):
            self._interrupt = old
            signal.signal(signal.SIGINT, self._note_interrupt)

    def leave_interrupts(self) -> None:
        """Let Ctrl-C do again what it did before :meth:`take_interrupts`."""
        if self._interrupt is not None:
            signal.signal(signal.SIGINT, self._interrupt)
            self._interrupt = None

    def _note_interrupt(self, number: int, _: Any) -> None:
        if interrupts.note():
            self.received = "SIGINT"

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self.leave_interrupts()
        for number in SIGNALS:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL)
        if self._leaving is not None and isinstance(error, Exception):
            raise self._leaving from error

    def leave_at_once(self) -> None:
        """Let a signal end the process on the spot from now on; there is nothing to save.

        Raises:
            Interrupted: now, if a signal has already come; else when one comes.
        """
        self.leave_interrupts()
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
        self._leaving = Interrupted(self.received)
        logger.warning("%s: stopped; the same command resumes (exit code %d)", self.received,
                       self._leaving.code)
        raise self._leaving


def leave_signals_to_parent(parent: int) -> None:
    """Make this loader worker outlive a signal that is sent to the whole job.

    torchrun and Slurm signal every process at once; the training process still needs its batches
    to reach the end of a step. Only a SIGTERM of ``parent``, the training process, or its death
    ends the worker.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Blocked, and awaited in a thread: a handler does not learn who sent the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, args=(parent,), daemon=True).start()


def _obey_parent(parent: int) -> None:
    # torch's own watch misses a parent that was killed before the worker first looked.
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 5)
        if received and received.si_pid == parent:
            break
    os._exit(0)
