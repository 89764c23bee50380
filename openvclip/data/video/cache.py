"""Decoded test frames on disk for repeated evaluation (``DATA.CACHE_DIR``).

The folder is shared by all processes and runs, and bounded. One file holds the arrays of one
video; it is written under a temporary name and renamed, and read only if its checksum is right, so
that nothing half-written or damaged is ever returned. The file ``total``, which is read and written
under a lock, says how full the folder is. When it is full, nothing more is added and nothing useful
is removed: evaluation goes through a list in order, and with a cache smaller than the list every
entry would be gone before its next use. Only useless files are dropped then: entries of videos that
were changed or deleted, and leftovers of killed processes. Entries are not safetensors: those have
no checksum, and give the arrays in another order, each as a copy.

Results never depend on the cache: if anything goes wrong with it, videos are decoded.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvclip.utils.files import open_regular
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

VERSION = 1
MAGIC = b"OVCLIPFR"
# Magic, checksum of the rest of the file, bytes of the header (JSON), bytes of the arrays.
PREFIX = struct.Struct("<8sIIQ")
# Arrays start at multiples of this in the file and in memory.
ALIGNMENT = 64
# Room for the file ``total`` within the bound, and how many deeds of runs it remembers.
LEDGER_BYTES = 4096
REMEMBERED = 64
TEMPORARY = ".tmp"


class _Damaged(Exception):
    """An entry is not as it was written; the text says why."""


@dataclass(frozen=True)
class _Source:
    """A video file's state when its entry's key was computed."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> _Source | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)

    def is_stale(self) -> bool:
        """Whether the file was changed or deleted (not whether its disk is missing)."""
        now = _Source.of(self.path)
        return now != self if now else os.path.isdir(os.path.dirname(self.path))


class FrameCache:
    """Arrays by video file, on disk.

    Args:
        folder: where; created if missing.
        max_bytes: the folder's files never hold more.
        spec: names everything besides the file that the arrays depend on: sampling, views, crops,
            sizes, backend.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int, spec: str) -> None:
        self.folder = os.path.abspath(folder)
        self.max_bytes = max_bytes
        self.spec = spec
        # The same in all processes that get a copy: one of them says that the folder is full.
        self.run = f"{os.getpid()}.{time.time_ns()}"
        self._reads = self._writes = True
        self._missed: _Source | None = None
        self._warned: set[str] = set()

    def get(self, path: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of a video, or None if it has no entry."""
        self._missed = None
        source = _Source.of(path) if self._reads else None
        if source is None:
            return None
        key = self._key(source)
        try:
            with open_regular(self._place(key)) as file:
                inode = os.fstat(file.fileno()).st_ino
                return _load(file, key, self.max_bytes)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._reads = self._writes = False
            self._warn(f"{self.folder}: the frame cache is not used: {error}")
        except _Damaged as damage:
            self._warn(f"{self._place(key)}: {damage}; its video is decoded again")
            self._drop_damaged(self._place(key), inode)
        self._missed = source
        return None

    def put(self, path: str, arrays: dict[str, np.ndarray]) -> bool:
        """Keep the arrays of a video; return whether they are kept.

        The file must be the same as at the ``get`` before: what was decoded of another is not
        kept.
        """
        source = _Source.of(path) if self._writes else None
        if source is None:
            return False
        missed, self._missed = self._missed, None
        if missed is not None and missed.path == source.path and missed != source:
            return False
        key = self._key(source)
        try:
            return self._write(self._place(key), _pack(key, source, arrays))
        except OSError as error:
            self._writes = False
            self._warn(f"{self.folder}: nothing more is added to the frame cache: {error}")
            return False

    def _key(self, source: _Source) -> str:
        parts = (VERSION, source.path, source.size, source.mtime_ns, self.spec)
        text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()

    def _place(self, key: str) -> str:
        return os.path.join(self.folder, key[:2], key[2:])

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    def _write(self, place: str, parts: list[bytes | np.ndarray]) -> bool:
        """Write a file of ``parts`` if there is room for it."""
        size = sum(len(part) for part in parts)
        temporary = f"{place}.{secrets.token_hex(8)}{TEMPORARY}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with _locked(self.folder) as ledger:
            if os.path.exists(place):
                return True
            if not self._reserve(ledger, size):
                return False
            file = _create(temporary, size, ledger)
        renamed = False
        try:
            with file:
                for part in parts:
                    _write_all(file.fileno(), part)
                with _locked(self.folder):
                    # Another process may have put the same meanwhile.
                    if not os.path.exists(place):
                        os.replace(temporary, place)
                        renamed = True
        finally:
            if not renamed:
                with _locked(self.folder) as ledger:
                    _remove(temporary, size, ledger)
        return True

    def _reserve(self, ledger: _Ledger, size: int) -> bool:
        """Count ``size`` more bytes if there is room for them."""
        limit = self.max_bytes - LEDGER_BYTES
        if ledger.total + size > limit and ledger.first(self.run, "swept"):
            # Once a run, so that a full folder costs no scans.
            _drop_useless(self.folder)
            ledger.save(_count(self.folder))
        if ledger.total + size <= limit:
            ledger.save(ledger.total + size)
            return True
        self._writes = False
        if ledger.first(self.run, "told"):
            logger.info(
                "%s: the frame cache is full (%d of %d bytes); videos not in it are decoded "
                "every time; raise DATA.CACHE_MAX_GB, or empty the folder of what is not used",
                self.folder, ledger.total, self.max_bytes,
            )
        return False

    def _drop_damaged(self, place: str, inode: int) -> None:
        try:
            with _locked(self.folder) as ledger:
                status = os.stat(place)
                if status.st_ino == inode:
                    _remove(place, status.st_size, ledger)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(f"{place}: cannot be removed: {error}")


