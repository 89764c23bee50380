"""The tables as text for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from openvclip.report.retrieval_numbers import DIRECTIONS, TITLES
from openvclip.report.summary.collect import Summary
from openvclip.report.summary.columns import Column
from openvclip.report.summary.notes import HEADINGS, Note
from openvclip.report.summary.published import Number, Published
from openvclip.report.summary.retrieval_tables import (
    HEADER,
    collect_retrieval_notes,
    retrieval_cells,
    retrieval_csv,
    retrieval_json,
)
from openvclip.report.summary.retrieval_tables import LEGEND as RETRIEVAL_LEGEND
from openvclip.report.summary.retrieval_tables import TITLE as RETRIEVAL_TITLE
from openvclip.report.summary.rows import Cell, Result, Row
from openvclip.report.summary.section_tables import (
    build_sections_csv,
    build_sections_json,
    format_sections_text,
    list_markdown,
    shorten,
)
from openvclip.report.summary.sweeps import PICTURE, save_sweeps
from openvclip.utils.errors import DataError
from openvclip.utils.files import explain_refusal, replacing
from openvclip.utils.text import clean, show_row

TITLE = "Zero-shot top-1 accuracy (%)"
FOOTER = (
    "Several lists: mean ± population standard deviation (ddof 0) over them. Published numbers are "
    "the papers' and were not measured here; their deviations are as printed there."
)
GAP = "  "


def _say_number(number: Number | None, marks: str = "") -> str:
    if number is None:
        return "-"
    mean, std = number
    return f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}") + marks


def _say_cell(cell: Cell | None) -> str:
    return "-" if cell is None else _say_number((cell.mean, cell.std), cell.marks)


def _cells(row: Row | Published, columns: Sequence[Column]) -> list[str]:
    if isinstance(row, Row):
        return [_say_cell(row.cell(column)) for column in columns]
    return [_say_number(row.numbers.get(column.key)) for column in columns]


def _sources(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row.source for row in summary.published))


def _of_backbone(summary: Summary, backbone: str) -> tuple[list[Row], list[Published]]:
    return (
        [row for row in summary.rows if row.backbone == backbone],
        [row for row in summary.published if row.backbone == backbone],
    )


def _footer(summary: Summary) -> str:
    published = {row.backbone for row in summary.published}
    others = [name for name in summary.backbones if name not in published and name != "?"]
    return FOOTER + (f" None are known for {', '.join(others)}." if others else "")


def _name_backbone(backbone: str) -> str:
    return "unknown backbone" if backbone == "?" else backbone


# ---- Terminal ----------------------------------------------------------------------------------
def format_text(summary: Summary, width: int = 120) -> str:
    """Format tables and notes as plain text; a zero-shot table too wide is split by dataset."""
    parts = _text_zero_shot(summary, width) if summary.zero_shot else []
    parts += format_sections_text(summary.sections, width)
    if summary.retrieval:
        parts += [RETRIEVAL_TITLE, _text_retrieval(summary), _wrap(RETRIEVAL_LEGEND, width)]
        notes = [_wrap(text, width) for text in collect_retrieval_notes(summary.retrieval)]
        parts += ["\n".join(notes)] if notes else []
    return "\n\n".join(parts + _text_notes(summary, width)) + "\n"


def _text_zero_shot(summary: Summary, width: int) -> list[str]:
    labels, sections = _text_rows(summary)
    label_width = max(map(len, labels), default=0)
    groups = [list(group) for _, group in groupby(summary.columns, key=lambda c: c.dataset)]
    blocks: list[list[Column]] = [[]]
    for group in groups:
        if blocks[-1] and label_width + _columns_width(summary, blocks[-1] + group) > width:
            blocks.append([])
        blocks[-1] += group
    parts = [TITLE]
    for columns in blocks:
        parts.append(_text_table(sections, columns, label_width))
    parts.append("\n".join(_wrap(line, width) for line in _legend(summary)))
    return parts


def _text_retrieval(summary: Summary) -> str:
    """The retrieval table: a heading for each list, and a line for each model."""
    cells = retrieval_cells(summary.retrieval)
    lines = [
        ["", *(way.upper() for way in DIRECTIONS for _ in TITLES)],
        ["", *(title for _ in DIRECTIONS for title in TITLES)],
        *([f"  {backbone.replace('?', '')} {shorten(label)}", *numbers]
          for _, _, backbone, label, *numbers in cells),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        GAP.join([label.ljust(widths[0]),
                  *(cell.rjust(width) for cell, width in zip(row, widths[1:], strict=True))])
        for label, *row in lines
    ]
    rule = "-" * len(text[0])
    heads = [f"{name}: {size} (videos x texts)" for name, size, *_ in cells]
    body = []
    for head, group in groupby(zip(heads, text[2:], strict=True), key=lambda pair: pair[0]):
        body += [head, *(line for _, line in group)]
    return "\n".join([*text[:2], rule, *body, rule])


def _text_rows(summary: Summary) -> tuple[list[str], list[tuple[str, Row | Published | None]]]:
    """Lines of the table: what stands at their beginning, and the row, None for a heading."""
    sources = _sources(summary)
    lines: list[tuple[str, Row | Published | None]] = []
    for backbone in summary.backbones:
        ours, published = _of_backbone(summary, backbone)
        if ours:
            lines.append((_name_backbone(backbone), None))
            lines += [(f"  {shorten(row.label)}", row) for row in ours]
        if published:
            lines.append((f"{backbone}, published by others", None))
            lines += [
                (f"  {row.method} [{sources.index(row.source) + 1}]", row) for row in published
            ]
    return [label for label, _ in lines], lines


def _column_width(summary: Summary, column: Column) -> int:
    rows = (*summary.rows, *summary.published)
    return max(len(text) for text in (
        column.dataset, column.kind, *(_cells(row, [column])[0] for row in rows)
    ))


def _columns_width(summary: Summary, columns: Sequence[Column]) -> int:
    return sum(len(GAP) + _column_width(summary, column) for column in columns)


def _text_table(
    lines: Sequence[tuple[str, Row | Published | None]], columns: Sequence[Column],
    label_width: int,
) -> str:
    """One block of columns; numbers are aligned at their left, as all have two digits."""
    rows = [
        ["", *(column.dataset for column in columns)],
        ["", *(column.kind for column in columns)],
        *([label] if row is None else [label, *_cells(row, columns)] for label, row in lines),
    ]
    widths = [label_width] + [
        max(len(cells[place]) for cells in rows if len(cells) > 1)
        for place in range(1, len(columns) + 1)
    ]
    text = [
        GAP.join(cell.ljust(size) for cell, size in zip(cells, widths, strict=False)).rstrip()
        for cells in rows
    ]
    rule = "-" * (sum(widths) + len(GAP) * len(columns))
    return "\n".join([*text[:2], rule, *text[2:], rule])


def _legend(summary: Summary) -> list[str]:
    """What stands below the table whatever the results are."""
    lines = [column.describe() for column in summary.columns]
    lines.append(_footer(summary))
    lines += [f"[{i}] {source}" for i, source in enumerate(_sources(summary), 1)]
    return lines


def _wrap(text: str, width: int, first: str = "", rest: str = "  ") -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    )


def _notes_by_heading(summary: Summary) -> Iterator[tuple[str, list[str]]]:
    """Give each heading that there are notes for, with their text."""
    for kind, notes in groupby(summary.notes, key=lambda note: note.kind):
        yield HEADINGS[kind], [_say_note(summary, note) for note in notes]


def _say_note(summary: Summary, note: Note) -> str:
    if not note.rows:
        return clean(note.text)
    every = len(summary.rows) > 1 and len(note.rows) == len(summary.rows)
    return clean(("all rows" if every else "; ".join(note.rows)) + f": {note.text}")


def _text_notes(summary: Summary, width: int) -> list[str]:
    return [
        "\n".join([heading, *(_wrap(text, width, "  - ", "    ") for text in texts)])
        for heading, texts in _notes_by_heading(summary)
    ]


# ---- Files -------------------------------------------------------------------------------------
def format_markdown(summary: Summary) -> str:
    """Format tables and notes as GitHub's Markdown."""
    parts = _zero_shot_markdown(summary) if summary.zero_shot else []
    for title, rows, footer in list_markdown(summary.sections):
        parts += ["", f"# {title}", "", *_markdown_table(rows[0], rows[1:]), "", footer]
    if summary.retrieval:
        header = ["list", "videos x texts", "backbone", "method", *HEADER]
        parts += [
            "", f"# {RETRIEVAL_TITLE}", "",
            *_markdown_table(header, retrieval_cells(summary.retrieval)), "", RETRIEVAL_LEGEND,
            *(line for text in collect_retrieval_notes(summary.retrieval)
              for line in ("", _escape(text))),
        ]
    if summary.sweeps.curves:
        parts += ["", f"![Accuracy against the patching ratio]({PICTURE})"]
    for heading, texts in _notes_by_heading(summary):
        parts += ["", f"## {heading}", "", *(f"- {_escape(text)}" for text in texts)]
    return "\n".join(parts).lstrip("\n") + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows),
    ]


