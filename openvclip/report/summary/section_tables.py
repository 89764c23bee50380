"""Few-shot, base-to-novel, supervised and own lists' tables in all formats, and their notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from openvclip.data.lists.draws import parse_draw
from openvclip.report.checks import count_trained, say_trained
from openvclip.report.summary.notes import Note
from openvclip.report.summary.rows import CLIP
from openvclip.report.summary.sections import SHOTS, Line, Section, Test, find_draw
from openvclip.utils.text import clean

GAP = "  "
LABEL_WIDTH = 40  # Longer names are cut in the terminal; the files have them whole.
FOOTERS = {
    "few_shot": "K: training videos a class.",
    "base_to_novel": "Trained on the base classes. HM: harmonic mean 2bn / (b + n) of the two "
                     "means, over the seeds that have both.",
    "supervised": "Trained and tested on the same classes.",
    "own": "Lists of no known protocol, called by their folders; zero-shot where the weights were "
           "not trained on their classes.",
}
SEVERAL = "Several seeds: mean ± population standard deviation (ddof 0) over them."


def _cell(line: Line, column: str) -> str:
    number = line.number(column)
    if number is None:
        return "-"
    mean, std = number
    return f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}") + line.marks(column)


def _table(section: Section) -> list[list[str]]:
    """Cells of the table, the header first."""
    rows = [["dataset", "backbone", "method", "tested with", *section.columns.values(), "seeds"]]
    for line in section.lines:
        seeds = ", ".join(seed for seed in line.seeds if seed != CLIP) or "-"
        backbone = "unknown" if line.backbone == "?" else line.backbone
        rows.append([line.dataset, backbone, line.method, line.setup,
                     *(_cell(line, column) for column in section.columns), seeds])
    return rows


def _footer(section: Section) -> str:
    several = any(len(line.seeds) > 1 for line in section.lines)
    raw = " K = 0 is the untouched CLIP." if "0" in section.columns else ""
    return FOOTERS[section.key] + raw + (f" {SEVERAL}" if several else "")


def shorten(label: str) -> str:
    """Cut the middle out of a long name, for a table in the terminal."""
    label = clean(label)
    if len(label) <= LABEL_WIDTH:
        return label
    head = LABEL_WIDTH // 2 - 2
    return f"{label[:head]}...{label[len(label) - (LABEL_WIDTH - head - 3):]}"


def format_sections_text(sections: Sequence[Section], width: int) -> list[str]:
    """Format each table, with its title and footer, as plain text."""
    parts = []
    for section in sections:
        rows = [[*row[:2], shorten(row[2]), *row[3:]] for row in _table(section)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            GAP.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
        parts += [section.title, "\n".join([lines[0], rule, *lines[1:], rule]),
                  textwrap.fill(_footer(section), width, subsequent_indent="  ")]
    return parts


def list_markdown(sections: Sequence[Section]) -> Iterator[tuple[str, list[list[str]], str]]:
    """Give title, cells (the header first) and footer of each table."""
    for section in sections:
        yield section.title, _table(section), _footer(section)


def build_sections_csv(sections: Sequence[Section]) -> list[list[Any]]:
    """Make the lines of a CSV file, one a number, the header first; two decimals."""
    lines: list[list[Any]] = [["table", "dataset", "backbone", "method", "tested_with", "measure",
                               "mean", "std", "seeds"]]
    for section in sections:
        for line in section.lines:
            for column, heading in section.columns.items():
                number = line.number(column)
                if number is None:
                    continue
                mean, std = number
                lines.append([
                    section.key, line.dataset, line.backbone, line.method, line.setup, heading,
                    f"{mean:.2f}", "" if std is None else f"{std:.2f}",
                    len(_seeds_of(line, column)),
                ])
    return lines


def _seeds_of(line: Line, column: str) -> list[str]:
    parts = ("base", "novel") if column == "hm" else (column,)
    return [seed for seed in line.seeds if all(seed in line.cells.get(p, {}) for p in parts)]


def build_sections_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Make the JSON of the tables: every number that they were made from."""
    return [
        {
            "key": section.key, "title": section.title, "about": _footer(section),
            "columns": section.columns,
            "lines": [
                {
                    "dataset": line.dataset, "protocol": line.protocol, "backbone": line.backbone,
                    "method": line.method, "tested_with": line.setup,
                    "cells": {
                        column: _json_cell(line, column) for column in section.columns
                        if line.number(column) is not None
                    },
                }
                for line in section.lines
            ],
        }
        for section in sections
    ]