def _pack(key: str, source: _Source, arrays: dict[str, np.ndarray]) -> list[bytes | np.ndarray]:
    """Return an entry's bytes: prefix, header, and each array with padding before it."""
    described = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
    header = json.dumps({
        "key": key, "source": [source.path, source.size, source.mtime_ns], "arrays": described,
    }).encode()
    parts: list[bytes | np.ndarray] = [header]
    at = PREFIX.size + len(header)
    for name, array in arrays.items():
        if array.dtype.kind in "OV":
            raise TypeError(f"the array {name} is of {array.dtype}, which is not kept on disk")
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        parts += [bytes(-at % ALIGNMENT), raw]
        at += -at % ALIGNMENT + len(raw)
    checksum = zlib.crc32(PREFIX.pack(MAGIC, 0, len(header), at))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [PREFIX.pack(MAGIC, checksum, len(header), at), *parts]


def _load(file: io.BufferedReader, key: str, most: int) -> dict[str, np.ndarray]:
    """Read an entry; the arrays share one piece of memory and can be written to."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise _Damaged("is larger than all of the cache may be")
    raw = np.empty(size + ALIGNMENT, np.uint8)
    raw = raw[-raw.ctypes.data % ALIGNMENT:][:size]
    # A buffered reader stops short of ``size`` bytes only at the end of the file.
    if file.readinto(memoryview(raw)) < size or size < PREFIX.size:
        raise _Damaged("is cut off")
    magic, checksum, header_size, promised = PREFIX.unpack(raw[: PREFIX.size])
    if magic != MAGIC or promised != size or PREFIX.size + header_size > size:
        raise _Damaged("is damaged or cut off")
    blank = zlib.crc32(PREFIX.pack(MAGIC, 0, header_size, promised))
    if zlib.crc32(raw[PREFIX.size:], blank) != checksum:
        raise _Damaged("is damaged (its checksum does not hold)")
    header = parse_json(bytes(raw[PREFIX.size:PREFIX.size + header_size]))
    if header["key"] != key:
        raise _Damaged("is the entry of another video")
    arrays = {}
    at = PREFIX.size + header_size
    for name, dtype, shape in header["arrays"]:
        at += -at % ALIGNMENT
        end = at + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = raw[at:end].view(dtype).reshape(shape)
        at = end
    return arrays


def _write_all(descriptor: int, part: bytes | np.ndarray) -> None:
    view = memoryview(part)
    while len(view):
        view = view[os.write(descriptor, view):]


class _Ledger:
    """The file ``total``, open and locked."""

    def __init__(self, descriptor: int, folder: str) -> None:
        # ``total``: bytes of all entries, those being written too. What is added is counted before
        # it is there and what is removed afterwards: a killed process leaves it never too low.
        self._descriptor = descriptor
        raw = os.pread(descriptor, LEDGER_BYTES, 0)
        text, _, checksum = raw.rstrip(b"\n").rpartition(b" ")
        self.runs: list[str] = []
        if text and checksum == b"%08x" % zlib.crc32(text):
            self.total, self.runs = parse_json(text)
        else:
            self.save(_count(folder))

    def save(self, total: int) -> None:
        self.total = total
        text = json.dumps([total, self.runs]).encode()
        line = text + b" %08x\n" % zlib.crc32(text)
        os.pwrite(self._descriptor, line, 0)
        os.ftruncate(self._descriptor, len(line))

    def first(self, run: str, deed: str) -> bool:
        """Note that ``run`` did ``deed``; return whether it had not yet."""
        name = f"{deed} {run}"
        if name in self.runs:
            return False
        self.runs = [*self.runs, name][-REMEMBERED:]
        self.save(self.total)
        return True


@contextmanager
def _locked(folder: str) -> Iterator[_Ledger]:
    """Hold the folder's lock. It goes with the process: one that is killed leaves none behind."""
    path = os.path.join(folder, "total")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                yield _Ledger(descriptor, folder)
                return
        finally:
            os.close(descriptor)


def _create(path: str, size: int, ledger: _Ledger) -> io.FileIO:
    """Create a file that a scan finds to be of its full size and in use."""
    try:
        file = io.FileIO(path, "x")
        fcntl.flock(file, fcntl.LOCK_EX)
        os.ftruncate(file.fileno(), size)
    except BaseException:
        _remove(path, size, ledger)
        raise
    return file


def _remove(path: str, size: int, ledger: _Ledger) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    ledger.save(ledger.total - size)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is still the one at ``path``: a user may have emptied the folder."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _files(folder: str) -> Iterator[os.DirEntry]:
    for sub in os.scandir(folder):
        if sub.is_dir(follow_symlinks=False) and len(sub.name) == 2:
            yield from os.scandir(sub.path)


def _count(folder: str) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder))


def _drop_useless(folder: str) -> None:
    """Remove entries of changed videos and leftovers of killed processes; the lock is held."""
    for entry in list(_files(folder)):
        useless = _is_abandoned if entry.name.endswith(TEMPORARY) else _is_stale
        with suppress(OSError):
            if useless(entry.path):
                os.unlink(entry.path)


def _is_abandoned(path: str) -> bool:
    """Whether no process is writing a temporary file: a writer holds a lock on it."""
    with open_regular(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_stale(path: str) -> bool:
    """Whether an entry is of a video that was changed or deleted, or cannot be read."""
    with open_regular(path) as file:
        prefix = file.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return True
        magic, _, header_size, size = PREFIX.unpack(prefix)
        if magic != MAGIC or size != os.fstat(file.fileno()).st_size:
            return True
        try:
            source = parse_json(file.read(header_size))["source"]
            return _Source(*source).is_stale()
        except (ValueError, KeyError, TypeError):
            return True
