"""Making one caption file of captions from anywhere, and a report of what is wrong with them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openvclip.data.captions.index import CaptionFile, caption_key, write_captions
from openvclip.data.captions.sources import Entry, read_captions
from openvclip.data.check.run import RawList, read_raw_list
from openvclip.data.lists.labels import is_text
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import replacing
from openvclip.utils.logging import Progress, get_logger
from openvclip.utils.text import clean

CONTEXT = 77  # Tokens of CLIP's text tower, start and end included.
# The terminal names this many of each kind of problem.
NAMED = 5
UNREADABLE, EMPTY, NOT_TEXT = "unreadable", "empty", "not_text"
REPEATED, SAME_NAME, OVER_LONG = "repeated", "same_name", "over_long"
MEANING = {
    UNREADABLE: "entries without a video path, left out",
    EMPTY: "empty or missing captions, left out",
    NOT_TEXT: "captions that are not text, left out",
    REPEATED: "captions that repeat one of the same video, left out",
    SAME_NAME: "captions of a path with the same name as an earlier one, left out",
    OVER_LONG: f"captions of more than {CONTEXT} tokens, kept, of which CLIP sees the beginning",
}

logger = get_logger(__name__)


def prepare_captions(
    captions: Sequence[str | Path],
    output: str | Path,
    *,
    count_tokens: Callable[[str], int],
    lists: Sequence[str | Path] = (),
    separator: str = ",",
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Write one caption file, and report problems and which listed videos have captions.

    Bad entries are counted and left out. Captions of several files are combined; in one file
    two paths that end in the same name are two videos, of which the first keeps its captions.

    Args:
        captions: files that :func:`openvclip.data.captions.sources.read_captions` reads.
        output: the caption file to write.
        count_tokens: returns the number of tokens of a caption, including start and end.
        lists: lists of ``path<separator>label`` rows to compare with.
        report: JSON file for the full report, if wanted.

    Returns:
        The content of the report.

    Raises:
        ConfigError: an option has an impossible value.
        DataError: a file cannot be read or written, or no caption is left.
    """
    started = time.monotonic()
    _check_options(captions, output, separator, report)
    raw = [read_raw_list(source, separator) for source in lists]
    collected = CaptionCollector(count_tokens)
    sources = []
    for source in dict.fromkeys(map(Path, captions)):
        logger.info("reading %s", source)
        entries = read_captions(source)
        sources.append({"file": str(source), "entries": len(entries)})
        collected.add(entries, str(source))
    if not collected.captions:
        raise DataError(_nothing_left(captions, collected.problems))
    write_captions(output, collected.captions)
    written = CaptionFile(output)
    result = {
        "output": str(output),
        "bytes": Path(output).stat().st_size,
        "sources": sources,
        "videos": len(written),
        "captions": written.count,
        "longest_tokens": collected.longest,
        "problems": {kind: {"count": len(names), "entries": names}
                     for kind, names in collected.problems.items()},
        **_compare(written, raw),
        "seconds": round(time.monotonic() - started, 1),
    }
    if report is not None:
        _write_report(report, result)
    return result


class CaptionCollector:
    """Sorts entries into captions of videos and problems.

    Attributes:
        captions: each video's captions in their order, by :func:`caption_key`.
        problems: the entries for each kind in ``MEANING``, named for people.
        longest: tokens of the longest caption.
    """

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        self.captions: dict[str, list[str]] = {}
        self.problems: dict[str, list[str]] = {kind: [] for kind in MEANING}
        self.longest = 0
        self._count_tokens = count_tokens

    def add(self, entries: Sequence[Entry], source: str) -> None:
        """Take the entries of one file."""
        progress = Progress(len(entries), f"captions of {source}", "entries")
        origins: dict[str, str] = {}
        for entry in entries:
            if problem := self._add(entry, origins):
                kind, name = problem
                self.problems[kind].append(name)
            progress.update()

    def _add(self, entry: Entry, origins: dict[str, str]) -> tuple[str, str] | None:
        video, caption, where = entry
        if video is None:
            return UNREADABLE, where
        if not isinstance(video, str) or not is_text(video) or not (key := caption_key(video)):
            return UNREADABLE, f"{where}: {_short(video)} is not a path"
        if caption is None or caption == "":
            return EMPTY, video
        if not isinstance(caption, str) or not is_text(caption):
            return NOT_TEXT, f"{video}: {_short(caption)}"
        text = " ".join(caption.split())
        if not text:
            return EMPTY, video
        origin = origins.setdefault(key, video)
        if origin != video:
            return SAME_NAME, f"{video} (first: {origin})"
        known = self.captions.setdefault(key, [])
        if text in known:
            return REPEATED, f"{video}: {text[:100]}"
        known.append(text)
        tokens = self._count_tokens(text)
        self.longest = max(self.longest, tokens)
        return (OVER_LONG, f"{video}: {tokens} tokens") if tokens > CONTEXT else None


