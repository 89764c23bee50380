"""Standard output that may be closed, full or read by ``head``: the work continues without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class GuardedStream:
    """A text stream whose loss is not an error for the code that writes to it.

    Once a write fails, everything is discarded. A reader that has gone, such as ``head``, has
    seen enough; any other reason is reported once, through ``complain``.

    Args:
        stream: what to write to.
        complain: gets the line to report; None: report nothing.

    Attributes:
        lost: why nothing reaches the stream any more, "" if its reader has gone; None: it works.
    """

    def __init__(self, stream: TextIO, complain: Any = None) -> None:
        self._stream, self._complain = stream, complain
        self.lost: str | None = None

    def write(self, text: str) -> int:
        """Write, if that is still possible."""
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if that is still possible."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[..., Any], *args: str) -> None:
        if self.lost is None:
            try:
                act(*args)
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        if isinstance(error, UnicodeError):
            raise error
        self.lost = "" if isinstance(error, BrokenPipeError) else (
            getattr(error, "strerror", None) or str(error))
        # The buffer's content would be written again at the end, and fail again.
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self.lost and self._complain is not None:
            self._complain(f"standard output: {self.lost}; nothing more is printed "
                           "there, the work continues and its results are written")


@contextmanager
def guarded_output() -> Iterator[GuardedStream]:
    """Guard ``sys.stdout`` and ``sys.stderr`` inside the block, which gets the former.

    If they are closed, as with ``>&-``, they lead nowhere: a file that the work opens must not
    take their place.
    """
    _fill_descriptors()
    old = sys.stdout, sys.stderr
    if hasattr(sys.stdout, "reconfigure"):  # a terminal shows ? for a character it lacks
        sys.stdout.reconfigure(errors="replace")
    errors = GuardedStream(old[1] or _open_nowhere())

    def complain(text: str) -> None:
        errors.write(f"{text}\n")
        errors.flush()

    output = GuardedStream(old[0] or _open_nowhere(), complain)
    if old[0] is None:
        output.lost = ""
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = old


def _fill_descriptors() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # The lowest that is free is taken.
            os.open(os.devnull, os.O_RDWR)


def _open_nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process
