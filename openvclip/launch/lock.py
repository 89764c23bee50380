"""One training run per folder: a system lock, which ends with the process that holds it.

It is a POSIX record lock: the kernel releases it however its process ends, forked loader workers do
not inherit it, and NFS passes it on to other machines if its lock service runs. After the crash of
a whole machine, an NFS server keeps it until that machine is back or its lease is over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openvclip.utils.errors import ConfigError
from openvclip.utils.files import read_text
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger

FILE = ".training.lock"
# Errors of file systems that have no locks, or whose lock service is missing.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
HELD = {errno.EACCES, errno.EAGAIN}
# A holder whose parent was killed notices that within a few seconds, and ends.
PATIENCE = 12.0

_own: set[str] = set()  # Folders whose lock this process has: the system would grant it twice.
logger = get_logger(__name__)


@contextmanager
def training_lock(folder: str | Path, patience: float | None = None) -> Iterator[None]:
    """Keep other training runs out of a folder inside the block; the folder is created.

    If the file system has no locks, the log says so and no run is kept out. ``patience`` is how
    many seconds to wait for a holder that may be about to end, because it is on another machine or
    the process that started it is gone; None: :data:`PATIENCE`.

    Raises:
        ConfigError: another training run has it; names its process and machine.
        OSError: the folder cannot be created or written to.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    whole = os.path.realpath(folder)
    if whole in _own:
        raise _refuse(folder, _describe_self())
    descriptor = _open(Path(folder) / FILE)
    try:
        locked = _lock(descriptor, folder, PATIENCE if patience is None else patience)
        if locked:
            _own.add(whole)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_describe_self()).encode(), 0)
        yield
    finally:
        _own.discard(whole)
        os.close(descriptor)  # and with it the lock; the file stays, as others may have it open


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file; delete it", str(path))
    return descriptor


def _lock(descriptor: int, folder: str | Path, patience: float) -> bool:
    """Take the lock; False if the file system has none."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in UNSUPPORTED:
                logger.warning(
                    "%s: the file system has no locks (%s): a second training with this OUTPUT_DIR "
                    "would not be noticed, and spoil both; start only one", folder, error.strerror)
                return False
            if error.errno not in HELD:
                raise
        holder = _read(descriptor)
        if time.monotonic() >= end or _is_well(holder):
            raise _refuse(folder, holder)
        time.sleep(0.2)


def _refuse(folder: str | Path, holder: dict[str, Any]) -> ConfigError:
    return ConfigError(
        f"OUTPUT_DIR {folder}: a training run writes there, process {holder.get('pid', '?')} "
        f"on {holder.get('host', '?')}; wait for its end or stop it, or give another OUTPUT_DIR"
    )


def _describe_self() -> dict[str, Any]:
    return {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname()}


def _read(descriptor: int) -> dict[str, Any]:
    try:
        content = parse_json(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError, RecursionError):  # being written
        return {}
    if not isinstance(content, dict):
        return {}
    kinds = {"pid": int, "parent": int, "host": str}
    return {name: content[name] for name, kind in kinds.items() if type(content.get(name)) is kind}


def _is_well(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be a process of this machine whose parent exists."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        text = read_text(f"/proc/{holder.get('pid')}/stat", "utf-8")
    except (OSError, ValueError):
        return False
    return text.rpartition(")")[2].split()[1] == str(holder.get("parent"))