def _zero_shot_markdown(summary: Summary) -> list[str]:
    header = ["backbone", "method", "source", *(column.title for column in summary.columns)]
    rows = []
    for backbone in summary.backbones:
        ours, published = _of_backbone(summary, backbone)
        name = _name_backbone(backbone)
        rows += [[name, row.label, "ours", *_cells(row, summary.columns)] for row in ours]
        rows += [
            [name, row.method, f"published: {row.source}", *_cells(row, summary.columns)]
            for row in published
        ]
    return [
        f"# {TITLE}", "", *_markdown_table(header, rows), "",
        *(f"- {_escape(column.describe())}" for column in summary.columns), "",
        _footer(summary),
    ]


def _escape(text: str) -> str:
    text = clean(text)
    for sign in "\\|*`<":
        text = text.replace(sign, f"\\{sign}")
    return text


def build_csv(summary: Summary) -> list[list[Any]]:
    """Make the lines of the CSV file, the header first; numbers have two decimals."""
    header = ["backbone", "method", "source", "checkpoint", "temporal_modeling", "patching_ratio",
              "prompts"]
    for column in summary.columns:
        header += [f"{column.key}_mean", f"{column.key}_std", f"{column.key}_lists"] if (
            column.several) else [column.key]
    lines: list[list[Any]] = [header]
    for row in (*summary.rows, *summary.published):
        if isinstance(row, Row):
            checkpoint = (row.facts["checkpoint"] or {}).get("file", "")
            line = [row.backbone, row.label, "ours", checkpoint,
                    row.facts["temporal_modeling"], row.facts["patching_ratio"],
                    row.facts["prompt_set"]]
        else:
            line = [row.backbone, row.method, f"published: {row.source}", "", "", "", ""]
        for column in summary.columns:
            line += _csv_cell(row, column)
        lines.append(["" if value is None else value for value in line])
    return lines


