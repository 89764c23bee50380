"""UCF-101 and HMDB-51: the full list, three official splits, ten draws of half the classes.

HMDB-51 also has a union: everything that those lists test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS, Protocol, draw_halves
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.scan import VideoTree, scan_videos


@dataclass
class OfficialSplits:
    """The content of the official files; a video is ``class folder/file`` with its label.

    Attributes:
        full: all videos, in the order of the full list.
        splits: the training and the test videos of each split, by its number.
        unused: other annotated videos; some may also be in the lists.
    """

    full: list[Row]
    splits: dict[int, tuple[list[Row], list[Row]]]
    unused: list[str] = field(default_factory=list)

    def union(self) -> list[Row]:
        """Return everything that is tested: the full list, then test videos of splits it lacks."""
        tests = [row for _, test in self.splits.values() for row in test]
        return list(dict.fromkeys([*self.full, *tests]))


def plan_official_splits(
    dataset: str, space: LabelSpace, videos: Path, root: Path, official: OfficialSplits,
    preparation: Preparation,
) -> Preparation:
    """Find the videos of the official files on disk and plan all lists of a dataset.

    Raises:
        DataError: the folder cannot be read, or has none of the videos.
    """
    tree = scan_videos(videos)
    located = _locate(tree, official, preparation)
    protocols = [p for p in PROTOCOLS.values() if p.dataset == dataset]
    full = _keep(official.full, located)
    for protocol in protocols:
        folder = root / protocol.folder
        if protocol.kind == "full":
            preparation.folder = folder
            preparation.counted.append([preparation.add_list(folder / "test.csv", full, space)])
        elif protocol.kind == "union":
            preparation.add_list(folder / "test.csv", _keep(official.union(), located), space)
        elif protocol.kind == "split":
            _plan_split(protocol, space, folder, official, located, preparation)
    halves = [p for p in protocols if p.kind == "half"]
    for protocol, labels in zip(
        halves, draw_halves(len(space), halves[0].classes, len(halves)), strict=True
    ):
        rows, half = take_classes(full, space, labels)
        preparation.add_list(root / protocol.folder / "test.csv", rows, half)
        preparation.add_map(root / protocol.label_map, half)
    preparation.require_rows(tree, f"files such as {official.full[0][0]!r}")
    return preparation


def _plan_split(
    protocol: Protocol, space: LabelSpace, folder: Path, official: OfficialSplits,
    located: dict[str, str], preparation: Preparation,
) -> None:
    number = int(protocol.name[-1])
    if number not in official.splits:
        preparation.notes.append(f"the annotations have no split {number}: {folder} not written")
        return
    train, test = (_keep(rows, located) for rows in official.splits[number])
    preparation.add_lists(folder, {"train": train, "val": test, "test": test}, space)


def _locate(
    tree: VideoTree, official: OfficialSplits, preparation: Preparation
) -> dict[str, str]:
    """Map each listed video that is on disk to its name there; record the others."""
    listed = dict.fromkeys(
        video
        for rows in (official.full, *(part for split in official.splits.values() for part in split))
        for video, _ in rows
    )
    located = {video: name for video in listed if (name := tree.find(video)) is not None}
    preparation.missing.extend(video for video in listed if video not in located)
    renamed = [(video, name) for video, name in located.items() if video != name]
    if renamed:
        preparation.notes.append(
            f"{len(renamed):,} files are spelt differently on disk and in the official files, such "
            f"as {renamed[0][1]!r} for {renamed[0][0]!r}; the lists have the names on disk"
        )
    unused = {name for video in official.unused if (name := tree.find(video)) is not None}
    unused.difference_update(located.values())
    if unused:
        preparation.notes.append(
            f"{len(unused):,} videos on disk that no official split uses: left out"
        )
    preparation.add_extra(tree, (*located.values(), *unused))
    return located


def _keep(rows: Sequence[Row], located: dict[str, str]) -> list[Row]:
    return [(located[video], label) for video, label in rows if video in located]


def take_classes(
    rows: Sequence[Row], space: LabelSpace, labels: Sequence[int]
) -> tuple[list[Row], LabelSpace]:
    """Keep the rows of some classes, and number these from 0 in the given order."""
    renumbered = {label: place for place, label in enumerate(labels)}
    kept = [(video, renumbered[label]) for video, label in rows if label in renumbered]
    return kept, LabelSpace(tuple(space.names[label] for label in labels))
