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
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from openvclip.data.check.pool import CRASHED, TIMEOUT
from openvclip.data.check.video import DAMAGED, OK, UNREADABLE
from openvclip.utils.errors import DataError
from openvclip.utils.files import open_append, read_bytes, replacing
from openvclip.utils.text import guard_row, read_cell

MISSING = "missing"
STATUSES = (OK, DAMAGED, UNREADABLE, MISSING, CRASHED, TIMEOUT)
# The columns in their order, and how each is read.
COLUMNS: dict[str, Callable[[str], Any]] = {
    "path": read_cell, "status": read_cell, "codec": read_cell, "pixel_format": read_cell,
    "fps": float, "frames": int, "frames_declared": int, "width": int, "height": int,
    "duration": float, "rotation": int, "size_bytes": int, "mtime_ns": int, "reason": read_cell,
}


@dataclass(frozen=True)
class Record:
    """A row of the table.

    Attributes:
        path: as listed, without the prefix.
        status: one of ``STATUSES``; empty while the file is still to be decoded.
        reason: what is wrong with the file.
        size_bytes: size of the file; None if there is none to decode.
        mtime_ns: time of its last change.
        content: the other columns, as far as they are known: what decoding it showed.
    """

    path: str
    status: str = ""
    reason: str = ""
    size_bytes: int | None = None
    mtime_ns: int | None = None
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_file(cls, path: str, prefix: str) -> Record:
        """Look a file up; it gets a status only if there is nothing to decode."""
        try:
            found = os.stat(os.path.join(prefix, path))
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, MISSING, "no such file")
        except (OSError, ValueError) as error:
            return cls(path, UNREADABLE, getattr(error, "strerror", None) or str(error))
        if not stat.S_ISREG(found.st_mode):
            return cls(path, UNREADABLE, "is a folder, a pipe or a device, not a file")
        status, reason = ("", "") if found.st_size else (UNREADABLE, "the file is empty")
        return cls(path, status, reason, found.st_size, found.st_mtime_ns)

    @classmethod
    def of_row(cls, row: Sequence[str]) -> Record:
        """Read a row of the file; a ValueError says that it is not such a row."""
        cells = {name: read(text)
                 for (name, read), text in zip(COLUMNS.items(), row, strict=True) if text}
        if cells.get("status") not in STATUSES or "path" not in cells:
            raise ValueError(f"no path, or the unknown status {cells.get('status')!r}")
        own = {column.name: cells.pop(column.name) for column in fields(cls)
               if column.name in cells}
        return cls(**own, content=cells)

    def with_result(self, status: str, reason: str = "", **content: Any) -> Record:
        """Return the record after decoding, with what ``check_video`` returned."""
        return replace(self, status=status, reason=reason, content=content)

    def to_row(self) -> list[Any]:
        """Return the cells of its row; those that are unknown are None."""
        return guard_row(map({**vars(self), **self.content}.get, COLUMNS))


class VideoTable:
    """The records of an output folder, on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.finished = Path(folder) / "videos.csv"
        self.running = Path(folder) / "videos.partial.csv"

    def load(self) -> dict[str, Record]:
        """Return the records of decoded files by path, from a finished or a killed run."""
        return {record.path: record for source in (self.finished, self.running)
                for record in _read(source) if record.size_bytes}

    @contextmanager
    def appending(self, known: Iterable[Record]) -> Iterator[Callable[[Record], None]]:
        """Start a run from the ``known`` records; yield a function that adds and saves one."""
        _write(self.running, known)
        self.finished.unlink(missing_ok=True)
        with open_append(self.running) as file:
            def append(record: Record) -> None:
                csv.writer(file, lineterminator="\n").writerow(record.to_row())
                file.flush()

            yield append

    def finish(self, records: Iterable[Record], others: Collection[Record]) -> None:
        """Write the records of a complete run, and ``others`` that a later one may need."""
        _write(self.finished, records)
        if others:
            _write(self.running, others)
        else:
            self.running.unlink(missing_ok=True)


def _write(path: Path, records: Iterable[Record]) -> None:
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(Record.to_row, records))


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
    if head != ",".join(COLUMNS):
        return
    for line in lines:
        try:
            yield Record.of_row(next(csv.reader([line])))
        except (ValueError, csv.Error, StopIteration):
            continue
