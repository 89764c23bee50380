"""Something-Something V2 by its ``labels.json``, ``train.json`` and ``validation.json``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.data.prepare.names import ClassIndex
from openvclip.data.prepare.official import find_annotation, read_json, require_annotation
from openvclip.data.prepare.plan import Preparation, Row
from openvclip.data.prepare.preparer import DatasetPreparer
from openvclip.data.prepare.scan import VideoTree, scan_videos
from openvclip.utils.errors import DataError


def plan_ssv2(videos: Path, annotations: Path, root: Path) -> Preparation:
    """Plan Something-Something V2's lists; ``test.csv`` is the validation set.

    Args:
        videos: folder of ``NUMBER.webm`` files; another video format will do.
        annotations: folder with the JSON files, under either of their official names.
        root: folder with ``zs_label_db``.

    Raises:
        DataError: the files contradict each other, the label space or the disk.
    """
    preparation = Preparation("Something-Something V2")
    protocol = PROTOCOLS["ssv2"]
    space = preparation.add_shipped_map(root, protocol.label_map)
    _check_labels(require_annotation(annotations, _names("labels")), space)
    entries = {
        name: _read_entries(require_annotation(annotations, _names(file)), ClassIndex(space))
        for name, file in (("train", "train"), ("val", "validation"))
    }
    tree = scan_videos(videos)
    known: set[str] = set()
    rows = {name: _find_videos(tree, listed, known, preparation)
            for name, listed in entries.items()}
    preparation.folder = root / protocol.folder
    lists = preparation.add_lists(preparation.folder, {**rows, "test": rows["val"]}, space)
    preparation.counted.append([lists[0], lists[2]])
    _leave_out_test(tree, annotations, known, preparation)
    preparation.add_extra(tree, known)
    preparation.require_rows(tree, f"files such as {entries['train'][0][0] + '.webm'!r}")
    return preparation


def _names(what: str) -> list[str]:
    return [f"{what}.json", f"something-something-v2-{what}.json"]


def _check_labels(path: Path, space: LabelSpace) -> None:
    """Compare ``{"class": "label", ...}`` with the label space."""
    content = read_json(path)
    try:
        names = sorted(content, key=lambda name: int(content[name]))
        labels = [int(content[name]) for name in names]
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(f'{path} is not {{"class": "label", ...}}: {error}') from error
    for place, name in enumerate(space.names):
        other = names[place] if place < len(names) else None
        if other != name or labels[place] != place:
            raise DataError(
                f"{path}: label {place} is {other!r}, but {name!r} in the label space that comes "
                "with the project; these are not the files of Something-Something V2"
            )
    if len(names) > len(space):
        raise DataError(f"{path}: {len(names)} classes instead of {len(space)}, the first too many "
                        f"is {names[len(space)]!r}")


def _read_entries(path: Path, index: ClassIndex) -> list[Row]:
    """Read the number and the label of each video."""

    def shorten(entry: dict[str, Any]) -> tuple:  # The whole file would take 300 MB.
        return entry.get("id"), entry.get("template")

    entries = read_json(path, shorten)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} is not a list of videos")
    rows: dict[str, int] = {}
    for place, entry in enumerate(entries):
        video, template = entry if isinstance(entry, tuple) else (None, None)
        if not isinstance(video, (str, int)) or not isinstance(template, str):
            raise DataError(f"{path}, entry {place}: no 'id' with a 'template'")
        label = index.find(template.replace("[", "").replace("]", ""))
        if label is None:
            raise DataError(f"{path}, video {video}: the template {template!r} is not one of the "
                            f"{len(index.space)} classes")
        if str(video) in rows:
            raise DataError(f"{path}: the video {video} appears twice")
        rows[str(video)] = label
    return list(rows.items())


def _find_videos(
    tree: VideoTree, entries: list[Row], known: set[str], preparation: Preparation
) -> list[Row]:
    rows = []
    for video, label in entries:
        files = tree.find_stem(video)
        if files:
            # If there are several, the original format.
            path = next((name for name in files if name.lower().endswith(".webm")), files[0])
            rows.append((path, label))
            known.add(path)
        else:
            preparation.missing.append(f"{video}.webm")
    return rows


def _leave_out_test(
    tree: VideoTree, annotations: Path, known: set[str], preparation: Preparation
) -> None:
    """Read which videos are in the test set from its file, which names no classes."""
    path = find_annotation(annotations, _names("test"))
    if path is None:
        return
    videos = read_json(path, lambda entry: str(entry.get("id")))
    tested = {name for video in videos for name in tree.find_stem(video)} - known
    preparation.notes.append(f"{len(tested):,} videos of {path.name}, without labels: left out")
    known |= tested


class SSV2(DatasetPreparer):
    """Something-Something V2."""

    help = "Something-Something V2, by labels.json, train.json and validation.json"
    annotations = "folder of labels.json, train.json and validation.json"

    def plan_lists(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_ssv2`."""
        return plan_ssv2(args.videos, args.annotations, args.root)
