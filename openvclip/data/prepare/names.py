"""Names: which files are videos, which class a folder means, which paths a list can hold."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping

from openvclip.data.lists.labels import LabelSpace
from openvclip.utils.errors import DataError

VIDEO_EXTENSIONS = frozenset((
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts",
))
SPLIT_FOLDERS = {
    "train": ("train", "training", "train_256"),
    "val": ("val", "validate", "validation", "valid", "val_256"),
    "test": ("test", "testing", "test_256"),
}


def is_video(name: str) -> bool:
    """Whether a name has a video's extension; hidden files (macOS's ``._x.avi``) do not count."""
    dot = name.rfind(".")
    return dot > 0 and name[0] != "." and name[dot:].lower() in VIDEO_EXTENSIONS


def is_listable(path: str) -> bool:
    """Whether a list can hold a path: on one line, in UTF-8, without spaces at its ends."""
    if path.isprintable():  # True of nearly all; line breaks and lone surrogates are not.
        return path == path.strip()
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return not {"\n", "\r"} & set(path) and path == path.strip() and path[0] != "\ufeff"


def fold(text: str) -> str:
    """Reduce a name by letter case and Unicode normalisation form."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def class_key(name: str) -> str:
    """Reduce a class or folder name: letter case, underscores and Unicode form do not count."""
    return " ".join(fold(name).replace("_", " ").replace("\u2019", "'").split())


def joined_key(name: str) -> str:
    """Reduce a class name as ``class_key`` does, and remove its spaces."""
    return class_key(name).replace(" ", "")


def path_key(path: str) -> str:
    """Reduce ``class/file``: the folders as class names, the file by case and Unicode form."""
    folder, slash, name = path.rpartition("/")
    return class_key(folder) + slash + fold(name)


def ucf101_class_name(folder: str) -> str:
    """Turn UCF-101's folder name into its class name: ``ApplyEyeMakeup`` -> ``Apply Eye Makeup``.

    A space goes before each capital but the first; ``YoYo`` is ``Yoyo`` in the label space.
    """
    return "Yoyo" if folder == "YoYo" else re.sub(r"(?<!^)(?=[A-Z])", " ", folder)


class ClassIndex:
    """Labels by class or folder name.

    Args:
        space: the classes.
        key: reduces a name so that spellings that count as one become equal.

    Raises:
        DataError: two classes have the same key.
    """

    def __init__(self, space: LabelSpace, key: Callable[[str], str] = class_key) -> None:
        self.space, self._key = space, key
        self._labels: dict[str, int] = {}
        self._known: dict[str, int | None] = {}
        for label, name in enumerate(space.names):
            other = self._labels.setdefault(key(name), label)
            if other != label:
                raise DataError(
                    f"the classes {other} ({space.names[other]!r}) and {label} ({name!r}) have "
                    "the same name except for case and underscores; rename one of them"
                )

    def find(self, name: str) -> int | None:
        """Return the label of a class or folder name, or None."""
        if name not in self._known:
            self._known[name] = self._labels.get(self._key(name))
        return self._known[name]


def describe_outside(outside: Mapping[str, int], space: LabelSpace) -> list[str]:
    """Say for each folder without a class how many videos it has, and which class is closest."""
    lines = []
    for folder, count in sorted(outside.items()):
        name = folder.rpartition("/")[2].replace("_", " ")
        near = difflib.get_close_matches(name, space.names, 1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        lines.append(f"{folder}: {count:,} videos of none of the {len(space)} classes{hint}")
    return lines
