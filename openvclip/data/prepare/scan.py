"""The videos under a folder, found without asking the disk about each file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from openvclip.data.prepare.names import is_listable, is_video, path_key
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class VideoTree:
    """The videos of a dataset's folder.

    Attributes:
        root: the folder.
        paths: files that a list can hold, relative to ``root``, with slashes, sorted.
        unlistable: the others, as Python represents them.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root = root
        self.paths: list[str] = []
        self.unlistable: list[str] = []
        for path in sorted(paths):
            if is_listable(path):
                self.paths.append(path)
            else:
                self.unlistable.append(ascii(path))

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.paths)

    @cached_property
    def _by_key(self) -> dict[str, str]:
        return {path_key(path): path for path in reversed(self.paths)}

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for path in self.paths:
            name = path[path.rfind("/") + 1:]
            stems.setdefault(name[: name.rfind(".")], []).append(path)
        return stems

    def find(self, path: str) -> str | None:
        """Return the file for a listed path as it is named on disk.

        Letter case, Unicode form and, in folder names, underscores may differ.
        """
        return path if path in self._exact else self._by_key.get(path_key(path))

    def find_stem(self, stem: str) -> list[str]:
        """Return the files, in any folder, whose name without extension is ``stem``."""
        return self._by_stem.get(stem, [])

    def describe(self) -> str:
        """Say what the folder has, for an error about what is missing."""
        if not self.paths:
            return f"{self.root} has no videos"
        return f"{self.root} has {len(self.paths):,} videos, such as {self.paths[0]!r}"


def scan_videos(root: str | Path, below: Iterable[str] = ("",)) -> VideoTree:
    """Find the videos under a folder; hidden files and folders are skipped.

    Args:
        root: folder that the paths are relative to.
        below: folders in it to look into, "" for all.

    Raises:
        DataError: a folder is missing or cannot be read.
    """
    paths: list[str] = []
    for folder in below:
        paths.extend(_walk(os.fspath(root), folder))
    logger.info("%s: %s videos", root, f"{len(paths):,}")
    return VideoTree(Path(root), paths)


def _walk(root: str, below: str) -> Iterator[str]:
    # With each folder, the targets of the links that led there, so that no link leads in a circle.
    waiting: list[tuple[str, tuple[str, ...]]] = [(below, ())]
    while waiting:
        folder, links = waiting.pop()
        start = f"{folder}/" if folder else ""
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    name = entry.name
                    if is_video(name) and entry.is_file():
                        yield start + name
                    elif name[0] != "." and entry.is_dir():
                        chain = _follow(entry, links)
                        if chain is not None:
                            waiting.append((start + name, chain))
        except OSError as error:
            raise DataError(
                f"cannot read the folder {os.path.join(root, folder)}: {error.strerror}"
            ) from error


def _follow(entry: os.DirEntry, links: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the links followed up to a folder, or None for a link that leads in a circle."""
    if not entry.is_symlink():
        return links
    target = os.path.realpath(entry.path)
    here = os.path.realpath(os.path.dirname(entry.path))
    round_about = target in links or os.path.commonpath([target, here]) == target
    return None if round_about else (*links, target)


def list_folders(root: str | Path) -> list[str]:
    """Return the names of the folders directly in ``root``, sorted, without hidden ones.

    Raises:
        DataError: ``root`` is missing or cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.name[0] != "." and e.is_dir())
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error
