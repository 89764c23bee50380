"""Reading captions as people have them: .pt, .json, .jsonl and .csv files -> (video, caption)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openvclip.utils.errors import DataError, first_line
from openvclip.utils.files import iterate_lines, open_regular, read_json_text, read_table
from openvclip.utils.json_text import parse_json
from openvclip.utils.paths import local
from openvclip.utils.torch_files import load_torch

# Names of fields and columns, the first being ours.
VIDEO_FIELDS = ("video", "path", "video_path", "video_id", "file")
CAPTION_FIELDS = ("caption", "captions", "sentence", "text")
# Operations of a pickle: a caption takes two, and so does a video.
MOST_STEPS = 5_000_000


class Entry(NamedTuple):
    """A file's entry for a video (None if it cannot be read), unchecked, and where it stands."""

    video: object
    caption: object
    where: str


def read_captions(path: str | Path) -> list[Entry]:
    """Read all entries of a caption file in order; a list of captions gives several.

    Args:
        path: ``.pt``: a dict from video path to a caption or a list of captions, as ``torch.save``
            writes it. ``.json``: such an object, or a list of objects with a video and a caption.
            ``.jsonl``: one such object per line. ``.csv``: two columns, or a header that names
            them.

    Raises:
        DataError: the file as a whole cannot be read; single entries are left to the caller.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"captions {path}: the extension {path.suffix!r} is none of {', '.join(_READERS)}; "
            "rename the file or convert it"
        )
    try:
        return list(reader(Path(local(path))))
    except FileNotFoundError as error:
        raise DataError(f"the captions {path} do not exist; check --captions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the captions {path} are not UTF-8: {error}; convert the file") from error
    except OSError as error:
        raise DataError(f"cannot read the captions {path}: {error.strerror or error}") from error


def _read_pt(path: Path) -> Iterator[Entry]:
    open_regular(path).close()  # torch reports a missing file in many ways.
    try:
        content = load_torch(path, most_steps=MOST_STEPS)
    except Exception as error:  # torch raises many kinds for damaged files
        raise DataError(
            f"cannot read the captions {path} ({path.stat().st_size} bytes): {first_line(error)}; "
            "expected what torch.save writes of a plain dict; nothing else is unpickled, as that "
            "can run code: fetch the file again, or save it as JSON"
        ) from error
    yield from _from_dict(path, content)


def _read_json(path: Path) -> Iterator[Entry]:
    text = read_json_text(path, "utf-8-sig")
    try:
        content = parse_json(text, object_pairs_hook=_Object)
    except ValueError as error:
        raise DataError(
            f"the captions {path} are not JSON: {error}; one object per line is a .jsonl file"
        ) from error
    if isinstance(content, list) and not isinstance(content, _Object):
        for number, item in enumerate(content, 1):
            yield from _from_object(item, f"item {number}")
    else:
        yield from _from_dict(path, content)


def _read_jsonl(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(iterate_lines(path, "utf-8-sig"), 1):
        if not line.strip():
            continue
        try:
            item = parse_json(line, object_pairs_hook=_Object)
        except ValueError:
            yield Entry(None, None, f"line {number}: not JSON")
            continue
        yield from _from_object(item, f"line {number}")


def _read_csv(path: Path) -> Iterator[Entry]:
    text = read_table(path, "utf-8-sig")
    rows = csv.reader(io.StringIO(text, newline=""))
    video, caption, width = 0, 1, 2
    try:
        for row in rows:
            if not any(row):
                continue
            header = _header(row) if (video, width) == (0, 2) and rows.line_num == 1 else None
            if header:
                video, caption, width = *header, len(row)
            elif len(row) == width:
                yield Entry(row[video], row[caption], f"line {rows.line_num}")
            else:
                columns = f"{len(row)} columns, expected {width}"
                yield Entry(None, None, f"line {rows.line_num}: {columns}")
    except csv.Error as error:
        raise DataError(
            f"the captions {path}, line {rows.line_num}: {error}; is a quote left open above?"
        ) from error


def _header(row: list[str]) -> tuple[int, int] | None:
    names = [cell.strip().lower() for cell in row]
    video, caption = (next((names.index(name) for name in known if name in names), None)
                      for known in (VIDEO_FIELDS, CAPTION_FIELDS))
    return None if video is None or caption is None else (video, caption)


class _Object(list):
    """A JSON object as its pairs: a video may appear in it twice."""

    def field(self, names: tuple[str, ...]) -> Any:
        values = dict(self)
        return next((values[name] for name in names if name in values), None)


def _from_dict(path: Path, content: Any) -> Iterator[Entry]:
    if not isinstance(content, dict | _Object):
        raise DataError(f"the captions {path} are a {type(content).__name__}; expected a dict from "
                        "video path to a caption or a list of captions")
    pairs = content.items() if isinstance(content, dict) else content
    for number, (video, caption) in enumerate(pairs, 1):
        yield from _entries(video, caption, f"entry {number}")


def _from_object(item: object, where: str) -> Iterator[Entry]:
    if not isinstance(item, _Object) or (video := item.field(VIDEO_FIELDS)) is None:
        yield Entry(None, None, f"{where}: not an object with a field {VIDEO_FIELDS[0]!r}")
    else:
        yield from _entries(video, item.field(CAPTION_FIELDS), where)


def _entries(video: object, caption: object, where: str) -> Iterator[Entry]:
    if isinstance(caption, list | tuple) and not isinstance(caption, _Object):
        for one in caption or [""]:  # No caption at all counts as an empty one.
            yield Entry(video, one, where)
    else:
        yield Entry(video, caption, where)


_READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".pt": _read_pt, ".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv,
}
