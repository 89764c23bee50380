"""The files of a summary: every number for other programs, and the tables for people."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openvclip.report.retrieval_numbers import name_numbers
from openvclip.report.summary.collect import Summary
from openvclip.report.summary.columns import Column
from openvclip.report.summary.formats import format_html, format_markdown
from openvclip.report.summary.published import Published
from openvclip.report.summary.retrieval import RetrievalRow
from openvclip.report.summary.rows import ModelRow, Result
from openvclip.report.summary.sections import Section
from openvclip.report.summary.sweeps import save_sweeps
from openvclip.utils.errors import DataError
from openvclip.utils.files import explain_refusal, replacing
from openvclip.utils.text import show_row

Lines = list[list[Any]]  # of a CSV file, the header first


# ---- CSV: numbers have two decimals ------------------------------------------------------------
def build_csv(summary: Summary) -> Lines:
    """Make the zero-shot table."""
    header = ["backbone", "method", "source", "checkpoint", "temporal_modeling", "patching_ratio",
              "prompts"]
    for column in summary.columns:
        header += [f"{column.key}_mean", f"{column.key}_std", f"{column.key}_lists"] if (
            column.several) else [column.key]
    lines: Lines = [header]
    rows: list[ModelRow | Published] = [*summary.rows, *summary.published]
    for row in rows:
        facts = row.facts if isinstance(row, ModelRow) else {}
        source = f"published: {row.source}" if isinstance(row, Published) else "ours"
        line = [row.backbone, row.label, source, (facts.get("checkpoint") or {}).get("file"),
                *map(facts.get, ("temporal_modeling", "patching_ratio", "prompt_set"))]
        for column in summary.columns:
            numbers = _say_numbers(row.number(column.key) or (None, None))
            lists = len(row.cells.get(column.key, ())) if isinstance(row, ModelRow) else 0
            line += [*numbers, lists or None] if column.several else numbers[:1]
        lines.append(line)
    return _blank(lines)


def _say_numbers(numbers: Iterable[float | None]) -> list[str | None]:
    return [None if number is None else f"{number:.2f}" for number in numbers]


def _blank(lines: Lines) -> Lines:
    return [["" if value is None else value for value in line] for line in lines]


def build_sections_csv(sections: Sequence[Section]) -> Lines:
    """Make one file of the tables over seeds, with one line per number."""
    lines: Lines = [["table", "dataset", "backbone", "method", "tested_with", "measure", "mean",
                     "std", "seeds"]]
    for section in sections:
        lines += [
            [section.key, line.dataset, line.backbone, line.method, line.setup, heading,
             *_say_numbers(number), len(line.seeds_of(column))]
            for line in section.lines for column, heading in section.columns.items()
            if (number := line.number(column))
        ]
    return _blank(lines)


def build_retrieval_csv(rows: Sequence[RetrievalRow]) -> Lines:
    """Make the retrieval table."""
    lines: Lines = [["list", "split", "videos", "texts", "failed", "backbone", "method",
                     "checkpoint", "temporal_modeling", "patching_ratio", *name_numbers()]]
    for line in rows:
        run, facts, about = line.result.run, line.row.facts, line.result.run.about("captions")
        lines.append([
            run.content["list"], about.get("split"), run.content["videos"], about.get("count"),
            run.failed, line.row.backbone, line.row.label, run.about("checkpoint").get("file"),
            facts["temporal_modeling"], facts["patching_ratio"], *_say_numbers(line.numbers),
        ])
    return _blank(lines)


# ---- JSON: every number that the tables were made from -----------------------------------------
def build_json(summary: Summary) -> dict[str, Any]:
    """Make the content of the JSON file."""
    sweeps = summary.sweeps
    content = {
        "metric": "top-1 accuracy in percent",
        "std": "population standard deviation (ddof 0)",
        "columns": [
            {"key": column.key, "title": column.title, "about": column.describe(),
             "protocols": [protocol.name for protocol in column.protocols]}
            for column in summary.columns
        ],
        "rows": [_describe_row(row, summary.columns) for row in summary.rows],
        "published": [
            {"backbone": row.backbone, "method": row.label, "source": row.source,
             "numbers": {k: {"mean": m, "std": s} for k, (m, s) in row.numbers.items()}}
            for row in summary.published
        ],
        "sweeps": {"curves": sweeps.curves, "trained": sweeps.trained,
                   "zero_shot": sweeps.zero_shot},
        "tables": [_describe_section(section) for section in summary.sections],
        "notes": [
            {"kind": note.kind, "rows": list(note.rows), "text": note.text}
            for note in summary.notes
        ],
    }
    if summary.retrieval:
        content["retrieval"] = [_describe_retrieval(line) for line in summary.retrieval]
    return content


def _describe_row(row: ModelRow, columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "backbone": row.backbone, "method": row.label, "name": row.name, **row.facts,
        "cells": {
            column.key: {
                "mean": cell.mean, "std": cell.std, "lists": len(cell.results),
                "of": len(column.protocols), "marks": cell.marks,
                "results": {name: _describe_result(r) for name, r in cell.results.items()},
            }
            for column in columns if (cell := row.cell(column))
        },
    }


def _describe_result(result: Result) -> dict[str, Any]:
    run = result.run
    scores = {name: value for name, value in result.scores.items() if name != "patching_ratio"}
    return {
        **scores, "videos": run.content["videos"], "failed": run.failed, "folder": str(run.folder),
        "derived": "derived_from" in run.content,
        "differences": list(result.faults),
    }


def _describe_section(section: Section) -> dict[str, Any]:
    return {
        "key": section.key, "title": section.title, "about": section.footer,
        "columns": section.columns,
        "lines": [
            {
                "dataset": line.dataset, "protocol": line.protocol, "backbone": line.backbone,
                "method": line.method, "tested_with": line.setup,
                "cells": {
                    key: {
                        "mean": cell.mean, "std": cell.std, "marks": cell.marks,
                        "seeds": line.seeds_of(key),
                        "results": {seed: {"value": r.value, "folder": str(r.run.folder)}
                                    for seed, r in cell.results.items()},
                    }
                    for key, heading in section.columns.items()
                    if (cell := line.cell(Column(key, heading)))
                },
            }
            for line in section.lines
        ],
    }


def _describe_retrieval(line: RetrievalRow) -> dict[str, Any]:
    run = line.result.run
    return {
        "list": run.content["list"], "captions": run.content.get("captions"),
        "videos": run.content["videos"], "failed": run.failed,
        "backbone": line.row.backbone, "method": line.row.label, **line.row.facts,
        **dict(zip(name_numbers(), line.numbers, strict=True)),
        "folder": str(run.folder), "replaced": list(line.replaced),
    }


# ---- Files -------------------------------------------------------------------------------------
def save_summary(summary: Summary, folder: str | Path, *, page: bool = False) -> list[Path]:
    """Write ``summary.md``, ``summary.csv`` and ``summary.json`` into ``folder``.

    With ``page`` also ``summary.html``; if something was tested at several patching ratios,
    ``accuracy_vs_ratio.png``. The numbers of few-shot, base-to-novel and supervised tables go to
    ``summary_protocols.csv``, those of retrieval to ``retrieval.csv``.

    Returns:
        The files.

    Raises:
        DataError: they cannot be written.
    """
    files: dict[str, str | Lines] = {
        "summary.md": format_markdown(summary),
        "summary.csv": build_csv(summary),
        "summary.json": json.dumps(build_json(summary), indent=1, ensure_ascii=False) + "\n",
    }
    if summary.retrieval:
        files["retrieval.csv"] = build_retrieval_csv(summary.retrieval)
    if summary.sections:
        files["summary_protocols.csv"] = build_sections_csv(summary.sections)
    if page:
        files["summary.html"] = format_html(summary)
    paths = [Path(folder) / name for name in files]
    try:
        for path, content in zip(paths, files.values(), strict=True):
            with replacing(path) as file:
                if isinstance(content, str):
                    file.write(content)
                else:
                    csv.writer(file, lineterminator="\n").writerows(map(show_row, content))
    except OSError as error:
        raise DataError(
            f"cannot write the summary into {folder}: {explain_refusal(error)}; "
            "give another --output"
        ) from error
    picture = save_sweeps(summary.sweeps, folder)
    return paths if picture is None else [*paths, picture]
