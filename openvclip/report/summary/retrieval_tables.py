"""The retrieval results of a summary: rows of the same weights and list, as text and for files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvclip.report.checks import MARKS, count_trained, say_trained
from openvclip.report.retrieval_numbers import DIRECTIONS, TITLES, name_numbers
from openvclip.report.summary.rows import Result, Row, identify, sort_and_label
from openvclip.report.summary.runs import Run

TITLE = "Retrieval between videos and texts"
LEGEND = (
    "T2V: the video of a text among all videos; V2T: the best of a video's texts among all texts. "
    "R@k in percent, median (MdR) and mean (MnR) rank; answers that tie share the mean of their "
    "places."
)
HEADER = tuple(f"{direction.upper()} {title}" for direction in DIRECTIONS for title in TITLES)


@dataclass(frozen=True)
class RetrievalRow:
    """One line of the table: a list of videos and texts, tested with one set of weights.

    Attributes:
        list: name of the list, and its split if it has some.
        row: the weights, and how they are called.
        result: the numbers.
        replaced: folders of older results of the same, which are left out.
    """

    list: str
    row: Row
    result: Result
    replaced: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """How many videos and texts there are, and how many videos failed."""
        content = self.result.run.content
        texts = (content.get("captions") or {}).get("count")
        shown = f"{content['videos']:,} x " + ("?" if texts is None else f"{texts:,}")
        return shown + (MARKS["failed"] if content["failed"] else "") + (
            MARKS["seen"] if count_trained(content) else "")

    @property
    def numbers(self) -> list[float]:
        """The numbers, in the order of :data:`HEADER`."""
        return [self.result.scores[name] for name in name_numbers()]


def is_retrieval(run: Run) -> bool:
    """Whether a test's results are of retrieval."""
    return run.content.get("task") == "retrieval"


def group_retrieval(runs: Sequence[Run]) -> list[RetrievalRow]:
    """Make the lines of the table, by list, then by backbone and weights; newer results count."""
    rows: dict[tuple, Row] = {}
    found: dict[tuple, RetrievalRow] = {}
    names = _name_lists(runs)
    for run in sorted(runs, key=lambda run: run.written):
        for scores in run.content["results"]:
            weights, facts = identify(run, scores)
            key = weights, facts["patching_ratio"]
            row = rows.setdefault(key, Row(run.backbone, facts, weights))
            where = (_identify_list(run), key)
            old = found.get(where)
            replaced = (*old.replaced, str(old.result.run.folder)) if old else ()
            found[where] = RetrievalRow(names[where[0]], row, Result(run, scores), replaced)
    order = {id(row): place for place, row in enumerate(sort_and_label(list(rows.values())))}
    return sorted(found.values(), key=lambda line: (line.list, order[id(line.row)]))


def _identify_list(run: Run) -> str:
    """Return the digest of a list's pairs, or its path in results that lack it."""
    return str((run.content.get("captions") or {}).get("sha256") or run.content["list"])


def _name_lists(runs: Sequence[Run]) -> dict[str, str]:
    """Call each list by its file, and by its digest too where two files are called alike."""
    names = {}
    for run in runs:
        split = (run.content.get("captions") or {}).get("split")
        name = Path(run.content["list"]).name + (f", {split}" if split else "")
        names[_identify_list(run)] = name
    often = Counter(names.values())
    return {key: f"{name} ({key[:8]})" if often[name] > 1 else name for key, name in names.items()}


def collect_retrieval_notes(rows: Sequence[RetrievalRow]) -> list[str]:
    """Say what the reader of the table must know beside its numbers."""
    notes = []
    for line in rows:
        content = line.result.run.content
        if content["failed"]:
            notes.append(
                f"{MARKS['failed']} {line.row.name}, {line.list}: {len(content['failed']):,} of "
                f"{content['videos']:,} videos could not be decoded; they and their texts have the "
                "last rank"
            )
        if count_trained(content):
            notes.append(f"{MARKS['seen']} {line.row.name}, {line.list}: {say_trained(content)}; "
                         "not comparable with other numbers")
        if line.replaced:
            notes.append(f"{line.row.name}, {line.list}: shown is {line.result.run.folder} "
                         f"(newer), left out {', '.join(line.replaced)}")
    return notes


def retrieval_cells(rows: Sequence[RetrievalRow]) -> list[list[str]]:
    """Return the lines of the table as texts: list, videos x texts, backbone, method, numbers."""
    return [
        [line.list, line.size, line.row.backbone, line.row.label,
         *(f"{number:.1f}" for number in line.numbers)]
        for line in rows
    ]


def retrieval_csv(rows: Sequence[RetrievalRow]) -> list[list[Any]]:
    """Make the lines of the CSV file, the header first; numbers have two decimals."""
    lines: list[list[Any]] = [["list", "split", "videos", "texts", "failed", "backbone", "method",
                               "checkpoint", "temporal_modeling", "patching_ratio",
                               *name_numbers()]]
    for line in rows:
        content, facts = line.result.run.content, line.row.facts
        about = content.get("captions") or {}
        lines.append(["" if value is None else value for value in (
            content["list"], about.get("split"), content["videos"], about.get("count"),
            len(content["failed"]), line.row.backbone, line.row.label,
            (facts["checkpoint"] or {}).get("file"), facts["temporal_modeling"],
            facts["patching_ratio"], *(f"{number:.2f}" for number in line.numbers),
        )])
    return lines


def retrieval_json(rows: Sequence[RetrievalRow]) -> list[dict[str, Any]]:
    """Make the content of the JSON file."""
    return [
        {
            "list": line.result.run.content["list"],
            "captions": line.result.run.content.get("captions"),
            "videos": line.result.run.content["videos"],
            "failed": len(line.result.run.content["failed"]),
            "backbone": line.row.backbone, "method": line.row.label, **line.row.facts,
            **dict(zip(name_numbers(), line.numbers, strict=True)),
            "folder": str(line.result.run.folder), "replaced": list(line.replaced),
        }
        for line in rows
    ]
