"""Starting processes, passing signals on to them, and reporting how they ended.

torch's elastic agent, which torchrun uses, starts processes too. It kills those that take more than
30 s to save their state after SIGTERM, does not pass SIGUSR1 on, and does not say how they ended
after a signal.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

import torch

from openvclip.utils import interrupts
from openvclip.utils.command_line import FAILED, run_tool
from openvclip.utils.errors import TrainingError
from openvclip.utils.signals import EXIT_CODE, SIGNALS, Interrupted

GRACE = 30.0  # Seconds that each process has to save its state after Ctrl-C.


def spawn(function: Callable, args: tuple, processes: int, first: int = 0) -> None:
    """Run ``function(number, *args)`` in several processes and wait for them.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on to them. The function is importable by name; its
    number counts the processes of this machine, of which messages call the first ``first``.

    Raises:
        Interrupted: one of them ended with its exit code.
        TrainingError: one of them was killed or failed; the others were stopped.
    """
    shared = torch.multiprocessing.get_context("spawn")
    stopping, begun = (shared.Value("b", 0, lock=False) for _ in range(2))
    # Importing torch takes them seconds, in which Ctrl-C would end each with a traceback.
    with interrupts.held_back() as possible:
        context = torch.multiprocessing.spawn(
            _begin, args=(function, args, (stopping, begun, possible)), nprocs=processes,
            join=False,
        )
    with forwarding(context.pids(), stopping):
        try:
            _wait(context, stopping)
        except torch.multiprocessing.ProcessExitedException as error:
            if stopping.value:  # one of them says so, if any got that far
                code = interrupts.EXIT_CODE
                raise SystemExit(code) if begun.value else KeyboardInterrupt from error
            raise _explain_exit(error, first) from error


def _wait(context: Any, stopping: Any) -> None:
    """Wait for the processes; one that fails stops the others, Ctrl-C stops them after a while."""
    running = {process.sentinel for process in context.processes}
    while running:
        running -= set(connection.wait(list(running)))
        if stopping.value:
            for process in context.processes:
                process.join(GRACE)
        if context.join(timeout=0):
            return


def _begin(number: int, function: Callable, args: tuple, shared: tuple) -> None:
    """What a started process does first: handle Ctrl-C as the one that started it does."""
    stopping, begun, possible = shared

    def work() -> None:
        if stopping.value:
            raise SystemExit(interrupts.EXIT_CODE)
        begun.value = 1
        function(number, *args)

    kept = "what was saved is kept, and the same command resumes from there"
    code = run_tool(work, kept, log=False, always=possible)
    if code:
        raise SystemExit(code)  # the end of this process: its line is in the log


def _explain_exit(
    error: torch.multiprocessing.ProcessExitedException, first: int
) -> BaseException:
    """Say how a started process ended; a code with a meaning of its own is passed on."""
    number = first + error.error_index
    if error.signal_name is not None:
        return TrainingError(
            f"process {number} of the run was killed by {error.signal_name} (out of memory is the "
            "usual reason for SIGKILL); the others of this machine were stopped. Start the same "
            "command again to go on from the last checkpoint"
        )
    if error.exit_code in (1, FAILED):
        return TrainingError(
            f"process {number} of the run failed: its own line in the log above says why; the "
            "others of this machine were stopped"
        )
    return Interrupted() if error.exit_code == EXIT_CODE else SystemExit(error.exit_code)


@contextmanager
def forwarding(pids: Sequence[int], stopping: Any = None) -> Iterator[None]:
    """Pass SIGTERM, SIGUSR1 and Ctrl-C on to the processes ``pids`` instead of dying of them.

    Args:
        pids: process ids.
        stopping: a shared number whose ``value`` becomes 1 at Ctrl-C, for those that cannot handle
            a signal yet; None: Ctrl-C is left alone.
    """

    def forward(number: int, _: Any) -> None:
        if number == signal.SIGINT:
            stopping.value = 1
            again = interrupts.came()
            if not interrupts.note() or again:  # the terminal has signalled them all
                return
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT)}
    taken = [number for number in SIGNALS if handlers[number] is signal.SIG_DFL]
    if stopping is not None and interrupts.is_ours(handlers[signal.SIGINT]):
        taken.append(signal.SIGINT)
    for number in taken:
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, handlers[number])
