"""Reading official annotation files, which come in several encodings and under several names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_bytes
from openvclip.utils.json_text import parse_json


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte order mark, or else Latin-1.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = read_bytes(path, 2 * MOST_JSON_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place for messages, text) of each line that is not empty."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Read JSON.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        return parse_json(read_text(path), object_hook=object_hook)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def list_annotations(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot read the folder of annotations {folder}: {error.strerror}; set --annotations"
        ) from error


def find_annotation(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of some file names that a folder has, ignoring letter case."""
    there = {path.name.lower(): path for path in list_annotations(folder)}
    return next((there[name.lower()] for name in names if name.lower() in there), None)


def require_annotation(folder: Path, names: Iterable[str]) -> Path:
    """Return the first of some file names that a folder has.

    Raises:
        DataError: there are none of them.
    """
    names = list(names)
    path = find_annotation(folder, names)
    if path is None:
        raise DataError(
            f"{folder} has no {' or '.join(names)}; set --annotations to the folder with the "
            "dataset's official files"
        )
    return path
