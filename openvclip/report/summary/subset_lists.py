"""Which rows and columns of a tested list are those of a protocol within it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openvclip.data.lists.labels import LabelSpace, VideoList, read_list
from openvclip.data.lists.protocols import PROTOCOLS, Protocol, find_sources
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

SEPARATOR = ","  # Of the zero-shot lists.


class TestedList(NamedTuple):
    """A list that was tested, or is going to be: its protocol, classes and videos.

    ``rows`` gives the row of (path as listed, class name); ``about`` is for messages.
    """

    protocol: Protocol
    names: tuple[str, ...]
    rows: dict[tuple[str, str], int]
    about: str


class Match(NamedTuple):
    """A protocol's list and classes, the (n,) labels of its videos, and where these are tested.

    ``rows`` are those of its videos in the tested list, ``columns`` those of its classes.
    """

    protocol: Protocol
    source: Path
    label_map: Path
    space: LabelSpace
    labels: Tensor
    rows: list[int]
    columns: list[int]


def list_keys(videos: VideoList, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each row's (path as listed, class name)."""
    labels = np.asarray(videos.labels).tolist()
    return list(zip(videos.paths, (names[label] for label in labels), strict=True))


def read_tested(
    protocol: Protocol, names: tuple[str, ...], source: Path, about: str
) -> tuple[VideoList, TestedList]:
    """Read the list of a protocol that was tested, or is going to be, with these classes."""
    videos = read_list(source, separator=SEPARATOR, num_classes=len(names))
    rows = {key: row for row, key in enumerate(list_keys(videos, names))}
    return videos, TestedList(protocol, names, rows, about)


def list_subsets(full: Protocol, names: Sequence[str]) -> list[Protocol]:
    """Return the protocols that ``names`` ask for; ``all``: all that follow from ``full``.

    Raises:
        ConfigError: a name is unknown, or its results cannot be derived from those of ``full``.
    """
    possible = {p.name: p for p in PROTOCOLS.values() if full in find_sources(p)}
    if not possible:
        raise ConfigError(f"nothing can be derived from a test of {full.name}")
    wrong = [name for name in names if name != "all" and name not in possible]
    if wrong:
        raise ConfigError(
            f"--protocol {' '.join(wrong)}: cannot be derived from {full.name}; "
            f"use all or any of {', '.join(possible)}"
        )
    return [possible[name] for name in possible if name in names or "all" in names]


def match_list(tested: TestedList, protocol: Protocol, root: str | Path) -> Match:
    """Find the rows and columns of one protocol in a list that contains it.

    ``root`` has ``label_db`` and ``zs_label_db``.

    Raises:
        DataError: its list or label map is missing, or has a video or class that ``tested`` lacks.
    """
    label_map, source = Path(root) / protocol.label_map, _list_path(protocol, root)
    if not source.is_file():
        raise DataError(
            f"the list {source} of {protocol.name} does not exist; make it with "
            "tools/prepare_labels.py, or give its folder with --root"
        )
    space = LabelSpace.from_json(label_map)
    column = {name: place for place, name in enumerate(tested.names)}
    missing = [name for name in space.names if name not in column]
    if missing:
        raise DataError(
            f"{label_map}: the class {missing[0]!r} is not among the {len(tested.names)} classes "
            f"of {tested.about} ({len(missing)} such classes)"
        )
    videos = read_list(source, separator=SEPARATOR, num_classes=len(space))
    keys = list_keys(videos, space.names)
    foreign = list(dict.fromkeys(key for key in keys if key not in tested.rows))
    if foreign:
        path, name = foreign[0]
        raise DataError(
            f"{source}: {path!r} of the class {name!r} is not in {tested.about} "
            f"({len(foreign):,} of {len(set(keys)):,} videos are not); test {protocol.name} itself"
        )
    return Match(protocol, source, label_map, space, torch.from_numpy(videos.labels),
                 [tested.rows[key] for key in keys], [column[name] for name in space.names])


def _list_path(protocol: Protocol, root: str | Path) -> Path:
    return Path(root) / protocol.folder / "test.csv"


def has_list(protocol: Protocol, root: str | Path) -> bool:
    """Whether the list of a protocol exists; if not, the log says so."""
    path = _list_path(protocol, root)
    if not path.is_file():
        logger.warning("%s is left out: it has no list %s", protocol.name, path)
    return path.is_file()


def compare_lists(name: str, root: str | Path) -> list[Protocol]:
    """Find out, before a protocol is tested, which protocols' results can be derived from it.

    Args:
        name: the protocol, such as ``hmdb_union``.
        root: folder with ``label_db`` and ``zs_label_db``.

    Returns:
        Those whose videos and classes are all in its list; protocols without a list are skipped.

    Raises:
        ConfigError: there is no such protocol, or nothing can be derived from it.
        DataError: its list is missing or cannot be read, or lacks something of another list; all
            such lists are named.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name}; give one of {', '.join(PROTOCOLS)}")
    full = PROTOCOLS[name]
    protocols = [p for p in list_subsets(full, ["all"]) if has_list(p, root)]
    names = LabelSpace.from_json(Path(root) / full.label_map).names
    source = _list_path(full, root)
    _, tested = read_tested(full, names, source, f"the list {source}")
    problems = {}
    for protocol in protocols:
        try:
            match_list(tested, protocol, root)
        except DataError as error:
            problems[protocol.name] = str(error)
    refuse_problems(problems, f"cannot be derived from a test of {name}")
    logger.info("%s contains all %d lists that are derived from it", source, len(protocols))
    return protocols


def refuse_problems(problems: dict[str, str], what: str) -> None:
    """Log what is wrong with each of some protocols and raise a DataError that names them."""
    if not problems:
        return
    for name, why in problems.items():
        logger.warning("%s: %s", name, why)
    first = next(iter(problems.values()))
    more = "; see above for the others" if len(problems) > 1 else ""
    raise DataError(f"{', '.join(problems)} {what}: {first}{more}")
