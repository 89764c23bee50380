"""The lists of Kinetics-400 (training and validation) and Kinetics-600 (its new classes)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.data.prepare.kinetics import (
    SplitReader,
    find_split_folder,
    read_annotations,
    require_split_folder,
)
from openvclip.data.prepare.names import ClassIndex, describe_outside
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.preparer import DatasetPreparer
from openvclip.data.prepare.scan import scan_videos
from openvclip.utils.errors import DataError


def plan_kinetics400(
    videos: Path, annotations: Sequence[Path], root: Path, *,
    train_folder: str | None = None, val_folder: str | None = None,
) -> Preparation:
    """Plan Kinetics-400's lists; ``test.csv`` is the validation set.

    Without annotations the class folders give the class of each video, and the order is that of
    the labels, then of the file names; with them, it is that of the csv.

    Args:
        videos: folder with ``train`` and ``val`` (or ``train_256``, ``validation``, ...).
        annotations: official csv files or folders of them, or none.
        root: folder with ``label_db``.
        train_folder: name of the training folder if several could be meant.
        val_folder: likewise.

    Raises:
        DataError: the files contradict the label space or the disk.
    """
    preparation = Preparation("Kinetics-400")
    protocol = PROTOCOLS["kinetics400"]
    space = preparation.add_shipped_map(root, protocol.label_map)
    clips = read_annotations(annotations)
    val = require_split_folder(videos, "val", val_folder)
    train = find_split_folder(videos, "train", train_folder)
    folders = {"train": train, "val": val} if train else {"val": val}
    if annotations:
        folders = _annotated(folders, clips, preparation)
    tree = scan_videos(videos, folders.values())
    reader = SplitReader(tree, ClassIndex(space), preparation)
    rows = {
        name: reader.by_annotation(folder, clips[name]) if annotations else reader.by_folder(folder)
        for name, folder in folders.items()
    }
    preparation.unplaced.extend(describe_outside(reader.outside, space))
    preparation.folder = root / protocol.folder
    if "val" in rows:
        rows["test"] = rows["val"]
    lists = preparation.add_lists(preparation.folder, rows, space)
    preparation.counted.append([prepared for prepared in lists if prepared.path.name != "val.csv"])
    if "train" not in rows:
        preparation.notes.append("no training videos: train.csv not written")
    preparation.add_extra(tree, reader.known)
    preparation.require_rows(tree, f"videos such as '{val}/abseiling/NAME.mp4'")
    return preparation


def plan_kinetics600(
    videos: Path, annotations: Sequence[Path], root: Path, *, val_folder: str | None = None
) -> Preparation:
    """Plan the lists of Kinetics-600's validation videos of classes that Kinetics-400 lacks.

    Three draws of 160 classes, each with its own labels, and all their 217 classes together.
    Videos of other classes are skipped.

    Args:
        videos: folder with ``val`` (or ``validate``, ...).
        annotations: the official csv of the validation set, or none.
        root: folder with ``zs_label_db``.
        val_folder: name of the folder if several could be meant.

    Raises:
        DataError: the files contradict the label spaces or the disk.
    """
    preparation = Preparation("Kinetics-600")
    union = PROTOCOLS["k600_union"]
    protocols = [union, *(p for p in PROTOCOLS.values() if p.of == union.name)]
    spaces = {p.name: preparation.add_shipped_map(root, p.label_map) for p in protocols}
    folder = require_split_folder(videos, "val", val_folder)
    clips = read_annotations(annotations)
    if annotations and not clips["val"]:
        raise DataError(f"{', '.join(map(str, annotations))}: no rows of the validation set")
    tree = scan_videos(videos, [folder])
    reader = SplitReader(tree, ClassIndex(spaces[union.name]), preparation, True)
    there = (
        reader.by_annotation(folder, clips["val"]) if annotations else reader.by_folder(folder)
    )
    if reader.outside:
        preparation.notes.append(
            f"{reader.outside.total():,} videos of {len(reader.outside)} other classes: left out"
        )
    preparation.folder = root / union.folder
    for protocol in protocols:
        space = spaces[protocol.name]
        rows = _relabel(there, spaces[union.name], space)
        prepared = preparation.add_list(root / protocol.folder / "test.csv", rows, space)
        if protocol is union:
            preparation.counted.append([prepared])
    preparation.add_extra(tree, reader.known)
    first = spaces[union.name].names[0].replace(" ", "_")
    preparation.require_rows(tree, f"videos such as '{folder}/{first}/NAME.mp4'")
    return preparation


def _annotated(
    folders: dict[str, str], clips: dict[str, list], preparation: Preparation
) -> dict[str, str]:
    """Keep the splits for which the annotations have rows."""
    if clips["test"]:
        preparation.notes.append(
            f"{len(clips['test']):,} annotated videos of the test set: left out, as test.csv is "
            "the validation set"
        )
    for name in folders:
        if not clips[name]:
            preparation.notes.append(f"no {name} rows in the annotations: {name}.csv not written")
    return {name: folder for name, folder in folders.items() if clips[name]}


def _relabel(rows: Sequence[Row], space: LabelSpace, other: LabelSpace) -> list[Row]:
    labels = {name: label for label, name in enumerate(other.names)}
    return [
        (path, labels[space.names[label]])
        for path, label in rows
        if space.names[label] in labels
    ]


class Kinetics400(DatasetPreparer):
    """Kinetics-400."""

    help = "class folders in train/ and val/, or official csv files"
    official = "official csv files, or the folder of them; without, the class folders count"
    splits: ClassVar[dict[str, str]] = {"train": "training", "val": "validation"}

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the files and the folders of the splits."""
        super().add_options(parser)
        parser.add_argument("--annotations", type=Path, nargs="+", default=[], metavar="FILE",
                            help=self.official)
        for split, videos in self.splits.items():
            parser.add_argument(f"--{split}-folder", metavar="NAME",
                                help=f"folder of the {videos} videos, if several exist")

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_kinetics400`."""
        return plan_kinetics400(args.videos, args.annotations, args.root,
                                train_folder=args.train_folder, val_folder=args.val_folder)


class Kinetics600(Kinetics400):
    """The part of Kinetics-600 that Kinetics-400 lacks."""

    help = "the classes that Kinetics-400 lacks, of the validation set"
    official = "official csv of the validation set; without, the class folders count"
    splits: ClassVar[dict[str, str]] = {"val": "validation"}

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_kinetics600`."""
        return plan_kinetics600(args.videos, args.annotations, args.root,
                                val_folder=args.val_folder)
