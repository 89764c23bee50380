"""Video lists (``path<separator>label`` rows) and label maps (``index2cls.json``)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import read_json_text, read_table
from openvclip.utils.json_text import parse_json, read_whole


@dataclass(frozen=True)
class LabelSpace:
    """The class names of a dataset; the position of a name is its label."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """Return the SHA-256 of the names in their order, in hexadecimal."""
        return hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest()

    @classmethod
    def from_json(cls, path: str | Path) -> LabelSpace:
        """Read ``{"0": "first class", "1": "second class", ...}``.

        Raises:
            DataError: the file is missing or is not such a map, with indices from 0 without gaps.
        """
        hint = 'expected {"0": "first class", "1": "second class", ...}'
        try:
            text = read_json_text(path, "utf-8-sig")
            pairs = parse_json(text, object_pairs_hook=list)
        except OSError as error:
            raise DataError(f"cannot read the label map {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"the label map {path} is not JSON: {error}; {hint}") from error
        if not text.lstrip().startswith("{"):
            raise DataError(f"the label map {path} is not an object; {hint}")
        if not pairs:
            raise DataError(f"the label map {path} has no classes; {hint}")
        return cls(_names_in_order(pairs, f"the label map {path}", hint))


def find_digest(path: object) -> str | None:
    """Return the SHA-256 of the label set in a file; None if there is no such file."""
    try:
        return LabelSpace.from_json(str(path)).digest()
    except DataError:
        return None


def build_label_space(cfg) -> LabelSpace:
    """Read the class names of ``DATA.INDEX_LABEL_MAPPING_FILE`` and check their number.

    Raises:
        ConfigError: no file is given, or ``MODEL.NUM_CLASSES`` is a different number.
        DataError: as :meth:`LabelSpace.from_json`.
    """
    path = cfg.DATA.INDEX_LABEL_MAPPING_FILE
    if not path:
        raise ConfigError(
            "DATA.INDEX_LABEL_MAPPING_FILE is empty; give the *-index2cls.json with the names of "
            "the classes, which the text classifier is made from"
        )
    labels = LabelSpace.from_json(path)
    if len(labels) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but {path} names {len(labels)} "
            f"classes; set MODEL.NUM_CLASSES to {len(labels)} or give the other file"
        )
    return labels


def _names_in_order(pairs: list, where: str, hint: str) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for key, name in pairs:
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise DataError(f"{where}: the key {shorten(key)} is not an index; {hint}")
        if not isinstance(name, str) or not name.strip() or not is_text(name):
            raise DataError(
                f"{where}: class {key} has the name {shorten(name)}, not a text; {hint}")
        if int(key) in names:
            raise DataError(f"{where}: the index {int(key)} appears twice")
        names[int(key)] = name
    gap = next((i for i in range(len(names)) if i not in names), None)
    if gap is not None:
        raise DataError(
            f"{where}: {len(names)} classes, but the index {gap} is missing; "
            "indices count from 0 without a gap"
        )
    return tuple(names[i] for i in range(len(names)))


def shorten(value: object) -> str:
    """Return ``repr(value)``, cut if it is long, for messages."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def is_text(name: str) -> bool:
    """Whether UTF-8 can encode a text: JSON can spell half characters, which no text contains."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class VideoList:
    """The rows of one list.

    Attributes:
        paths: file of each row, with the prefix.
        labels: int64 array (rows,), or one tuple of labels per row if videos have several.
        source: where the list came from, for messages.
    """

    paths: list[str]
    labels: np.ndarray | list[tuple[int, ...]]
    source: str = ""

    def __len__(self) -> int:
        return len(self.paths)


def read_list(
    csv: str | Path, *, separator: str = " ", prefix: str = "", num_classes: int,
    multi_label: bool = False,
) -> VideoList:
    """Read a list of ``path<separator>label`` rows; the last separator of a row counts.

    Paths may therefore contain the separator (``DATA.PATH_LABEL_SEPARATOR``). With ``multi_label``
    the label column holds integers joined by ``;`` (or by ``,`` if the separator is not a comma).
    Labels must be smaller than ``num_classes``. With a ``prefix`` (``DATA.PATH_PREFIX``) a row must
    stay under it, by its name (links are followed); without one, paths are taken literally.

    Raises:
        DataError: the file is missing or empty, or a row cannot be used (named by line).
    """
    paths: list[str] = []
    labels: list = []
    for number, line in _lines(Path(csv)):
        where = f"{csv}, line {number}"
        path, label = _split_row(line, separator, where)
        paths.append(join_prefix(path, prefix, where))
        if multi_label:
            parts = label.replace(",", ";").split(";")
            labels.append(tuple(_label(part, num_classes, where) for part in parts))
        else:
            labels.append(_label(label, num_classes, where))
    if not paths:
        raise DataError(f"the list {csv} is empty; expected rows like 'video.mp4{separator}0'")
    return VideoList(paths, labels if multi_label else np.array(labels, dtype=np.int64), str(csv))


def _lines(csv: Path) -> list[tuple[int, str]]:
    """Return (line number, text) for each row; empty lines at the end are not rows."""
    try:
        text = read_table(csv, "utf-8-sig")
    except FileNotFoundError as error:
        others = sorted(p.name for p in csv.parent.glob("*.csv")) if csv.parent.is_dir() else None
        there = "that folder does not exist" if others is None else (
            f"the folder has {', '.join(others)}" if others else "the folder has no .csv"
        )
        raise DataError(
            f"the list {csv} does not exist ({there}); set DATA.PATH_TO_DATA_DIR, or "
            "TRAIN_FILE, VAL_FILE or TEST_FILE for a list of another name"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {csv}: {error}") from error
    lines = text.rstrip().split("\n") if text.strip() else []
    return [(number, line.strip()) for number, line in enumerate(lines, 1)]


def _split_row(line: str, separator: str, where: str) -> tuple[str, str]:
    if not line:
        raise DataError(f"{where}: the line is empty; remove it")
    if "\0" in line:
        raise DataError(f"{where}: the line has a zero byte, which no path has; is this a list?")
    path, between, label = line.rpartition(separator)
    path = path.strip()
    if not between or not path or not label.strip():
        raise DataError(
            f"{where}: no label in {line!r}; expected 'path{separator}label' "
            f"(DATA.PATH_LABEL_SEPARATOR is {separator!r})"
        )
    return path, label.strip()


def _label(text: str, num_classes: int, where: str) -> int:
    try:
        label = read_whole(text)
    except ValueError as error:
        raise DataError(
            f"{where}: the label {shorten(text)} is not an integer; if it belongs to the path, "
            "set DATA.PATH_LABEL_SEPARATOR"
        ) from error
    if not 0 <= label < num_classes:
        raise DataError(
            f"{where}: the label {label} is outside the map of {num_classes} classes "
            f"(0 to {num_classes - 1}); check the list, DATA.INDEX_LABEL_MAPPING_FILE and "
            "MODEL.NUM_CLASSES"
        )
    return label


def join_prefix(path: str, prefix: str, where: str) -> str:
    """Return ``path`` under ``prefix``, or unchanged without one.

    Raises:
        DataError: it names something outside the prefix; ``where`` says which row it is.
    """
    if prefix and (os.path.isabs(path) or ".." in path):
        root = os.path.abspath(prefix)
        whole = os.path.normpath(os.path.join(root, path))
        if not whole.startswith(root.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{where}: the path {path!r} leads out of DATA.PATH_PREFIX {prefix!r}; "
                "make it relative to the prefix; if you trust the list, leave the prefix empty"
            )
    return os.path.join(prefix, path)


def check_videos_exist(paths: Sequence[str], *, prefix: str = "", source: str = "") -> None:
    """Stop early if a list's videos are obviously missing.

    Checks only a handful of rows spread over the list, so that it is cheap for long lists.

    Raises:
        DataError: the prefix is not a folder, or no checked row exists.
    """
    if prefix and not os.path.isdir(prefix):
        raise DataError(f"missing video folder: DATA.PATH_PREFIX {prefix!r} is not a folder")
    probes = [paths[i * (len(paths) - 1) // 7] for i in range(8)] if paths else []
    if probes and not any(os.path.exists(path) for path in probes):
        folder = os.path.dirname(probes[0]) or "."
        state = "which has no such file" if os.path.isdir(folder) else "which does not exist"
        raise DataError(
            f"missing video folder: {probes[0]!r} of the list {source} is not in {folder!r}, "
            f"{state}, and neither are other rows; set DATA.PATH_PREFIX to the folder that the "
            "list's paths are relative to"
        )


def split_labels(texts: Sequence[str]) -> list[str]:
    """Return the labels in a text such as ``"archery, arm wrestling"``, including empty ones."""
    return [label.strip() for text in texts for label in text.split(",")]


def read_label_file(path: str | Path) -> list[str]:
    """Read labels from a label map (``.json``) or from a text file with one per line.

    Blank lines in a text file are skipped.

    Raises:
        DataError: the file cannot be read, or is a map that :class:`LabelSpace` refuses.
    """
    if Path(path).suffix.lower() == ".json":
        return list(LabelSpace.from_json(path).names)
    try:
        text = read_table(path, "utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the label file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the label file {path} is not a UTF-8 text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
