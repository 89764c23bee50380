"""The tables of a summary as texts, whatever format they are written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from openvclip.report.retrieval_numbers import COLUMNS, DIRECTIONS, TITLES
from openvclip.report.summary.collect import Summary
from openvclip.report.summary.columns import Column
from openvclip.report.summary.published import Number
from openvclip.report.summary.retrieval import RetrievalRow, collect_retrieval_notes
from openvclip.report.summary.rows import CLIP, Row, backbone_place
from openvclip.report.summary.sections import Section
from openvclip.utils.text import clean

PUBLISHED = (
    "Several lists: mean ± population standard deviation (ddof 0) over them. Published numbers are "
    "the papers' and were not measured here; their deviations are as printed there."
)
RETRIEVAL = (
    "T2V: the video of a text among all videos; V2T: the best of a video's texts among all texts. "
    "R@k in percent, median (MdR) and mean (MnR) rank; tied answers share the mean of their "
    "places."
)
RETRIEVAL_COLUMNS = [
    Column(f"{direction}_{name}", title, direction.upper())
    for direction in DIRECTIONS for name, title in zip(COLUMNS, TITLES, strict=True)
]
LABEL_WIDTH = 40  # Longer names are cut in the terminal; the files have them whole.


class TableRow(NamedTuple):
    """One row of a table."""

    about: Sequence[str]  # what a file has before the numbers
    label: Sequence[str]  # what the terminal has there
    heading: str  # what stands above it in the terminal, once for all rows of the same
    cells: Sequence[str]  # a text for each column


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str
    about: Sequence[str]  # headings of what a file has before the numbers
    label: Sequence[str]  # headings of what the terminal has there
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    footer: str  # what stands below it, whatever the results are
    side: str = "left"  # where numbers are aligned: all of a column have the same decimals
    legend: Sequence[str] = ()  # what the columns are
    sources: Sequence[str] = ()  # what numbers in brackets are; files have it in the rows
    notes: Sequence[str] = ()  # what the reader must know of these results

    @property
    def header(self) -> list[str]:
        """The header in a file."""
        return [*self.about, *(column.title for column in self.columns)]

    @property
    def cells(self) -> list[list[str]]:
        """The rows in a file."""
        return [[*row.about, *row.cells] for row in self.rows]


def list_tables(summary: Summary) -> Iterator[Table]:
    """Yield all tables that have results, in order."""
    if summary.zero_shot:
        yield _tabulate_zero_shot(summary)
    yield from map(_tabulate_section, summary.sections)
    if summary.retrieval:
        yield _tabulate_retrieval(summary.retrieval)


def say_number(number: Number | None, marks: str = "") -> str:
    """Format a mean with its deviation and marks."""
    if number is None:
        return "-"
    mean, std = number
    return f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}") + marks


def shorten(label: str) -> str:
    """Cut the middle out of a long name, for a table in the terminal."""
    label = clean(label)
    if len(label) <= LABEL_WIDTH:
        return label
    head = LABEL_WIDTH // 2 - 2
    return f"{label[:head]}...{label[len(label) - (LABEL_WIDTH - head - 3):]}"


def _say_cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return [say_number(row.number(column.key), row.marks(column.key)) for column in columns]


def _tabulate_zero_shot(summary: Summary) -> Table:
    sources = list(dict.fromkeys(row.source for row in summary.published))
    ours, published = ({row.backbone for row in rows} for rows in (summary.rows, summary.published))
    # Those with published numbers only come last.
    backbones = sorted(ours | published, key=lambda name: (name not in ours, backbone_place(name)))
    rows = []
    for backbone in backbones:
        name = "unknown backbone" if backbone == "?" else backbone
        rows += [
            TableRow((name, row.label, "ours"), [shorten(row.label)], name,
                     _say_cells(row, summary.columns))
            for row in summary.rows if row.backbone == backbone
        ]
        rows += [
            TableRow((name, row.label, f"published: {row.source}"),
                     [f"{row.label} [{sources.index(row.source) + 1}]"],
                     f"{backbone}, published by others",
                     [say_number(row.number(column.key)) for column in summary.columns])
            for row in summary.published if row.backbone == backbone
        ]
    others = [name for name in backbones if name not in published and name != "?"]
    return Table(
        "Zero-shot top-1 accuracy (%)", ("backbone", "method", "source"), [""],
        summary.columns, rows,
        PUBLISHED + (f" None are known for {', '.join(others)}." if others else ""),
        legend=[column.describe() for column in summary.columns],
        sources=[f"[{place}] {source}" for place, source in enumerate(sources, 1)],
    )


def _tabulate_section(section: Section) -> Table:
    columns = [Column(key, heading) for key, heading in section.columns.items()]
    rows = []
    for line in section.lines:
        seeds = ", ".join(seed for seed in line.seeds if seed != CLIP) or "-"
        backbone = "unknown" if line.backbone == "?" else line.backbone
        rows.append(TableRow(
            (line.dataset, backbone, line.method, line.setup),
            (line.dataset, backbone, shorten(line.method), line.setup), "",
            [*_say_cells(line, columns), seeds],
        ))
    about = ("dataset", "backbone", "method", "tested with")
    return Table(section.title, about, about, [*columns, Column("seeds", "seeds")], rows,
                 section.footer)


def _tabulate_retrieval(lines: Sequence[RetrievalRow]) -> Table:
    rows = [
        TableRow(
            (line.list, line.size, line.row.backbone, line.row.label),
            [f"{line.row.backbone.replace('?', '')} {shorten(line.row.label)}"],
            f"{line.list}: {line.size} (videos x texts)",
            [f"{number:.1f}" for number in line.numbers],
        )
        for line in lines
    ]
    return Table(
        "Retrieval between videos and texts", ("list", "videos x texts", "backbone", "method"),
        [""], RETRIEVAL_COLUMNS, rows, RETRIEVAL, side="right",
        notes=list(collect_retrieval_notes(lines)),
    )
