"""UCF-101 by its official files ``{trainlist,testlist}0N.txt`` and ``classInd.txt``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from openvclip.data.lists.labels import LabelSpace, shorten
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.data.prepare.names import ClassIndex, joined_key, ucf101_class_name
from openvclip.data.prepare.official import find_annotation, read_rows, require_annotation
from openvclip.data.prepare.official_splits import OfficialSplits, plan_official_splits
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.preparer import DatasetPreparer
from openvclip.utils.errors import DataError


def plan_ucf101(videos: Path, annotations: Path, root: Path) -> Preparation:
    """Plan UCF-101's lists.

    The full list is all of testlist01, then all of trainlist01. The splits 2 and 3 are left out
    if their files are missing.

    Args:
        videos: folder of the class folders (``ApplyEyeMakeup``, ...).
        annotations: the folder ``ucfTrainTestlist``.
        root: folder with ``zs_label_db``.

    Raises:
        DataError: the files contradict each other, the label space or the disk.
    """
    preparation = Preparation("UCF-101")
    space = preparation.add_shipped_map(root, PROTOCOLS["ucf101_full"].label_map)
    reader = _Reader(annotations, space)
    splits = {}
    for number in (1, 2, 3):
        names = f"trainlist0{number}.txt", f"testlist0{number}.txt"
        if number > 1 and not any(find_annotation(annotations, [name]) for name in names):
            continue
        train, test = (require_annotation(annotations, [name]) for name in names)
        splits[number] = (reader.read(train), reader.read(test))
        if number == 1:
            _check_order(splits[1][1], space, test)
    full = [*splits[1][1], *splits[1][0]]
    official = OfficialSplits(full, splits)
    return plan_official_splits("ucf101", space, videos, root, official, preparation)


def _is_number(text: str) -> bool:
    """Whether a text is a class number: a few digits, not thousands."""
    return text.isdecimal() and len(text) < 10


class _Reader:
    """Reads split files, whose rows are ``Class/file.avi`` or ``Class/file.avi number``."""

    def __init__(self, annotations: Path, space: LabelSpace) -> None:
        self.index = ClassIndex(space, joined_key)
        self.class_file = require_annotation(annotations, ["classInd.txt", "classInd01.txt"])
        self.numbers: dict[str, int] = {}
        for where, line in read_rows(self.class_file):
            number, _, folder = line.partition(" ")
            if not _is_number(number) or not folder.strip():
                raise DataError(f"{where}: {shorten(line)} is not 'number ClassName'")
            self.numbers[folder.strip()] = int(number)

    def read(self, path: Path) -> list[Row]:
        rows: dict[str, int] = {}
        for where, line in read_rows(path):
            video, _, number = line.rpartition(" ")
            if not _is_number(number):
                video, number = line, ""
            folder, slash, _ = video.partition("/")
            if not slash:
                raise DataError(f"{where}: {line!r} is not 'Class/file.avi'")
            if number and self.numbers.get(folder) != int(number):
                raise DataError(
                    f"{where}: the class {folder} has the number {number}, but "
                    f"{self.numbers.get(folder, 'none')} in {self.class_file}"
                )
            label = self.index.find(ucf101_class_name(folder))
            if label is None:
                raise DataError(f"{where}: {folder!r} is not one of the {len(self.index.space)} "
                                "classes of UCF-101")
            if video in rows:
                raise DataError(f"{where}: {video!r} appears twice")
            rows[video] = label
        if not rows:
            raise DataError(f"{path} is empty")
        return list(rows.items())


def _check_order(rows: Sequence[Row], space: LabelSpace, path: Path) -> None:
    """Check that labels number the classes in the order of testlist01."""
    labels = list(dict.fromkeys(label for _, label in rows))
    for before, after in zip(labels, labels[1:], strict=False):
        if after < before:
            raise DataError(
                f"{path}: {space.names[after]!r} (label {after}) first appears after "
                f"{space.names[before]!r} (label {before}); labels follow that order, so this is "
                "not the official file"
            )


class UCF101(DatasetPreparer):
    """UCF-101."""

    help = "by the official ucfTrainTestlist"
    annotations = "folder ucfTrainTestlist"

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_ucf101`."""
        return plan_ucf101(args.videos, args.annotations, args.root)
