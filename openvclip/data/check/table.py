"""``videos.csv``: the results for each video, saved so that no run is lost.

While a check runs there is no ``videos.csv``; rows are appended to ``videos.partial.csv`` as
they come, and the next run continues from those if this one is killed. Afterwards that file
stays only if it has results for files that the lists of the last run did not name.
"""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from openvclip.data.check.pool import CRASHED, TIMEOUT
from openvclip.data.check.video import DAMAGED, OK, UNREADABLE
from openvclip.utils.errors import DataError
from openvclip.utils.files import open_append, read_bytes, replacing
from openvclip.utils.text import guard_row, read_cell

MISSING = "missing"
STATUSES = (OK, DAMAGED, UNREADABLE, MISSING, CRASHED, TIMEOUT)
FINISHED, RUNNING = "videos.csv", "videos.partial.csv"


@dataclass(frozen=True)
class Record:
    """A row; None means unknown.

    Attributes:
        path: as listed, without the prefix.
        status: one of ``STATUSES``; empty while the file is still to be decoded.
        frames: number decoded.
        frames_declared: number that the container declares.
        duration: seconds that the container declares.
        rotation: degrees by which a player would turn the frames; loading does not.
        reason: what is wrong with the file.
    """

    path: str
    status: str = ""
    codec: str = ""
    pixel_format: str = ""
    fps: float | None = None
    frames: int | None = None
    frames_declared: int | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    rotation: int | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    reason: str = ""

    @classmethod
    def of_file(cls, path: str, prefix: str) -> Record:
        """Look a file up; it gets a status only if there is nothing to decode."""
        try:
            status = os.stat(os.path.join(prefix, path))
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, MISSING, reason="no such file")
        except (OSError, ValueError) as error:
            return cls(path, UNREADABLE, reason=getattr(error, "strerror", None) or str(error))
        if not stat.S_ISREG(status.st_mode):
            return cls(path, UNREADABLE, reason="is a folder, a pipe or a device, not a file")
        record = cls(path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
        if not status.st_size:
            return replace(record, status=UNREADABLE, reason="the file is empty")
        return record

    @classmethod
    def of_row(cls, row: Sequence[str]) -> Record:
        """Read a row of the file.

        Raises:
            ValueError: it is not such a row.
        """
        values: dict[str, Any] = {
            name: read(text) for (name, read), text in zip(_READERS.items(), row, strict=True)
        }
        if values["status"] not in STATUSES:
            raise ValueError(f"unknown status {values['status']!r}")
        return cls(**values)

    def is_same_file(self, other: Record) -> bool:
        """Whether size and modification time, taken at different times, are the same."""
        return (self.size_bytes, self.mtime_ns) == (other.size_bytes, other.mtime_ns)


def _reader(kind: Any) -> Callable[[str], str | int | float | None]:
    if kind == "str":
        return read_cell
    number = float if kind.startswith("float") else int
    return lambda text: number(text) if text else None


_READERS = {column.name: _reader(column.type) for column in fields(Record)}
_COLUMNS = tuple(_READERS)
_values: Callable[[Record], tuple] = attrgetter(*_COLUMNS)


def _row(record: Record) -> list:
    return guard_row(_values(record))


class VideoTable:
    """The records of an output folder, on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.finished = Path(folder) / FINISHED
        self.running = Path(folder) / RUNNING

    def load(self) -> dict[str, Record]:
        """Return the records of decoded files by path, from a finished or a killed run."""
        records = {}
        for source in (self.finished, self.running):
            for record in _read(source):
                if record.size_bytes:
                    records[record.path] = record
        return records

    @contextmanager
    def appending(self, known: Iterable[Record]) -> Iterator[Callable[[Record], None]]:
        """Start a run from the ``known`` records; yield a function that adds and saves one."""
        _write(self.running, known)
        self.finished.unlink(missing_ok=True)
        with open_append(self.running) as file:
            writer = _writer(file)

            def append(record: Record) -> None:
                writer.writerow(_row(record))
                file.flush()

            yield append

    def finish(self, records: Iterable[Record], others: Collection[Record]) -> None:
        """Write the records of a complete run, and ``others`` that a later one may need."""
        _write(self.finished, records)
        if others:
            _write(self.running, others)
        else:
            self.running.unlink(missing_ok=True)


def _writer(file):
    return csv.writer(file, lineterminator="\n")


def _write(path: Path, records: Iterable[Record]) -> None:
    with replacing(path) as file:
        writer = _writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(map(_row, records))


def _read(path: Path) -> Iterator[Record]:
    """Yield the records of a file that may be cut off or damaged anywhere."""
    try:
        text = read_bytes(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    # The piece after the last newline is empty, or a row that was not written to its end.
    head, *lines = text.split("\n")[:-1] or [""]
    if head != ",".join(_COLUMNS):
        return
    for line in lines:
        try:
            yield Record.of_row(next(csv.reader([line])))
        except (ValueError, csv.Error, StopIteration):
            continue