def _json_cell(line: Line, column: str) -> dict[str, Any]:
    mean, std = line.number(column)
    return {
        "mean": mean, "std": std, "marks": line.marks(column), "seeds": _seeds_of(line, column),
        "results": {
            seed: {"value": test.value, "folder": str(test.run.folder)}
            for seed, test in line.cells.get(column, {}).items()
        },
    }


# ---- Notes -------------------------------------------------------------------------------------
def collect_section_notes(sections: Sequence[Section]) -> list[Note]:
    """Say what is missing, what failed, and what was trained on something else."""
    notes = []
    for section in sections:
        for line in section.lines:
            what = {"few_shot": _shots, "base_to_novel": _halves}.get(section.key, _nothing)
            notes += [Note(kind, f"{line.name}: {text}") for kind, text in what(line)]
            notes += [Note(kind, f"{line.name}: {text}") for kind, text in _of_tests(line)]
    return notes


def _nothing(line: Line) -> Iterator[tuple[str, str]]:
    yield from ()


def _shots(line: Line) -> Iterator[tuple[str, str]]:
    if list(line.cells) == ["0"]:
        return
    missing = [str(shots) for shots in SHOTS if str(shots) not in line.cells]
    if missing:
        yield "missing", f"no results with K = {', '.join(missing)}"
    for shots, cell in sorted(line.cells.items(), key=lambda item: int(item[0])):
        lacking = [seed for seed in line.seeds if seed not in cell]
        if lacking:
            yield "partial", f"K = {shots} lacks the seeds {', '.join(lacking)}"


def _halves(line: Line) -> Iterator[tuple[str, str]]:
    base, novel = line.cells.get("base", {}), line.cells.get("novel", {})
    for here, there, name, other in ((base, novel, "base", "novel"), (novel, base, "novel",
                                                                      "base")):
        lone = [test for seed, test in here.items() if seed not in there]
        for test in lone:
            yield ("missing" if not there else "partial"), (
                f"seed {test.seed}: {test.run.folder} tests the {name} classes, but no test of the "
                f"{other} classes with the same weights was found; no harmonic mean"
            )


def _of_tests(line: Line) -> Iterator[tuple[str, str]]:
    tests = [test for cell in line.cells.values() for test in cell.values()]
    folders = {str(test.run.folder): test for test in tests}
    for folder, test in folders.items():
        failed = len(test.run.content["failed"])
        if failed:
            yield "failed", f"{folder}: {failed:,} of {test.run.content['videos']:,}"
        if count_trained(test.run.content):
            yield "seen", f"{folder}: {say_trained(test.run.content)}"
        said = _say_training(test)
        if said:
            yield "training", f"{folder}: {said}"
    for shown, left_out in line.replaced:
        yield "replaced", (f"seed {shown.seed}: shown is {shown.run.folder} (newer, "
                           f"{shown.value:.1f}), left out {left_out.run.folder} "
                           f"({left_out.value:.1f})")


def _say_training(test: Test) -> str:
    """Point out weights that were not trained on the draw that the test belongs to."""
    content = test.run.content
    if test.weights is None or parse_draw(content.get("draw")) is None:
        return ""
    trained = content.get("trained_on")
    file = (content.get("checkpoint") or {}).get("file")
    if not isinstance(trained, dict):
        return f"what {file} was trained on is not known: no config.yaml of a training beside it"
    draw, wanted = parse_draw(trained.get("draw")), find_draw(content)
    if draw is None or (draw.dataset, draw.shots, draw.seed) != (
            wanted.dataset, wanted.shots, wanted.seed) or (
            (draw.kind == "few-shot") != (wanted.kind == "few-shot")):
        return f"{file} was trained on {trained.get('list')}, not on these lists' draw"
    return ""
