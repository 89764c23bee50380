"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Open a temporary UTF-8 file that takes the place of ``path`` once it is whole."""
    with replacing_file(path) as temporary, \
            open(temporary, "w", newline="", encoding="utf-8") as file:
        yield file


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Give the name of a temporary file that takes the place of ``path`` once it is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def compute_file_hash(path: str | Path) -> str | None:
    """SHA-256 of a file, in hex, or None if there is none (a model named rather than a file)."""
    if not Path(path).is_file():
        return None
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb") as file:
        while got := file.readinto(buffer):
            digest.update(buffer[:got])
    return digest.hexdigest()
