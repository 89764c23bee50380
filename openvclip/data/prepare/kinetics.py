"""Kinetics-400 and Kinetics-600, by class folders or by the official csv annotations."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from openvclip.data.lists.labels import shorten
from openvclip.data.prepare.names import SPLIT_FOLDERS, ClassIndex, class_key
from openvclip.data.prepare.official import read_text
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.scan import VideoTree, list_folders
from openvclip.utils.errors import DataError

COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_key = cache(class_key)


class Clip(NamedTuple):
    """A row of the official csv.

    Attributes:
        label: class name.
        stem: ``id_start_end`` with six digits each, as the official files are named.
        youtube_id: name of the file in copies with one clip per video.
    """

    label: str
    stem: str
    youtube_id: str


def find_split_folder(videos: Path, split: str, given: str | None = None) -> str | None:
    """Return the folder of a split, by the names that copies of Kinetics use, or None.

    Raises:
        DataError: several could be meant, or the given one is missing.
    """
    there = list_folders(videos)
    if given is not None:
        if given.strip("/") not in there:
            raise DataError(
                f"{videos} has no folder {given!r}; it has {', '.join(there[:9]) or 'none'}"
            )
        return given.strip("/")
    folders = [name for name in there if name.lower() in SPLIT_FOLDERS[split]]
    if len(folders) > 1:
        raise DataError(
            f"{videos} has the folders {' and '.join(folders)}; say by --{split}-folder which to "
            "take"
        )
    return folders[0] if folders else None


def require_split_folder(videos: Path, split: str, given: str | None = None) -> str:
    """Return the folder of a split.

    Raises:
        DataError: there is none, or several could be meant.
    """
    folder = find_split_folder(videos, split, given)
    if folder is None:
        there = list_folders(videos)
        raise DataError(
            f"{videos} has no folder {' or '.join(SPLIT_FOLDERS[split])}; it has "
            f"{', '.join(there[:5]) or 'none'}{', ...' if len(there) > 5 else ''}. Set --videos to "
            f"the folder above the splits' folders, or give --{split}-folder"
        )
    return folder


def read_annotations(paths: Iterable[Path]) -> dict[str, list[Clip]]:
    """Read official csv files: the clips of each split, in file order.

    The column ``split`` says which split a row belongs to; without it, the file's name does.

    Args:
        paths: the files, or folders of them.

    Raises:
        DataError: a file cannot be read, lacks a column, or has a row of no known split.
    """
    clips: dict[str, list[Clip]] = defaultdict(list)
    for path in _csv_files(paths):
        rows = csv.reader(read_text(path).splitlines())
        header = [name.strip().lower() for name in next(rows, [])]
        lacking = [name for name in COLUMNS if name not in header]
        if lacking:
            raise DataError(
                f"{path} has no column {', '.join(lacking)}; it has {', '.join(header) or 'none'}. "
                f"Expected the official csv with {', '.join(COLUMNS)}"
            )
        places = [header.index(name) for name in COLUMNS]
        split_place = header.index("split") if "split" in header else None
        of_file = _split_of_file(path)
        for row in rows:
            if row:
                where = f"{path}, line {rows.line_num}"
                split, clip = _read_row(row, places, split_place, of_file, where)
                clips[split].append(clip)
    return clips


def _csv_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(path.glob("*.csv"))
        if not files:
            raise DataError(f"the folder of annotations {path} has no .csv")
        yield from files


def _read_row(
    row: Sequence[str], places: Sequence[int], split_place: int | None, of_file: str | None,
    where: str,
) -> tuple[str, Clip]:
    if len(row) <= max(*places, split_place or 0):
        raise DataError(f"{where}: only {len(row)} columns")
    label, youtube_id, start, end = (row[place].strip() for place in places)
    split = _split_named(row[split_place]) if split_place is not None else None
    split = split or of_file
    if split is None:
        raise DataError(
            f"{where}: neither the column 'split' nor the file's name says which split it is; "
            "call the file train.csv or val.csv"
        )
    try:
        stem = f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}"
    except (ValueError, OverflowError) as error:
        times = f"{shorten(start)} and {shorten(end)}"
        raise DataError(f"{where}: the times {times} are not numbers") from error
    return split, Clip(label, stem, youtube_id)


@cache
def _split_named(text: str) -> str | None:
    name = text.strip().lower()
    return next((split for split, names in SPLIT_FOLDERS.items() if name in names), None)


def _split_of_file(path: Path) -> str | None:
    """Find the split in a name such as ``kinetics-400_val.csv``."""
    splits = {_split_named(word) for word in re.split(r"[\W_]+", path.stem)} - {None}
    return splits.pop() if len(splits) == 1 else None


class SplitReader:
    """Puts the videos of a split's folder under their labels.

    Args:
        tree: the videos.
        index: the classes wanted.
        preparation: where missing and unplaced files are noted.
        partial: the dataset also has other classes, whose videos are skipped.

    Attributes:
        known: videos that were listed or skipped.
        outside: number of videos of each unwanted class.
    """

    def __init__(
        self, tree: VideoTree, index: ClassIndex, preparation: Preparation, partial: bool = False
    ) -> None:
        self.tree, self.index, self.preparation = tree, index, preparation
        self.partial = partial
        self.known: set[str] = set()
        self.outside: Counter[str] = Counter()

    def by_folder(self, split: str) -> list[Row]:
        """Read ``split/class/video``, or ``class/video`` if the split is "".

        Returns:
            Rows in the order of the labels, then of the file names.

        Raises:
            DataError: two folders belong to the same class.
        """
        start = f"{split}/" if split else ""
        folders: dict[int, str] = {}
        rows: list[Row] = []
        for path in self.tree.paths:
            if not path.startswith(start):
                continue
            folder, slash, _ = path[len(start):].partition("/")
            label = self.index.find(folder) if slash else None
            if label is not None:
                if folders.setdefault(label, folder) != folder:
                    raise DataError(
                        f"{self.tree.root / split}: the folders {folders[label]!r} and {folder!r} "
                        f"are both of the class {self.index.space.names[label]!r}; make them one"
                    )
                rows.append((path, label))
            elif slash:
                self.outside[start + folder] += 1
                if self.partial:
                    self.known.add(path)
            else:
                self.preparation.unplaced.append(f"{path}: not in a class folder")
        self.known.update(path for path, _ in rows)
        return sorted(rows, key=itemgetter(1))  # Stable: the paths stay sorted.

    def by_annotation(self, split: str, clips: Sequence[Clip]) -> list[Row]:
        """Find the clips of a csv, in class folders or not, in the order of the csv."""
        classes = {_key(clip.label) for clip in clips}
        used: dict[str, int] = {}
        twice = 0
        for clip in clips:
            label = self.index.find(clip.label)
            candidates = [
                path for stem in (clip.stem, clip.youtube_id) for path in self.tree.find_stem(stem)
                if path.startswith(f"{split}/")
            ]
            path = _choose(candidates, clip, classes)
            if label is None:
                self.outside[clip.label] += 1
                if self.partial and path is not None:
                    self.known.add(path)
            elif path is None:
                self.preparation.missing.append(f"{split}/{clip.label}/{clip.stem}")
                self.preparation.unplaced.extend(
                    f"{name}: of {clip.label!r} by the annotations" for name in candidates
                )
            elif path in used:
                twice += 1
            else:
                used[path] = label
        if twice:
            self.preparation.notes.append(
                f"{twice:,} rows of the {split} annotations name the file of an earlier row: "
                "left out"
            )
        self.known.update(used)
        return list(used.items())


def _choose(candidates: Sequence[str], clip: Clip, classes: set[str]) -> str | None:
    """Take the file in the class's own folder, or else one not in another class's folder."""
    loose = None
    for path in candidates:
        parts = path.split("/")
        folder = _key(parts[1]) if len(parts) > 2 else ""
        if folder == _key(clip.label):
            return path
        if loose is None and folder not in classes:
            loose = path
    return loose
