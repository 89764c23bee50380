"""One line at the bottom of a terminal, rewritten in place; the log's lines go above it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TextIO

ERASE = "\r\x1b[K"  # to the line's beginning, and clear it
PERIOD = 0.1  # Least seconds between two drawings.


class Field(NamedTuple):
    """One field of the line.

    Attributes:
        text: its text.
        short: the same for when there is little room.
        rank: fields of a high rank are left out first if even the short ones are too long.
    """

    text: str
    short: str
    rank: float = 0


def fit(fields: Sequence[Field], width: int) -> str:
    """Join the fields that fit into ``width`` columns: full, else short, else the lowest ranks.

    Columns are counted in characters, so anything outside ASCII becomes a question mark.
    """
    whole, kept = [field.text for field in fields], list(fields)
    short = [field.short for field in fields]
    tries = ("  ".join(whole), "  ".join(short), " ".join(short))
    line = next((line for line in tries if len(line) <= width), tries[-1])
    while len(line) > width and len(kept) > 1:
        kept.remove(max(kept, key=lambda field: field.rank))
        line = " ".join(field.short for field in kept)
    line = "".join(sign if sign.isprintable() else "?" for sign in line[:max(width, 0)])
    return line.encode("ascii", "replace").decode()


class LiveLine:
    """The line. Only the process that made it draws; if the terminal is gone, it ends quietly."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._fields: Sequence[Field] = ()
        self._drawn = -PERIOD
        self._owner = os.getpid()
        # Re-entrant: a signal's handler may log while the line is being drawn.
        self._lock = threading.RLock()

    def show(self, fields: Sequence[Field]) -> None:
        """Replace the line's text, unless it was drawn a moment ago."""
        with self._lock:
            now = time.monotonic()
            if os.getpid() != self._owner or now - self._drawn < PERIOD:
                return
            self._fields, self._drawn = fields, now
            self._write(self._line())

    def clear(self) -> None:
        """Remove the line; the cursor is left at the beginning of the empty line."""
        self._end(ERASE)

    def leave(self) -> None:
        """Leave the line in place and go to the next one, for good."""
        self._end("\n")

    def _end(self, text: str) -> None:
        with self._lock:
            if self._fields and os.getpid() == self._owner:
                self._fields, self._drawn = (), -PERIOD
                self._write(text)

    def print(self, text: str) -> None:
        """Write whole lines above the line, even above that of another process."""
        with self._lock:
            again = self._line() if os.getpid() == self._owner else ""
            self.stream.write(f"{ERASE}{text}\n{again}")
            self.stream.flush()

    def _line(self) -> str:
        if not self._fields:
            return ""
        try:
            width = os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            width = 80
        # The last column stays free: some terminals go to the next line when it is written to.
        return ERASE + fit(self._fields, width - 1)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError, RuntimeError):  # gone, closed, or busy beneath a signal
            self._fields = ()


class LiveHandler(logging.Handler):
    """Writes the log's records above a live line."""

    def __init__(self, line: LiveLine) -> None:
        super().__init__()
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self.line.print(self.format(record))
        except Exception:
            self.handleError(record)


_current: LiveLine | None = None


def is_terminal(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that understands control characters."""
    return os.environ.get("TERM", "dumb") != "dumb" and stream.isatty()


def set_current(line: LiveLine | None) -> None:
    """Set the line in which this process's loops show their progress; None: there is none."""
    global _current
    _current = line


def current() -> LiveLine | None:
    """This process's line, or None if the log goes to a file, a pipe or a dumb terminal."""
    return _current


@contextmanager
def closing() -> Iterator[None]:
    """Leave the cursor on a fresh line at the end of the block, however it ends."""
    try:
        yield
    except BaseException:
        if _current is not None:
            _current.leave()  # it says how far the work had come
        raise
    if _current is not None:
        _current.clear()
