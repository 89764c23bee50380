"""Which videos of a list were trained on, by the hashed names that a checkpoint stores.

A name is stored as 64 bits of its hash: 16 bytes per video, about 4 MB for the 240,000 of
Kinetics-400, whatever the paths' lengths; the probability that two of half a million names collide
is about 1e-8.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from openvclip.utils.errors import DataError
from openvclip.utils.files import read_table


def hash_videos(paths: Iterable[str], prefix: str = "") -> np.ndarray:
    """Hash the names by which videos are known.

    A video has two: its whole path, and its path under the prefix after the prefix's last folder,
    which stays when a dataset is moved or mounted elsewhere. ``paths`` include DATA.PATH_PREFIX,
    ``prefix``.

    Returns:
        int64, sorted and unique.
    """
    return np.unique(_hash_rows(paths, prefix))


def find_shared(paths: Sequence[str], known: np.ndarray, prefix: str = "") -> list[int]:
    """Return the rows whose video is among those that :func:`hash_videos` made ``known`` from."""
    return np.flatnonzero(np.isin(_hash_rows(paths, prefix), known).any(axis=1)).tolist()


def read_paths(csv: str | Path, separator: str, prefix: str) -> list[str] | None:
    """Read the paths of a list, with the prefix; None if there is no such list to read."""
    try:
        text = read_table(csv, "utf-8-sig")
    except (OSError, ValueError):
        return None
    rows = (line.strip() for line in text.split("\n"))
    try:
        return [os.path.join(prefix, row.rpartition(separator)[0].strip()) for row in rows if row]
    except (ValueError, TypeError) as error:  # The separator is empty or none.
        raise DataError(f"cannot read {csv} with the separator {separator!r}") from error


def _hash_rows(paths: Iterable[str], prefix: str) -> np.ndarray:
    """Hash both names of each video: int64 (N, 2)."""
    here, root = os.getcwd(), os.path.join(prefix, "")
    last = os.path.basename(os.path.normpath(prefix)) if prefix else ""
    names = []
    for path in paths:
        listed = path[len(root):] if prefix and path.startswith(root) else path
        whole = path if path.startswith("/") else f"{here}/{path}"
        names.append(f"whole {_normalise(whole)}")
        names.append(f"below {last}/{_normalise(listed)}")
    digests = (xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) for name in names)
    return np.fromiter(digests, np.uint64, len(names)).view(np.int64).reshape(-1, 2)


def _normalise(path: str) -> str:
    """Apply os.path.normpath, which is slow, only if it would change anything."""
    return os.path.normpath(path) if "/." in path or "//" in path or path[:1] == "." else path