def _short(value: object) -> str:
    return " ".join(ascii(value)[:200].split())[:100]


def _check_options(
    captions: Sequence[str | Path], output: str | Path, separator: str, report: str | Path | None
) -> None:
    if not separator:
        raise ConfigError("--separator is empty; give the text between path and label")
    if Path(output).is_dir():
        raise ConfigError(f"--output {output} is a folder; give the file to write")
    written = [os.path.realpath(path) for path in (output, report) if path is not None]
    if len(set(written)) < len(written):
        raise ConfigError(f"--output and --report are the same file {output}; give two")
    for source in captions:
        if os.path.realpath(source) in written:
            raise ConfigError(f"{source} would be replaced by its own result; choose another")


def _nothing_left(captions: Sequence[str | Path], problems: dict[str, list[str]]) -> str:
    counts = ", ".join(f"{len(names)} {kind.replace('_', ' ')} (first: {names[0]})"
                       for kind, names in problems.items() if names)
    files = ", ".join(map(str, captions))
    return f"no caption is left of {files}: {counts or 'there is no entry'}; nothing was written"


def _compare(captions: CaptionFile, lists: Sequence[RawList]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    for item in lists:
        match = captions.match(item.paths)
        used |= match.keys
        rows.append({
            "list": str(item.source), "videos": match.videos, "matched": match.matched,
            "rate": round(match.rate, 4), "example": item.paths[0],
            "unmatched": match.unmatched, "shared": match.shared,
        })
    unused = [key for key in captions.names() if key not in used] if lists else []
    return {"lists": rows, "unused": {"count": len(unused), "videos": unused}}


def _write_report(path: str | Path, result: dict[str, Any]) -> None:
    try:
        with replacing(path) as file:
            file.write(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"cannot write the report {path}: {error.strerror}") from error


def describe_preparation(result: dict[str, Any]) -> list[str]:
    """Return the lines that report the result of :func:`prepare_captions`."""
    several = result["captions"] - result["videos"]
    lines = [f"{result['videos']:,} videos with {result['captions']:,} captions"
             + ("" if several else ", one each")
             + f", the longest of {result['longest_tokens']} tokens"]
    for kind, problem in result["problems"].items():
        if problem["count"]:
            lines += _named(f"{MEANING[kind]}: {problem['count']:,}", problem["entries"])
    for row in result["lists"]:
        text = (f"{row['list']}: {row['matched']:,} of {row['videos']:,} videos have captions "
                f"({100 * row['rate']:.2f} %)")
        lines += _named(text, row["unmatched"], "without: ")
        if row["shared"]:
            lines += _named("  of these, with the captions of another video of the same name: "
                            f"{len(row['shared']):,}", row["shared"])
        if not row["matched"]:
            lines.append(f"  none matches: {row['example']!r} is looked up as "
                         f"{caption_key(row['example'])!r}; is --separator right?")
    unused = result["unused"]
    if unused["count"]:
        lines += _named(f"videos with captions that are in no list: {unused['count']:,}",
                        unused["videos"])
    size = result["bytes"] / 1e6
    lines.append(f"{result['output']}: {size:.1f} MB, {result['seconds']} s")
    return lines


def _named(text: str, names: Sequence[str], before: str = "") -> list[str]:
    lines = [clean(text), *(f"  {before}{clean(name)}" for name in names[:NAMED])]
    return [*lines, f"  and {len(names) - NAMED:,} more"] if len(names) > NAMED else lines
