"""Writing files completely or not at all, and reading only regular files.

A file's replacement is written under a new random name: a link or a pipe planted under a
predictable name has no effect. Only regular files of a bounded size are read: a pipe would never
end, nor would some devices.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from openvclip.utils.paths import DownloadHandler, is_file, local, register_handler

# Lists, label maps and captions are read whole; a list of a million videos has about 100 MB.
MOST_BYTES = 256 << 20
# JSON: the shortest objects take about twenty times the memory of their text.
MOST_JSON_BYTES = 32 << 20
MOST_JSON_VALUES = 3_000_000
MOST_LINES = 2_000_000
LONGEST_LINE = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}


class UnfitFileError(OSError):
    """A path is a pipe, a device or a folder where a file is wanted, or the file is too large."""

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def check_regular(path: str | Path) -> None:
    """Raise an UnfitFileError if something other than a regular file has that name."""
    with suppress(FileNotFoundError):
        _refuse_others(path, os.stat(path))


def check_replaceable(path: str | Path) -> None:
    """Raise an UnfitFileError if a file must not replace what has that name.

    That is a device, a pipe, a socket or a folder. A link is replaced, wherever it leads.
    """
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode):
            _refuse_others(path, status)


def _refuse_others(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise UnfitFileError(path, f"is {kind}, not a regular file")


def open_regular(path: str | Path, most: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading, without ever waiting for anything else.

    ``path`` may be an address (:mod:`openvclip.utils.paths`); links are followed.

    Raises:
        UnfitFileError: it is a pipe, a device or a folder, or has more than ``most`` bytes.
        OSError, ValueError: as ``open``.
    """
    where = local(path)
    _refuse_others(where, os.stat(where))  # before it is opened: some devices act on that
    return os.fdopen(_open(where, os.O_RDONLY, most), "rb")


def _open(path: str | os.PathLike[str], flags: int, most: int | None = None) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        status = os.fstat(descriptor)
        _refuse_others(path, status)
        if most is not None and status.st_size > most:
            raise UnfitFileError(
                path, f"has {status.st_size:,} bytes; at most {most:,} are read of such a file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; errors: see open_regular."""
    with open_regular(path, most) as file:
        return file.read(most)  # /proc and the like say 0 and hold more


def read_text(path: str | Path, encoding: str = "utf-8", *, most: int = MOST_BYTES) -> str:
    """Return a regular file's text, with line ends as ``open`` gives them.

    Raises:
        OSError, ValueError: see :func:`open_regular`; also if it is not UTF-8.
    """
    text = read_bytes(path, most).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_table(path: str | Path, encoding: str = "utf-8") -> str:
    """Read a text file of lines, such as a list: at most MOST_LINES of at most LONGEST_LINE each.

    Raises:
        OSError, ValueError: see :func:`read_text`.
    """
    text = read_text(path, encoding)
    check_lines(path, text)
    return text


def check_lines(path: str | Path, text: str) -> None:
    """Raise an UnfitFileError if a text has more or longer lines than a list."""
    count = text.count("\n")
    if count > MOST_LINES:
        raise UnfitFileError(path, f"has {count:,} lines; at most {MOST_LINES:,} are read")
    if len(text) > LONGEST_LINE and max(map(len, text.split("\n"))) > LONGEST_LINE:
        raise UnfitFileError(path, f"has a line of more than {LONGEST_LINE:,} characters")


def read_json_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Read the text of a JSON file whose values take less than a gigabyte.

    Raises:
        OSError, ValueError: see :func:`read_text`.
    """
    text = read_text(path, encoding, most=2 * MOST_JSON_BYTES)
    count = text.count("[") + text.count("{")
    if count > MOST_JSON_VALUES:
        raise UnfitFileError(path, f"has {count:,} lists and objects; at most "
                             f"{MOST_JSON_VALUES:,} are read, more from a .jsonl file")
    return text


def iterate_lines(
    path: str | Path, encoding: str = "utf-8", errors: str = "strict"
) -> Iterator[str]:
    """Yield the lines of a text of any size, each of at most LONGEST_LINE bytes.

    Raises:
        OSError, ValueError: see :func:`open_regular`; also a longer line, or one not in UTF-8.
    """
    with open_regular(path) as file:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise UnfitFileError(path, f"has a line of {LONGEST_LINE:,} bytes or more")
            yield line.decode(encoding, errors)
            encoding = encoding.removesuffix("-sig")  # that is for the first line


def open_append(path: str | Path) -> TextIO:
    """Open a regular file to append UTF-8 text to; it is created if missing.

    Raises:
        UnfitFileError: a pipe, a device or a folder has that name.
        OSError, ValueError: as ``open``.
    """
    check_regular(path)
    descriptor = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return os.fdopen(descriptor, "a", newline="", encoding="utf-8")


def create_new(path: str | Path, buffering: int = -1) -> BinaryIO:
    """Create a new file and open it for writing, as ``open`` would.

    Raises:
        FileExistsError: something has that name, even if it is only a dangling link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb", buffering)


def temporary_name(path: str | Path) -> Path:
    """Return a hidden, random name in the folder of ``path``; short, however long that is."""
    path = Path(path)
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.tmp")


def explain_refusal(error: OSError, folder: str | Path | None = None) -> str:
    """Say why nothing could be written, to ``folder`` if given.

    If a file is the cause, it is named: one that cannot be replaced, or one that is in the place
    of the folder or of one above it.
    """
    if isinstance(error, UnfitFileError):
        return str(error)
    why = error.strerror or str(error)
    if folder is None or os.path.isdir(folder):
        return why
    there = next(filter(os.path.lexists, (Path(folder), *Path(folder).parents)), None)
    if there is not None and not there.is_dir():
        return f"{there} is not a folder"
    return f"it cannot be made ({why})"


def advise_on_space(error: OSError) -> str:
    """Return ``free space or ``, for the advice, if a full disk or a quota was the cause."""
    return "free space or " if error.errno in _FULL else ""


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Open a temporary UTF-8 file that replaces ``path`` once it is complete."""
    with replacing_file(path) as temporary, \
            open(temporary, "w", newline="", encoding="utf-8") as file:
        yield file


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Give the name of a temporary file that replaces ``path`` once it is complete.

    The file exists, empty, with the permissions that the umask leaves. It is removed after an
    error.

    Raises:
        UnfitFileError: see :func:`check_replaceable`.
        OSError: the folder or the file cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_replaceable(path)
    temporary = temporary_name(path)
    create_new(temporary).close()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


register_handler(DownloadHandler(replacing_file))


def compute_file_hash(path: str | Path) -> str | None:
    """SHA-256 of a file, in hex, or None if there is none (a model named rather than a file)."""
    if not is_file(path):
        return None
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open_regular(path) as file:
        while got := file.readinto(buffer):
            digest.update(buffer[:got])
    return digest.hexdigest()
