"""Any dataset in class folders: ``class/video`` or ``split/class/video``."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from openvclip.data.lists.label_maps import SHIPPED
from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.data.prepare.kinetics import SplitReader
from openvclip.data.prepare.names import SPLIT_FOLDERS, ClassIndex, class_key, describe_outside
from openvclip.data.prepare.plan import MAP_ENDING, Preparation, Row, group_by_label
from openvclip.data.prepare.preparer import DatasetPreparer
from openvclip.data.prepare.scan import VideoTree, scan_videos
from openvclip.utils.errors import ConfigError, DataError

LAYOUTS = ("auto", "classes", "splits")


def plan_folders(
    videos: Path, name: str, root: Path, *, label_map: Path | None = None,
    val_share: float = 0.0, seed: int = 1, layout: str = "auto",
) -> Preparation:
    """Plan ``zs_label_db/NAME/*.csv`` and ``zs_label_db/NAME-index2cls.json``.

    ``split/class/video`` gives one list per split; without a test split, ``test.csv`` is the
    validation set. ``class/video`` gives a ``test.csv`` of all videos or, with ``val_share``, a
    ``train.csv`` and the rest as both ``val.csv`` and ``test.csv``: no training video is ever
    tested on. Classes are the folder names, with spaces for underscores, sorted.

    Args:
        videos: the dataset's folder; videos may be deeper in a class folder.
        name: what to call the dataset.
        root: folder with ``zs_label_db``.
        label_map: take these classes instead of the folders' names.
        val_share: share of each class for ``val.csv`` and ``test.csv``, the rest for ``train.csv``,
            if there are no splits.
        seed: seed of that draw.
        layout: ``classes`` or ``splits`` if ``auto`` would mistake one for the other.

    Raises:
        ConfigError: an option is out of range.
        DataError: the tree is neither, or the label map does not fit.
    """
    _check_options(name, val_share)
    preparation = Preparation(name, root / "zs_label_db" / name)
    tree = scan_videos(videos)
    splits = _find_splits(tree, layout)
    space = LabelSpace.from_json(label_map) if label_map else _space_of(tree, bool(splits))
    _add_map(preparation, root, name, space)
    reader = SplitReader(tree, ClassIndex(space), preparation)
    if splits:
        if val_share:
            raise ConfigError(f"--val-share is for a tree without splits, but {videos} has "
                              f"{', '.join(splits.values())}")
        rows = {split: reader.by_folder(folder) for split, folder in splits.items()}
        tops = Counter(path.partition("/")[0] for path in tree.paths)
        preparation.unplaced.extend(
            f"{top}: {count:,} videos outside of {', '.join(splits.values())}"
            for top, count in tops.items() if top not in splits.values()
        )
        if "test" not in rows and "val" in rows:
            rows["test"] = rows["val"]
            preparation.notes.append("no test folder: test.csv is the validation set")
    else:
        rows = {"test": reader.by_folder("")}
        if val_share:
            rows = _draw_val(rows["test"], space, val_share, seed)
            preparation.notes.append("test.csv is the validation set: the videos that are not "
                                     "trained on")
    preparation.unplaced.extend(describe_outside(reader.outside, space))
    lists = preparation.add_lists(root / "zs_label_db" / name, rows, space)
    preparation.counted.append(lists)
    preparation.add_extra(tree, reader.known)
    preparation.require_rows(tree, "videos such as 'class/video.mp4' or 'train/class/video.mp4'")
    return preparation


def _check_options(name: str, val_share: float) -> None:
    if not name.strip() or name.startswith(".") or "/" in name or "\\" in name:
        raise ConfigError(f"--name {name!r} cannot be the name of a folder")
    if not 0 <= val_share < 1:
        raise ConfigError(f"--val-share is {val_share}; give a share from 0 to below 1")


def _find_splits(tree: VideoTree, layout: str) -> dict[str, str]:
    """Return the folder of each split; none for a tree of classes.

    A tree has splits if all its folders are named like splits and have class folders.
    """
    if layout == "classes":
        return {}
    tops: dict[str, int] = {}
    for path in tree.paths:
        top, _, rest = path.partition("/")
        if rest:
            tops[top] = min(tops.get(top, 2), 1 + rest.count("/"))
    splits: dict[str, str] = {}
    for split, names in SPLIT_FOLDERS.items():
        folders = [top for top, depth in tops.items() if top.lower() in names and depth > 1]
        if len(folders) > 1:
            raise DataError(f"{tree.root} has {' and '.join(folders)} for the {split} split; "
                            "leave only one of them, or give --layout classes")
        if folders:
            splits[split] = folders[0]
    others = sorted(tops.keys() - set(splits.values()))
    if splits and others and layout == "auto":
        raise DataError(
            f"{tree.root} has {', '.join(splits.values())}, like a tree of splits, and "
            f"{', '.join(others[:5])}; say by --layout splits or --layout classes which it is"
        )
    if not splits and layout == "splits":
        raise DataError(f"{tree.root} has no train, val or test with class folders in it")
    return splits


def _space_of(tree: VideoTree, splits: bool) -> LabelSpace:
    """Take the class folders' names; folders that differ only in case or the like are one class."""
    depth = 1 if splits else 0
    names: dict[str, str] = {}
    for path in tree.paths:
        parts = path.split("/")
        if len(parts) > depth + 1:
            names.setdefault(class_key(parts[depth]), parts[depth].replace("_", " ").strip())
    if not names:
        raise DataError(f"{tree.describe()}, but none in a class folder; expected "
                        "'class/video.mp4' or 'train/class/video.mp4' in --videos")
    return LabelSpace(tuple(sorted(names.values())))


def _add_map(preparation: Preparation, root: Path, name: str, space: LabelSpace) -> None:
    relative = f"zs_label_db/{name}{MAP_ENDING}"
    shipped = {protocol.label_map for protocol in PROTOCOLS.values()}
    if relative in shipped and (SHIPPED / relative).exists():
        if preparation.add_shipped_map(root, relative) != space:
            raise DataError(f"{relative} comes with the project and has different classes; "
                            f"give another --name than {name}, or --map {relative}")
    else:
        preparation.add_map(root / relative, space)


def _draw_val(
    rows: Sequence[Row], space: LabelSpace, share: float, seed: int
) -> dict[str, list[Row]]:
    """Draw the share of each class from its own generator; at least one video stays on each side.

    A class with a single video has it only in the training list.
    """
    chosen: set[str] = set()
    for label, videos in group_by_label(rows).items():
        count = min(max(round(share * len(videos)), 1), len(videos) - 1)
        rng = random.Random(f"{seed}:{space.names[label]}")
        chosen.update(path for path, _ in rng.sample(videos, count))
    held_out = [row for row in rows if row[0] in chosen]
    return {
        "train": [row for row in rows if row[0] not in chosen], "val": held_out, "test": held_out,
    }


class Folders(DatasetPreparer):
    """Any dataset in class folders."""

    help = "any tree class/video or split/class/video"

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the name, the label map, the layout and the draw."""
        super().add_options(parser)
        add = parser.add_argument
        add("--name", required=True, help="what to call the dataset")
        add("--map", type=Path, metavar="FILE",
            help="label map to use; else the folders' names, sorted")
        add("--layout", choices=LAYOUTS, default=LAYOUTS[0],
            help="what the folders directly in --videos are (default: by their names)")
        add("--val-share", type=float, default=0.0, metavar="F",
            help="share of each class for val.csv and test.csv, the rest for train.csv")
        add("--seed", type=int, default=1, help="seed of that draw (default: 1)")

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_folders`."""
        return plan_folders(args.videos, args.name, args.root, label_map=args.map,
                            val_share=args.val_share, seed=args.seed, layout=args.layout)
