"""The rows of the zero-shot table: results of the same weights and prompts, by protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.checks import MARKS, SetupCheck
from openvclip.report.summary.columns import COLUMN_OF, Column
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256
from openvclip.report.summary.results import CLIP, Result, Row
from openvclip.report.summary.runs import BACKBONES


class Cell(NamedTuple):
    """One cell of a row: mean and deviation (%) over its results by protocol, and their marks."""

    mean: float
    std: float | None
    marks: str
    results: dict[str, Result]


@dataclass
class ModelRow(Row):
    """One model: everything that was tested with the same weights and prompts."""

    label: str = field(default="", init=False)  # its name in the table

    @property
    def name(self) -> str:
        """Backbone and label, for the notes."""
        return f"{self.backbone} {self.label}"

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

    def cell(self, column: Column) -> Cell | None:
        """The row's cell in a column, or None where nothing was tested."""
        number = self.number(column.key)
        if number is None:
            return None
        cell = self.cells[column.key]
        results = {name: cell[name] for name in self.wanted(column.key) if name in cell}
        return Cell(*number, self.marks(column.key), results)


def group_rows(results: Iterable[Result], shown: set[str], check: SetupCheck) -> list[ModelRow]:
    """Make rows of the results.

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
            backbone_place(row.backbone), facts["checkpoint"] is not None, _name_checkpoint(row),
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


def _name_checkpoint(row: ModelRow) -> str:
    checkpoint = row.facts["checkpoint"]
    return Path(str(checkpoint.get("file"))).name if checkpoint else CLIP


def label_rows(rows: Sequence[ModelRow]) -> None:
    """Label each row with checkpoint and ratio, and with more if labels would be the same."""
    for row in rows:
        ratio, prompts = row.facts["patching_ratio"], row.facts["prompt_set"]
        row.label = _name_checkpoint(row) + ("" if ratio is None else f", ratio {ratio:g}")
        if row.facts["prompts"] != PUBLISHED_PROMPTS_SHA256 and prompts:
            row.label += f", prompts {prompts}"
    for place in range(5):
        alike: dict[str, list[ModelRow]] = {}
        for row in rows:
            alike.setdefault(row.name, []).append(row)
        for group in alike.values():
            differences = [_tell_apart(row)[place] for row in group]
            if len(set(differences)) > 1:
                for row, difference in zip(group, differences, strict=True):
                    row.label += f", {difference}"


def _tell_apart(row: ModelRow) -> tuple[str, ...]:
    """What is added to labels that would be the same, as far as it differs."""
    checkpoint = row.facts["checkpoint"] or {}
    _, clip, _, temporal, prompts = row.first.model
    return (
        str(temporal), Path(str(checkpoint.get("file"))).parent.name,
        f"weights {str(checkpoint.get('sha256'))[:8]}", f"CLIP {str(clip)[:8]}",
        f"prompts {str(prompts)[:8]}",
    )
