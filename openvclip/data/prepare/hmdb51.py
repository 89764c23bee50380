"""HMDB-51 by its official files ``CLASS_test_splitN.txt``."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.data.prepare.names import ClassIndex
from openvclip.data.prepare.official import list_annotations, read_rows
from openvclip.data.prepare.official_splits import OfficialSplits, plan_official_splits
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.preparer import DatasetPreparer
from openvclip.utils.errors import DataError

UNUSED, TRAIN, TEST = "0", "1", "2"
FILE_NAME = re.compile(r"(?P<folder>.+)_test_split(?P<number>[123])\.txt", re.IGNORECASE)


def plan_hmdb51(videos: Path, annotations: Path, root: Path) -> Preparation:
    """Plan HMDB-51's lists.

    The full list has what split 1 marks 1 (training) or 2 (test), class by class in the order of
    the labels, in file order within a class. Splits 2 and 3 also test videos that split 1 marks 0;
    the list of the union has them after those of the full list.

    Args:
        videos: folder of the class folders (``brush_hair``, ...).
        annotations: folder of the ``CLASS_test_splitN.txt`` files.
        root: folder with ``zs_label_db``.

    Raises:
        DataError: the files contradict each other, the label space or the disk.
    """
    preparation = Preparation("HMDB-51")
    space = preparation.add_shipped_map(root, PROTOCOLS["hmdb_full"].label_map)
    files = _find_files(annotations, space)
    marked = {number: _read_split(files[number]) for number in sorted(files)}
    official = OfficialSplits(
        full=_take(marked[1], TRAIN, TEST),
        splits={n: (_take(rows, TRAIN), _take(rows, TEST)) for n, rows in marked.items()},
        unused=[video for rows in marked.values() for video, _, _ in rows],
    )
    return plan_official_splits("hmdb51", space, videos, root, official, preparation)


# Video, label and mark.
_Marked = list[tuple[str, int, str]]


def _take(rows: _Marked, *marks: str) -> list[Row]:
    return [(video, label) for video, label, mark in rows if mark in marks]


def _find_files(annotations: Path, space: LabelSpace) -> dict[int, dict[int, tuple[str, Path]]]:
    """Return the class folder and the file for each label of each split."""
    index = ClassIndex(space)
    splits: dict[int, dict[int, tuple[str, Path]]] = {}
    for path in list_annotations(annotations):
        match = FILE_NAME.fullmatch(path.name)
        if match is None or path.name.startswith("."):
            continue
        label = index.find(match["folder"])
        if label is None:
            raise DataError(
                f"{path}: {match['folder']!r} is not one of the {len(space)} classes of HMDB-51"
            )
        splits.setdefault(int(match["number"]), {})[label] = (match["folder"], path)
    if 1 not in splits:
        raise DataError(
            f"{annotations} has no files such as brush_hair_test_split1.txt; set --annotations "
            "to the folder that has them"
        )
    for number, files in splits.items():
        for label in sorted(splits[1].keys() ^ files.keys()):
            raise DataError(
                f"{annotations} has the class {space.names[label]!r} in only one of the splits 1 "
                f"and {number}; a file is missing"
            )
    return splits


def _read_split(files: dict[int, tuple[str, Path]]) -> _Marked:
    """Read rows ``name.avi mark`` of all classes; names may have spaces."""
    rows: _Marked = []
    for label in sorted(files):
        folder, path = files[label]
        seen = set()
        for where, line in read_rows(path):
            name, _, mark = line.rpartition(" ")
            name = name.strip()
            if not name or mark not in (UNUSED, TRAIN, TEST):
                raise DataError(f"{where}: {line!r} is not 'name.avi mark' with a mark 0, 1 or 2")
            if name in seen:
                raise DataError(f"{where}: {name!r} appears twice")
            seen.add(name)
            rows.append((f"{folder}/{name}", label, mark))
    return rows


class HMDB51(DatasetPreparer):
    """HMDB-51."""

    help = "by the official CLASS_test_splitN.txt"
    annotations = "folder of the CLASS_test_splitN.txt files"

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_hmdb51`."""
        return plan_hmdb51(args.videos, args.annotations, args.root)
