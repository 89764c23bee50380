"""Lists of (video, caption) pairs for retrieval, in the forms in which they are distributed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvclip.data.lists.labels import VideoList, is_text, join_prefix, shorten
from openvclip.utils.errors import DataError
from openvclip.utils.files import read_json_text, read_table
from openvclip.utils.json_text import parse_json

# Tried for a video whose name has no ending, as in MSR-VTT; the first that exists counts.
ENDINGS = (".mp4", ".avi", ".webm", ".mkv")
# Names of a column or field; the first that is present counts.
VIDEO_FIELDS = ("video", "video_id", "clip_name")
CAPTION_FIELDS = ("caption", "sentence")
FORMS = (
    "expected a .csv with a header (video,caption or MSR-VTT's key,vid_key,video_id,sentence), a "
    '.jsonl of {"video": ..., "caption": ...}, or a .json: a list of these, an object of '
    'video: caption, or MSR-VTT\'s {"videos": [...], "sentences": [...]}'
)

# Where an entry is, its video, and its description: a text or a list of texts.
Entry = tuple[str, Any, Any]


@dataclass(frozen=True)
class RetrievalList:
    """Videos and their captions, in the order of the list.

    Attributes:
        videos: file of each of the V videos, with the prefix.
        captions: the N texts.
        owner: int64 (N,), the video that each caption describes.
        source: the file that the list came from.
        split: the split that was used; "" if the file names none.
    """

    videos: list[str]
    captions: list[str]
    owner: np.ndarray
    source: str = ""
    split: str = ""

    def as_videos(self) -> VideoList:
        """Return the videos as a list for the loader; its labels are all 0."""
        return VideoList(self.videos, np.zeros(len(self.videos), dtype=np.int64), self.source)

    def count_repeated(self) -> int:
        """Number of pairs in excess of one of each in the list."""
        return len(self.captions) - len(set(zip(self.owner.tolist(), self.captions, strict=True)))

    def count_shared(self) -> int:
        """Number of distinct texts that describe several videos, which no model can tell apart."""
        pairs = set(zip(self.captions, self.owner.tolist(), strict=True))
        return sum(videos > 1 for videos in Counter(text for text, _ in pairs).values())

    def digest(self) -> str:
        """Return the SHA-256 of the pairs, with videos by file name."""
        names = [os.path.basename(path) for path in self.videos]
        pairs = [[names[v], text]
                 for v, text in zip(self.owner.tolist(), self.captions, strict=True)]
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def read_retrieval_list(
    path: str | Path, *, prefix: str = "", split: str = "test"
) -> RetrievalList:
    """Read a list of videos and captions, in any form of ``docs/retrieval.md``.

    Nothing is dropped: a pair that appears twice counts twice, as in published numbers. No video
    may lead out of ``prefix``. Of a list whose videos name their split, ``split`` is used; "" uses
    all.

    Raises:
        DataError: the file is missing or of no known form, an entry has no video or no text, or a
            video is missing; the file and the entry are named.
    """
    entries, taken = _read(Path(path), split)
    find = _video_finder(prefix)
    files: dict[str, str] = {}  # of each name, in the order of the list
    numbers: dict[str, int] = {}
    captions: list[str] = []
    owner: list[int] = []
    missing: list[tuple[str, str]] = []
    for where, name, said in entries:
        name = _check_video(name, where)
        if name not in files:
            file = find(name, where)
            if file is None:
                missing.append((where, name))
            numbers[name], files[name] = len(files), file or name
        texts = _check_captions(said, name, where)
        captions += texts
        owner += [numbers[name]] * len(texts)
    if missing:
        _fail_missing(missing, len(files), prefix)
    if not captions:
        raise DataError(f"the list {path} is empty; {FORMS}")
    first: dict[str, str] = {}
    for name, file in files.items():  # A video under two names would compete with itself.
        if (other := first.setdefault(file, name)) != name:
            raise DataError(f"the list {path} calls one video {other!r} and {name!r} (both are "
                            f"{file}); call it by one name")
    return RetrievalList(list(files.values()), captions, np.array(owner, dtype=np.int64),
                         str(path), taken)


def _read(path: Path, split: str) -> tuple[Iterable[Entry], str]:
    """Return the entries of a list and the split that they belong to."""
    readers = {".csv": _csv_entries, ".jsonl": _jsonl_entries}
    ending = path.suffix.lower()
    if ending not in (*readers, ".json"):
        raise DataError(f"the list {path} ends in {ending!r}; {FORMS}")
    try:
        text = (read_table if ending in readers else read_json_text)(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the list {path}: {error}; set TEST.RETRIEVAL_FILE to a list of videos "
            "and captions"
        ) from error
    if ending in readers:
        return readers[ending](path, text), ""
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the list {path} is not JSON: {error}; {FORMS}") from error
    if isinstance(content, dict) and "sentences" in content:
        return _sentence_entries(path, content, split)
    if isinstance(content, dict):
        return [(f"{path}, entry {name!r}", name, said) for name, said in content.items()], ""
    if not isinstance(content, list):
        raise DataError(f"the list {path} is neither a list nor an object; {FORMS}")
    return [_record(f"{path}, entry {i}", row) for i, row in enumerate(content, 1)], ""


def _csv_entries(path: Path, text: str) -> Iterator[Entry]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if not (set(names) & set(VIDEO_FIELDS) and set(names) & set(CAPTION_FIELDS)):
            raise DataError(f"{path}, line 1: the header {','.join(names)[:80]!r} names no video "
                            f"or no caption; {FORMS}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise DataError(f"{where}: more columns than the header has; put a caption with a "
                                'comma between "..."')
            yield _record(where, row)
    except csv.Error as error:
        raise DataError(f"{path}, after line {reader.line_num}: {error}") from error


def _jsonl_entries(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        yield _record(where, row)


def _record(where: str, row: Any) -> Entry:
    """Return the entry of ``{"video": ..., "caption": ...}`` or the like."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: {shorten(row)} is not an object; {FORMS}")
    video = next((name for name in VIDEO_FIELDS if name in row), None)
    caption = next((name for name in CAPTION_FIELDS if name in row), None)
    if video is None or caption is None:
        lacks, names = ("video", VIDEO_FIELDS) if video is None else ("caption", CAPTION_FIELDS)
        raise DataError(f"{where}: no {lacks} (a field called {' or '.join(names)}), only "
                        f"{', '.join(map(str, row))}; {FORMS}")
    return where, row[video], row[caption]


