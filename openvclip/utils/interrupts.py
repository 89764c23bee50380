"""Ctrl-C (SIGINT) ends a tool with one line and exit code 130, whatever it is doing.

A tool imports this before anything that takes time. Until its work begins there is nothing to save
and the process exits immediately; after that SIGINT raises KeyboardInterrupt, as in Python, and
:func:`came` tells whatever error this turns into on its way up from other errors. A second SIGINT,
a moment later, ends the process on the spot. If SIGINT is ignored, as after ``nohup ... &``, it
stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

EXIT_CODE = 130  # 128 plus the signal's number, as in shells.
# torchrun repeats what the terminal has already sent; nobody presses it twice that fast.
SAME_PRESS = 1.0


class _State:
    """What this process knows about interrupts; a forked child is another process."""

    owner = os.getpid()
    first: float | None = None


def came() -> bool:
    """Whether SIGINT has come since :func:`raising` began."""
    return _State.first is not None


def is_first_process() -> bool:
    """Whether this process speaks for the others that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def note() -> bool:
    """Note a SIGINT; False if this process is a forked child, which leaves it to its parent.

    The second one of two ends the process.
    """
    if os.getpid() != _State.owner:
        return False
    now = time.monotonic()
    if _State.first is None:
        _State.first = now
        # Interrupted finalisers would print things that nobody needs to know.
        sys.unraisablehook = lambda _: None
    elif now - _State.first > SAME_PRESS:
        _leave("stopped immediately")
    return True


def _leave(text: str) -> None:
    if is_first_process():
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())
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
    """Let SIGINT raise KeyboardInterrupt inside the block, and :func:`came` report that it did.

    Nothing changes if there is another handler, or outside the main thread.

    Args:
        always: even if SIGINT is ignored: the parent ignored it only while this process started.
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
        # A tool that is about to exit is not interrupted.
        leaving = came() and old is _leave_at_once
        signal.signal(signal.SIGINT, signal.SIG_IGN if leaving else old)
        if not leaving:
            sys.unraisablehook = hook
            _State.owner, _State.first = before


@contextmanager
def held_back() -> Iterator[bool]:
    """Ignore SIGINT inside the block: processes that are started there begin by ignoring it.

    The block gets whether they may be interrupted at all: not if it was ignored before.
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
    """Let SIGINT end this process immediately, until :func:`raising`."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave_at_once)


def _is_tool() -> bool:
    """Whether the running program is ``openvclip`` or one of the files in ``tools/``."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    if program is None:
        return False
    tools = Path(__file__).resolve().parents[2] / "tools"
    return Path(program).name == "openvclip" or Path(program).resolve().parent == tools


if _is_tool():
    begin_quietly()
