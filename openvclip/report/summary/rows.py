"""The numbers of tests, one result per patching ratio, and the rows that they are put in."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.checks import MARKS, SetupCheck, count_trained, name_prompts
from openvclip.report.summary.columns import COLUMN_OF, Column
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256, Number
from openvclip.report.summary.runs import BACKBONES, Run

CLIP = "CLIP"


@dataclass(frozen=True)
class Result:
    """One number of a test at one patching ratio."""

    run: Run
    scores: dict[str, Any]  # the row of the test's ``results`` that the number is in
    score: str = "top1"  # the number's name there
    seed: str = ""  # in tables over seeds: of the draw and, where it is another, of the training
    faults: tuple[str, ...] = ()  # how the test differs from its protocol
    marks: str = ""  # marks to show after the number

    @property
    def value(self) -> float:
        """The number, an accuracy in percent or a rank; videos that failed count as wrong."""
        return self.scores[self.score]

    @property
    def ratio(self) -> float | None:
        """Patching ratio; None: not patched. CLIP patched with CLIP, as is published, is CLIP."""
        ratio = self.scores.get("patching_ratio")
        return None if ratio is None or self.run.weights is None else round(ratio, 6)

    @property
    def model(self) -> tuple[str | None, ...]:
        """What identifies backbone, weights and texts; with the ratio it identifies a row."""
        facts, run = self.facts, self.run
        clip = facts["clip"].get("sha256") or facts["clip"].get("source")
        return run.backbone, clip, run.weights, str(facts["temporal_modeling"]), facts["prompts"]

    @property
    def facts(self) -> dict[str, Any]:
        """The same, readable."""
        prompts = self.run.about("prompts")
        return {
            "clip": self.run.about("clip"), "checkpoint": self.run.about("checkpoint") or None,
            "temporal_modeling": self.run.content.get("temporal_modeling"),
            "patching_ratio": self.ratio, "prompts": prompts.get("sha256"),
            "prompt_set": name_prompts(prompts),
        }

    @property
    def method(self) -> str:
        """The file of the weights that were tested, and which of its weights, or CLIP."""
        checkpoint = self.run.about("checkpoint")
        if not checkpoint:
            return CLIP
        which = checkpoint.get("weights")
        return Path(str(checkpoint.get("file"))).name + (f", {which} weights" if which else "")


def list_results(runs: Sequence[Run]) -> list[Result]:
    """Return the results of all tests, one per patching ratio."""
    results = []
    for run in runs:
        marks = MARKS["failed"] if run.failed else ""
        marks += MARKS["seen"] if count_trained(run.content) else ""
        results += [Result(run, scores, marks=marks) for scores in run.content["results"]]
    return results


class Cell(NamedTuple):
    """One cell of a row: mean and deviation over its results by list or seed, and their marks."""

    mean: float
    std: float | None
    marks: str
    results: dict[str, Result]


@dataclass
class Row:
    """What a row of any table has: results by column, and in a column by list or seed."""

    first: Result  # any of them, to say what the row is of
    label: str = field(default="", init=False)  # name of the weights, of what tells them apart
    cells: dict[str, dict[str, Result]] = field(default_factory=dict, init=False)
    # (shown, left out) where there were several results of a list or seed
    replaced: list[tuple[Result, Result]] = field(default_factory=list, init=False)

    @property
    def backbone(self) -> str:
        """Such as ``B/16``."""
        return self.first.run.backbone

    @property
    def name(self) -> str:
        """Its name in the notes."""
        return f"{self.backbone} {self.label}"

    def wanted(self, column: str) -> Sequence[str]:
        """Name the lists or seeds of a complete cell."""
        raise NotImplementedError

    def parts(self, column: str) -> Sequence[str]:
        """Name the cells that a column's number is made of."""
        return (column,)

    def add(self, column: str, key: str, result: Result) -> None:
        """Add a result; of two, keep the one that follows its protocol, then the newer one."""
        cell = self.cells.setdefault(column, {})
        if key in cell:
            result, left_out = sorted(
                (cell[key], result), key=lambda r: (bool(r.faults), -r.run.written))
            self.replaced.append((result, left_out))
        cell[key] = result

    def number(self, column: str) -> Number | None:
        """Return mean and deviation over a cell's lists or seeds; None: it is empty."""
        return compute_spread([result.value for result in self.cells.get(column, {}).values()])

    def marks(self, column: str) -> str:
        """Marks to show after a cell's number."""
        cells = [self.cells.get(part, {}) for part in self.parts(column)]
        marks = set().union(*(result.marks for cell in cells for result in cell.values()))
        if any(len(cell) < len(self.wanted(column)) for cell in cells):
            marks.add(MARKS["partial"])
        return "".join(mark for mark in MARKS.values() if mark in marks)

    def cell(self, column: Column) -> Cell | None:
        """The row's cell in a column, or None where there is no number."""
        number, cell = self.number(column.key), self.cells.get(column.key, {})
        results = {key: cell[key] for key in self.wanted(column.key) if key in cell}
        return number and Cell(*number, self.marks(column.key), results)


