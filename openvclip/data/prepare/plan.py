"""What a dataset's lists will be, gathered in full before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from openvclip.data.lists.draws import FILE as DRAW
from openvclip.data.lists.draws import Draw
from openvclip.data.lists.label_maps import SHIPPED
from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import find_protocol
from openvclip.data.prepare.scan import VideoTree
from openvclip.utils.errors import DataError

MAP_ENDING = "-index2cls.json"

# Path of a video, relative to the dataset's folder, and its label.
Row = tuple[str, int]


@dataclass(frozen=True)
class PreparedList:
    """One list.

    Attributes:
        path: its file.
        rows: what it holds, in order.
        space: its classes.
        published: rows of the list that published numbers were made with, if there is one.
    """

    path: Path
    rows: list[Row]
    space: LabelSpace
    published: int | None = None

    def count_classes(self) -> list[int]:
        """Count the videos of each class."""
        counts = [0] * len(self.space)
        for _, label in self.rows:
            counts[label] += 1
        return counts


@dataclass
class Preparation:
    """Everything that one call of the tool will write and report.

    Attributes:
        name: the dataset.
        folder: where ``missing_files.txt`` and ``extra_files.txt`` go; None if nothing was
            looked for on disk.
        lists: all lists.
        counted: lists to count class by class, in groups with the same classes.
        files: text of each file; None if an older one must be removed.
        missing: annotated files that are not on disk.
        extra: videos on disk without an annotation.
        unplaced: files that cannot be listed, and why.
        notes: anything else to report.
    """

    name: str
    folder: Path | None = None
    lists: list[PreparedList] = field(default_factory=list)
    counted: list[list[PreparedList]] = field(default_factory=list)
    files: dict[Path, str | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_list(self, path: Path, rows: list[Row], space: LabelSpace) -> PreparedList:
        """Add a list; one without rows is reported instead of written, as nothing could read it."""
        protocol = find_protocol(path)
        prepared = PreparedList(path, rows, space, protocol.rows if protocol else None)
        self.lists.append(prepared)
        self.files[path] = "".join(f"{video},{label}\n" for video, label in rows) or None
        if not rows:
            self.notes.append(f"no videos for {path}: not written")
        return prepared

    def add_lists(
        self, folder: Path, rows: dict[str, list[Row]], space: LabelSpace
    ) -> list[PreparedList]:
        """Add ``folder/NAME.csv`` for each name."""
        return [self.add_list(folder / f"{name}.csv", r, space) for name, r in rows.items()]

    def add_map(self, path: Path, space: LabelSpace, *, write: bool = True) -> None:
        """Add a label map and, next to it, its inverse ``...-cls2index.json``."""
        if write:
            self.files[path] = _json({str(label): name for label, name in enumerate(space.names)})
        inverse = path.with_name(path.name.removesuffix(MAP_ENDING) + "-cls2index.json")
        self.files[inverse] = _json({name: label for label, name in enumerate(space.names)})

    def add_draw(self, folder: Path, draw: Draw) -> None:
        """Record next to the lists of ``folder`` what they were drawn from."""
        self.files[folder / DRAW] = draw.dump()

    def add_shipped_map(self, root: Path, relative: str) -> LabelSpace:
        """Add a label map that comes with the project, unless ``root`` has it already.

        Raises:
            DataError: ``root`` has a different one, whose labels would mean other classes.
        """
        shipped, path = LabelSpace.from_json(SHIPPED / relative), root / relative
        if path.exists():
            _compare(LabelSpace.from_json(path), shipped, path)
        self.add_map(path, shipped, write=not path.exists())
        return shipped

    def add_extra(self, tree: VideoTree, known: Iterable[str]) -> None:
        """Record the videos that no annotation names, and those that no list can hold."""
        known = set(known)
        self.extra.extend(path for path in tree.paths if path not in known)
        self.unplaced.extend(
            f"{name}: a list cannot hold this name" for name in tree.unlistable
        )

    def require_rows(self, tree: VideoTree, expected: str) -> None:
        """Stop if no list has a row.

        Raises:
            DataError: it says what is in the folder and what was expected there.
        """
        if not any(prepared.rows for prepared in self.lists):
            raise DataError(
                f"no video of {self.name} was found: {tree.describe()}, but expected {expected}; "
                "set --videos to the folder that such paths are relative to"
            )


def group_by_label(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Return the rows of each label that has any, in their order."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    return groups


def _compare(other: LabelSpace, shipped: LabelSpace, path: Path) -> None:
    if other == shipped:
        return
    label = next(
        (i for i, pair in enumerate(zip(other.names, shipped.names, strict=False))
         if pair[0] != pair[1]),
        min(len(other), len(shipped)),
    )
    names = [repr(s.names[label]) if label < len(s) else "nothing" for s in (other, shipped)]
    raise DataError(
        f"the label map {path} is not the one that comes with the project: label {label} is "
        f"{names[0]} there and should be {names[1]}; move it away, or use another --root"
    )


def _json(content: dict) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
