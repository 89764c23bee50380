"""The numbers of tests, one result per patching ratio, and the rows that they are put in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openvclip.report.checks import MARKS, count_trained, name_prompts
from openvclip.report.summary.published import Number
from openvclip.report.summary.runs import Run

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


def list_results(runs: Sequence[Run]) -> list[Result]:
    """Return the results of all tests, one per patching ratio."""
    results = []
    for run in runs:
        marks = MARKS["failed"] if run.failed else ""
        marks += MARKS["seen"] if count_trained(run.content) else ""
        results += [Result(run, scores, marks=marks) for scores in run.content["results"]]
    return results


def compute_spread(values: Sequence[float]) -> Number | None:
    """Return mean and population standard deviation of ``values``; None: there are none."""
    if not values:
        return None
    return statistics.fmean(values), statistics.pstdev(values) if len(values) > 1 else None


@dataclass
class Row:
    """What a row of any table has: results by column, and in a column by list or seed."""

    first: Result  # any of them, to say what the row is of
    cells: dict[str, dict[str, Result]] = field(default_factory=dict, init=False)
    # (shown, left out) where there were several results of a list or seed
    replaced: list[tuple[Result, Result]] = field(default_factory=list, init=False)

    @property
    def backbone(self) -> str:
        """Such as ``B/16``."""
        return self.first.run.backbone

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