def _csv_cell(row: Row | Published, column: Column) -> list[Any]:
    if isinstance(row, Row):
        cell = row.cell(column)
        number, count = (cell and (cell.mean, cell.std)), cell and len(cell.members)
    else:
        number, count = row.numbers.get(column.key), None
    values = [None if value is None else f"{value:.2f}" for value in number or (None, None)]
    return [*values, count] if column.several else values[:1]


def build_json(summary: Summary) -> dict[str, Any]:
    """Make the content of the JSON file: every number that the table was made from."""
    return {
        "metric": "top-1 accuracy in percent",
        "std": "population standard deviation (ddof 0)",
        "columns": [
            {"key": column.key, "title": column.title, "about": column.describe(),
             "protocols": [protocol.name for protocol in column.protocols]}
            for column in summary.columns
        ],
        "rows": [_json_row(row, summary.columns) for row in summary.rows],
        "published": [
            {"backbone": row.backbone, "method": row.method, "source": row.source,
             "numbers": {k: {"mean": m, "std": s} for k, (m, s) in row.numbers.items()}}
            for row in summary.published
        ],
        "sweeps": {
            "curves": summary.sweeps.curves, "trained": summary.sweeps.trained,
            "zero_shot": summary.sweeps.zero_shot,
        },
        "tables": build_sections_json(summary.sections),
        "notes": [
            {"kind": note.kind, "rows": list(note.rows), "text": note.text}
            for note in summary.notes
        ],
        **({"retrieval": retrieval_json(summary.retrieval)} if summary.retrieval else {}),
    }


def _json_row(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    cells = {column.key: cell for column in columns if (cell := row.cell(column))}
    return {
        "backbone": row.backbone, "method": row.label, "name": row.name, **row.facts,
        "cells": {
            key: {
                "mean": cell.mean, "std": cell.std, "lists": len(cell.members),
                "of": len(cell.column.protocols), "marks": cell.marks,
                "results": {name: _json_result(r) for name, r in cell.members.items()},
            }
            for key, cell in cells.items()
        },
    }


def _json_result(result: Result) -> dict[str, Any]:
    content = result.run.content
    scores = {name: value for name, value in result.scores.items() if name != "patching_ratio"}
    return {
        **scores, "videos": content["videos"], "failed": len(content["failed"]),
        "folder": str(result.run.folder), "derived": "derived_from" in content,
        "differences": [fault.what for fault in result.faults],
    }


def save_summary(summary: Summary, folder: str | Path) -> list[Path]:
    """Write ``summary.md``, ``summary.csv`` and ``summary.json`` into ``folder``.

    Where something was tested at several patching ratios, ``accuracy_vs_ratio.png`` as well. The
    numbers of few-shot, base-to-novel and supervised tables go to ``summary_protocols.csv``, those
    of retrieval to ``retrieval.csv``.

    Returns:
        The files.

    Raises:
        DataError: they cannot be written.
    """
    paths = [Path(folder) / f"summary.{ending}" for ending in ("md", "csv", "json")]
    try:
        with replacing(paths[0]) as file:
            file.write(format_markdown(summary))
        with replacing(paths[1]) as file:
            csv.writer(file, lineterminator="\n").writerows(map(show_row, build_csv(summary)))
        if summary.retrieval:
            paths.append(Path(folder) / "retrieval.csv")
            with replacing(paths[-1]) as file:
                csv.writer(file, lineterminator="\n").writerows(
                    map(show_row, retrieval_csv(summary.retrieval)))
        with replacing(paths[2]) as file:
            json.dump(build_json(summary), file, indent=1, ensure_ascii=False)
            file.write("\n")
        if summary.sections:
            paths.append(Path(folder) / "summary_protocols.csv")
            with replacing(paths[-1]) as file:
                csv.writer(file, lineterminator="\n").writerows(
                    map(show_row, build_sections_csv(summary.sections)))
    except OSError as error:
        raise DataError(
            f"cannot write the summary into {folder}: {explain_refusal(error)}; "
            "give another --output"
        ) from error
    picture = save_sweeps(summary.sweeps, folder)
    return paths if picture is None else [*paths, picture]
