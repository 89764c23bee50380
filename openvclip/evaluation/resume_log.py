"""What an evaluation has scored so far, on disk, so that a killed one can resume (``TEST.RESUME``).

Each process appends to a file of its own, one record per group of videos. A record has its length
and checksum: one that a kill cut off is dropped. Files are named after a digest of everything that
the scores depend on; those with another digest are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from openvclip.checkpoints.files import match_files
from openvclip.utils import distributed
from openvclip.utils.files import create_new, open_regular
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

FOLDER = "resume"
NAME = re.compile(r"^([0-9a-f]{16})-(\d+)-(\d+)\.journal$")  # digest, attempt, rank
# Magic, bytes of the payload, their checksum.
FRAME = struct.Struct("<4sII")
MAGIC = b"OVJ1"
SYNC_SECONDS = 5.0  # Between two flushes to the disk itself; to the system each record goes.


@dataclass(frozen=True)
class ScoredGroup:
    """One group of a list, which begins at the row ``first``.

    Attributes:
        rows: its rows that were scored.
        scores: float32 (ratios, rows, outputs).
        failures: row -> reason, of the rows that could not be decoded.
    """

    first: int
    rows: list[int]
    scores: Tensor
    failures: dict[int, str]


class ResumeLog:
    """Appends records; knows which existed before.

    Args:
        folder: of a run's journals.
        digest: of everything that the scores depend on.
        attempt: number of this start of the evaluation, the same in all processes.
        done: first rows of the groups that are already scored.
        restored: their records; the main process has them, for all.
    """

    def __init__(
        self, folder: Path, digest: str, attempt: int, done: frozenset[int],
        restored: Sequence[ScoredGroup] = (),
    ) -> None:
        self.folder, self.digest = folder, digest
        self.done, self.restored = done, list(restored)
        self.path = folder / f"{digest[:16]}-{attempt}-{distributed.rank()}.journal"
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = create_new(self.path, buffering=0)
            self._write(json.dumps({"digest": digest}).encode())
        except OSError as error:
            self._give_up(error)

    def append(self, record: ScoredGroup) -> None:
        """Store one more group. A disk that cannot take it ends the log, not the evaluation."""
        if self._file is None:
            return
        head = json.dumps({
            "first": record.first, "rows": record.rows, "shape": list(record.scores.shape),
            "failures": list(record.failures.items()),
        }).encode()
        scores = record.scores.contiguous().numpy().astype("<f4").tobytes()
        try:
            self._write(struct.pack("<I", len(head)) + head + scores)
        except OSError as error:
            self._give_up(error)

    def _write(self, payload: bytes) -> None:
        assert self._file is not None  # the caller asks
        data = FRAME.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload
        if self._file.write(data) != len(data):
            raise OSError(f"{self.path}: written in part")
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _give_up(self, error: OSError) -> None:
        logger.warning(
            "%s cannot be written (%s); what this process scores from here on would be decoded "
            "again after a kill", self.path, error,
        )
        self.close()

    def close(self) -> None:
        """Stop writing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete this evaluation's journals, of all processes; call this in each of them."""
        self.close()
        distributed.barrier()
        if distributed.is_main():
            for path, name in match_files(self.folder, NAME):
                if name[1] == self.digest[:16]:
                    path.unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()


def open_resume_log(
    output_dir: str | Path, key: dict[str, Any], shape: tuple[int, int]
) -> ResumeLog:
    """Read existing records for ``key`` and start a file for this process; all call it together.

    Args:
        output_dir: of the evaluation; a folder that all machines see, if there are several.
        key: everything that the scores depend on, as JSON values.
        shape: number of ratios and of outputs per video.
    """
    folder = Path(output_dir) / FOLDER
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    records: dict[int, ScoredGroup] = {}
    attempt = 1
    if distributed.is_main():
        files = match_files(folder, NAME)
        attempt += max((int(name[2]) for _, name in files), default=0)
        others = [path.name for path, name in files if name[1] != digest[:16]]
        if others:
            logger.info(
                "%s: %d journals of other settings, weights or lists are not used (%s)",
                folder, len(others), ", ".join(others[:3]) + (", ..." if len(others) > 3 else ""),
            )
        for path in (path for path, name in files if name[1] == digest[:16]):
            # Scores that are not finite were written by versions that did not look.
            records.update((record.first, record) for record in read_records(path, digest, shape)
                           if record.scores.isfinite().all())
        if records:
            videos = sum(len(r.rows) + len(r.failures) for r in records.values())
            logger.info("TEST.RESUME: %d videos are scored already (%s)", videos, folder)
    # The main process decides for all: files may be seen at different times elsewhere.
    attempt, digest, done = distributed.all_gather_object((attempt, digest, frozenset(records)))[0]
    return ResumeLog(folder, digest, attempt, done, list(records.values()))


def read_records(path: Path, digest: str, shape: tuple[int, int]) -> list[ScoredGroup]:
    """Return the complete records of a journal, up to the first that is cut off or damaged.

    There are none if it does not begin with ``digest``. ``shape`` is as in :func:`open_resume_log`.
    """
    records: list[ScoredGroup] = []
    try:
        with open_regular(path) as file:
            payloads = _payloads(file, path)
            if parse_json(next(payloads, b"{}")) != {"digest": digest}:
                return []
            records.extend(_record(payload, shape) for payload in payloads)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        logger.warning("%s: not read beyond %d records (%s)", path, len(records), error)
    return records


def _payloads(file: BinaryIO, path: Path) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    while (start := file.tell()) < size:
        head = file.read(FRAME.size)
        if len(head) == FRAME.size:
            magic, length, checksum = FRAME.unpack(head)
            if magic == MAGIC and length <= size - file.tell():
                payload = file.read(length)
                if zlib.crc32(payload) == checksum:
                    yield payload
                    continue
        logger.info("%s: dropped %d bytes of a record that was cut off", path, size - start)
        return


def _record(payload: bytes, shape: tuple[int, int]) -> ScoredGroup:
    (length,) = struct.unpack_from("<I", payload)
    head = parse_json(payload[4:4 + length])
    ratios, rows, outputs = head["shape"]
    if (ratios, outputs) != shape or rows != len(head["rows"]):
        raise ValueError(f"scores of shape {head['shape']}")
    scores = np.frombuffer(payload[4 + length:], dtype="<f4").reshape(head["shape"])
    failures = {int(row): str(reason) for row, reason in head["failures"]}
    return ScoredGroup(int(head["first"]), head["rows"], torch.from_numpy(scores.copy()), failures)