def _sentence_entries(path: Path, content: dict, split: str) -> tuple[list[Entry], str]:
    """Read MSR-VTT's own form: videos with their splits, and sentences that name a video."""
    for section in ("videos", "sentences"):
        rows = content.get(section)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path}: {section!r} is {shorten(rows)}, not a list of objects; "
                            f"{FORMS}")
    splits: dict[str, Any] = {}
    for number, row in enumerate(content["videos"], 1):
        name = _check_video(row.get("video_id"), f"{path}, video {number}")
        if name in splits:
            raise DataError(f"{path}, video {number}: the video {name!r} appears twice")
        splits[name] = row.get("split")
    known = {str(own) for own in splits.values() if own is not None}
    taken = split if known else ""
    if taken and taken not in known:
        raise DataError(f"{path} has no videos of the split {split!r} (TEST.RETRIEVAL_SPLIT), only "
                        f"of {', '.join(sorted(known))}; set it to one of these, or to '' for all")
    entries: dict[str, list[Entry]] = {
        name: [] for name, own in splits.items() if not taken or own == taken}
    for number, row in enumerate(content["sentences"], 1):
        where = f"{path}, sentence {number}"
        name = _check_video(row.get("video_id"), where)
        if name not in splits:
            raise DataError(f"{where}: the video {name!r} is not among the file's 'videos'")
        if name in entries:
            entries[name].append((where, name, row.get("caption")))
    for name, own in entries.items():
        if not own:
            raise DataError(f"{path}: the video {name!r} has no sentence; remove it from 'videos'")
    return [entry for own in entries.values() for entry in own], taken


def _check_video(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name.strip() or "\0" in name or not is_text(name):
        raise DataError(f"{where}: the video is {shorten(name)}, not the name of a file")
    return name.strip()


def _check_captions(said: Any, name: str, where: str) -> list[str]:
    """Return an entry's texts: it has one or a list of them."""
    texts = said if isinstance(said, list) else [said]
    if not texts:
        raise DataError(f"{where}: the video {name!r} has no caption; give one or remove the entry")
    for text in texts:
        if not isinstance(text, str) or not text.strip() or not is_text(text):
            raise DataError(f"{where}: a caption of the video {name!r} is {shorten(text)}, not a "
                            "text; give one or remove the entry")
    return [text.strip() for text in texts]


def _video_finder(prefix: str) -> Callable[[str, str], str | None]:
    """Return a function that finds a video's file or gives None; it lists every folder once."""
    folders: dict[str, set[str]] = {}

    def find(name: str, where: str) -> str | None:
        path = join_prefix(name, prefix, where)
        folder, base = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder or "."))
            except OSError:
                folders[folder] = set()
        ending = next((end for end in ("", *ENDINGS) if base + end in folders[folder]), None)
        return None if ending is None else path + ending

    return find


def _fail_missing(missing: list[tuple[str, str]], videos: int, prefix: str) -> None:
    where, name = missing[0]
    folder = f"DATA.PATH_PREFIX {prefix!r}" if prefix else "the current folder"
    if prefix and not os.path.isdir(prefix):
        raise DataError(f"missing video folder: {folder} is not a folder")
    raise DataError(
        f"{where}: the video {name!r} is not in {folder}, neither by this name nor with "
        f"{', '.join(ENDINGS)} added; {len(missing)} of the list's {videos} videos are "
        "missing: get them, or remove them from the list (the numbers are then of another list)"
    )


def build_retrieval_list(cfg) -> RetrievalList:
    """Read ``TEST.RETRIEVAL_FILE``, its videos under ``DATA.PATH_PREFIX``."""
    return read_retrieval_list(
        cfg.TEST.RETRIEVAL_FILE, prefix=cfg.DATA.PATH_PREFIX, split=cfg.TEST.RETRIEVAL_SPLIT
    )
