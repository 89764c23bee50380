"""Ctrl-C (SIGINT) ends a tool with one line and exit code 130, whatever it is doing.

A tool imports this before anything that takes time. Until its work begins there is nothing to keep
and the process leaves at once; then SIGINT raises KeyboardInterrupt, as Python does, and whatever
error that turns into on its way up is told from others by :func:`came`. A second one, a moment
later, ends the process where it stands. Where SIGINT is ignored, as behind ``nohup ... &``, it
stays so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_CODE = 130  # 128 and the signal's number, as shells have it.
# torchrun repeats what the terminal has sent already; nobody means it twice that fast.
SAME_PRESS = 1.0


class _State:
    """What this process knows of interrupts; a forked child is another process."""

    owner = os.getpid()
    first: float | None = None


def came() -> bool:
    """Whether SIGINT has come since :func:`raising` began."""
    return _State.first is not None


def is_first_process() -> bool:
    """Whether this one speaks for the others that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def note() -> bool:
    """Note a SIGINT; False where this process is a forked child, which leaves it to its parent.

    The second one of two ends the process.
    """
    if os.getpid() != _State.owner:
        return False
    now = time.monotonic()
    if _State.first is None:
        _State.first = now
        # Finalisers that are interrupted would print what nobody needs to know.
        sys.unraisablehook = lambda _: None
    elif now - _State.first > SAME_PRESS:
        _leave("stopped at once")
    return True


def _leave(text: str) -> None:
    if is_first_process():
        try:
            os.write(2, f"{text}\n".encode())
        except OSError:
            os._exit(EXIT_CODE)
    os._exit(EXIT_CODE)


def _leave_at_once(number: int, _: Any) -> None:
    _leave("stopped before anything was begun")


def _raise(number: int, _: Any) -> None:
    if note():
        raise KeyboardInterrupt


def is_ours(handler: Any) -> bool:
    """Whether a handler of SIGINT may be replaced: Python's own, or one of these."""
    return handler in (signal.default_int_handler, _leave_at_once, _raise)


@contextmanager
def raising(*, always: bool = False) -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt inside the block, and :func:`came` tell that it did.

    Nothing is changed where another handler is there, or outside of the main thread.

    Args:
        always: also where SIGINT is ignored: the parent had it so only while this process started.
    """
    old = signal.getsignal(signal.SIGINT)
    ignored = always and old is signal.SIG_IGN
    if threading.current_thread() is not threading.main_thread() or not (is_ours(old) or ignored):
        yield
        return
    hook, before = sys.unraisablehook, (_State.owner, _State.first)
    _State.owner, _State.first = os.getpid(), None
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        # A tool that is about to leave is not interrupted in that.
        leaving = came() and old is _leave_at_once
        signal.signal(signal.SIGINT, signal.SIG_IGN if leaving else old)
        if not leaving:
            sys.unraisablehook = hook
            _State.owner, _State.first = before


@contextmanager
def held_back() -> Iterator[bool]:
    """Ignore SIGINT inside the block: processes that are started there begin with that.

    The block gets whether they may be interrupted at all: not where it was ignored before.
    """
    old = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or old is signal.SIG_IGN:
        yield False
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, old)


def begin_quietly() -> None:
    """Let SIGINT end this process at once, until :func:`raising`."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave_at_once)


def _is_tool() -> bool:
    """Whether the running program is one of the tools that come with this package."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    tools = Path(__file__).resolve().parents[2] / "tools"
    return program is not None and Path(program).resolve().parent == tools


if _is_tool():
    begin_quietly()