def compute_spread(values: Sequence[float]) -> Number | None:
    """Return mean and population standard deviation of ``values``; None: there are none."""
    if not values:
        return None
    return statistics.fmean(values), statistics.pstdev(values) if len(values) > 1 else None


class ModelRow(Row):
    """One model: everything that was tested with the same weights and prompts, by protocol."""

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies it, see :attr:`Result.facts`."""
        return self.first.facts

    @property
    def results(self) -> dict[str, Result]:
        """Protocol's name -> result, in the order of the protocols."""
        tested = {name: result for cell in self.cells.values() for name, result in cell.items()}
        return {name: tested[name] for name in PROTOCOLS if name in tested}

    def wanted(self, column: str) -> Sequence[str]:
        """Name the protocols of a column."""
        return [name for name, its_column in COLUMN_OF.items() if its_column.key == column]


def group_rows(results: Iterable[Result], shown: set[str], check: SetupCheck) -> list[ModelRow]:
    """Make the zero-shot table's rows.

    Args:
        results: those of all tests.
        shown: names of the protocols to take in.
        check: what results are compared with.

    Returns:
        The rows in order, with labels that are unique per backbone.
    """
    rows: dict[tuple, ModelRow] = {}
    for result in results:
        protocol = result.run.protocol
        if protocol is None or protocol.name not in shown or "top1" not in result.scores:
            continue
        faults = tuple(check.find_faults(result.run.content, protocol))
        marks = result.marks + (MARKS["setup"] if faults else "")
        if protocol.rows not in (None, result.run.content["videos"]):
            marks += MARKS["rows"]
        result = replace(result, faults=faults, marks=marks)
        column = COLUMN_OF[protocol.name].key if protocol.name in COLUMN_OF else protocol.name
        row = rows.setdefault((result.model, result.ratio), ModelRow(result))
        row.add(column, protocol.name, result)
    return sort_and_label(rows.values())


def sort_and_label(rows: Iterable[ModelRow]) -> list[ModelRow]:
    """Return the rows in order, with labels that are unique per backbone.

    Backbones go by size, and in each untouched CLIP first, then checkpoints and ratios.
    """
    def place(row: ModelRow) -> tuple:
        facts = row.facts
        ratio = facts["patching_ratio"]
        return (
            backbone_place(row.backbone), facts["checkpoint"] is not None, row.first.method,
            str(facts["checkpoint"]), -1.0 if ratio is None else ratio,
            str(facts["temporal_modeling"]), str(facts["prompts"]),
        )

    ordered = sorted(rows, key=place)
    label_rows(ordered)
    return ordered


def backbone_place(backbone: str) -> int:
    """Return the place of a backbone in the table: small ones first, unknown ones last."""
    order = list(BACKBONES.values())
    return order.index(backbone) if backbone in order else len(order)


def label_rows(rows: Sequence[ModelRow]) -> None:
    """Label each row with checkpoint and ratio, and with more if labels would be the same."""
    for row in rows:
        ratio, prompts = row.facts["patching_ratio"], row.facts["prompt_set"]
        row.label = row.first.method + ("" if ratio is None else f", ratio {ratio:g}")
        if row.facts["prompts"] != PUBLISHED_PROMPTS_SHA256 and prompts:
            row.label += f", prompts {prompts}"
    tell_apart(rows, map(_list_details, rows))


def _list_details(row: ModelRow) -> Sequence[str]:
    checkpoint = row.facts["checkpoint"] or {}
    _, clip, _, temporal, prompts = row.first.model
    return (
        str(temporal), Path(str(checkpoint.get("file"))).parent.name,
        f"weights {str(checkpoint.get('sha256'))[:8]}", f"CLIP {str(clip)[:8]}",
        f"prompts {str(prompts)[:8]}",
    )


def tell_apart(rows: Sequence[Row], details: Iterable[Sequence[str]]) -> None:
    """Add to labels that would be the same what differs, of each row's details in order."""
    for of_rows in zip(*details, strict=True):
        alike: dict[str, list[tuple[Row, str]]] = {}
        for row, detail in zip(rows, of_rows, strict=True):
            alike.setdefault(row.name, []).append((row, detail))
        for group in alike.values():
            if len({detail for _, detail in group}) > 1:
                for row, detail in group:
                    row.label += f", {detail}"
