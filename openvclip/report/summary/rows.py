"""The rows of the zero-shot table: results of the same weights and prompts, by protocol."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvclip.data.lists.protocols import Protocol
from openvclip.report.checks import MARKS, Fault, SetupCheck, mark_result, name_prompts
from openvclip.report.summary.columns import Column
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256
from openvclip.report.summary.runs import BACKBONES, Run

CLIP = "CLIP"


@dataclass(frozen=True)
class Result:
    """The accuracies of one test at one patching ratio.

    Attributes:
        run: the test.
        scores: its row of ``results``: accuracies in percent.
        faults: how the test differs from its protocol; empty: it does not.
        marks: signs to show behind the number.
    """

    run: Run
    scores: dict[str, Any]
    faults: tuple[Fault, ...] = ()
    marks: str = ""

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent; videos that failed count as wrong."""
        return self.scores["top1"]


@dataclass(frozen=True)
class Cell:
    """One column of a row.

    Attributes:
        column: the column.
        members: protocol's name -> its result, of those found.
    """

    column: Column
    members: dict[str, Result]

    @property
    def mean(self) -> float:
        """Mean top-1 accuracy (%) over the lists found."""
        return statistics.fmean(result.top1 for result in self.members.values())

    @property
    def std(self) -> float | None:
        """Population standard deviation over the lists found; None where there is only one."""
        if len(self.members) < 2:
            return None
        return statistics.pstdev(result.top1 for result in self.members.values())

    @property
    def missing(self) -> list[Protocol]:
        """The column's protocols without a result."""
        return [p for p in self.column.protocols if p.name not in self.members]

    @property
    def marks(self) -> str:
        """Signs to show behind the number."""
        found = set().union(*(result.marks for result in self.members.values()))
        if self.missing:
            found.add(MARKS["partial"])
        return "".join(mark for mark in MARKS.values() if mark in found)


@dataclass
class Row:
    """One model: everything that was tested with the same weights and prompts.

    Attributes:
        backbone: such as ``B/16``.
        facts: what tells it from others: clip, checkpoint, temporal, ratio, prompts (their SHA-256
            and, as ``prompt_set``, their name).
        weights: the same but for the ratio, to compare.
        results: protocol's name -> result.
        replaced: (shown, left out) where a cell had several results.
        label: how it is called in the table.
    """

    backbone: str
    facts: dict[str, Any]
    weights: tuple = ()
    results: dict[str, Result] = field(default_factory=dict)
    replaced: list[tuple[Protocol, Result, Result]] = field(default_factory=list)
    label: str = ""

    @property
    def name(self) -> str:
        """Backbone and label, for the notes."""
        return f"{self.backbone} {self.label}"

    def cell(self, column: Column) -> Cell | None:
        """The row's cell in a column, or None where nothing was found."""
        names = [p.name for p in column.protocols if p.name in self.results]
        return Cell(column, {name: self.results[name] for name in names}) if names else None

    def add(self, protocol: Protocol, result: Result) -> None:
        """Take a result in; of two, the one that follows its protocol, then the newer one."""
        old = self.results.get(protocol.name)
        if old is None:
            self.results[protocol.name] = result
            return
        first, second = sorted((old, result), key=lambda r: (bool(r.faults), -r.run.written))
        self.results[protocol.name] = first
        self.replaced.append((protocol, first, second))


def group_rows(runs: Sequence[Run], shown: set[str], check: SetupCheck) -> list[Row]:
    """Make rows of the results.

    Args:
        runs: all tests found.
        shown: names of the protocols to take in.
        check: what results are held to.

    Returns:
        The rows in order, named so that no two of a backbone are called alike.
    """
    rows: dict[tuple[tuple, float | None], Row] = {}
    for run in runs:
        protocol = run.protocol
        if protocol is None or protocol.name not in shown:
            continue
        faults = tuple(check.find_faults(run.content, protocol))
        marks = mark_result(run.content, protocol, faults)
        for scores in run.content["results"]:
            if "top1" not in scores:
                continue
            weights, facts = identify(run, scores)
            row = rows.setdefault(
                (weights, facts["patching_ratio"]), Row(run.backbone, facts, weights)
            )
            row.add(protocol, Result(run, scores, faults, marks))
    return sort_and_label(list(rows.values()))


def sort_and_label(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in order, named so that no two of a backbone are called alike."""
    ordered = sorted(rows, key=_row_place)
    label_rows(ordered)
    return ordered


def identify(run: Run, scores: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return what tells a result's weights and prompts from others, and facts for people to read.

    Results of the same of these and of the same ``patching_ratio`` among the facts make a row.
    """
    content = run.content
    clip, checkpoint = content.get("clip") or {}, content.get("checkpoint") or {}
    ratio = scores.get("patching_ratio")
    if ratio is not None:
        ratio = round(ratio, 6)
    if not checkpoint:
        ratio = None  # CLIP patched with CLIP, as published scripts test it, is CLIP.
    texts = content.get("prompts") or {}
    prompts = texts.get("sha256")
    temporal = content.get("temporal_modeling")
    key = (
        run.backbone,
        clip.get("sha256") or clip.get("source"),
        checkpoint.get("sha256") or checkpoint.get("file"),
        str(temporal),
        prompts,
    )
    facts = {
        "clip": clip, "checkpoint": checkpoint or None, "temporal_modeling": temporal,
        "patching_ratio": ratio, "prompts": prompts, "prompt_set": name_prompts(texts),
    }
    return key, facts


def backbone_place(backbone: str) -> int:
    """Return the place of a backbone in the table, small ones first, unknown ones last."""
    order = list(BACKBONES.values())
    return order.index(backbone) if backbone in order else len(order)


def _name_checkpoint(row: Row) -> str:
    checkpoint = row.facts["checkpoint"]
    return Path(str(checkpoint.get("file"))).name if checkpoint else CLIP


def _row_place(row: Row) -> tuple:
    """Backbones by size, untouched CLIP first, then by checkpoint and ratio."""
    ratio = row.facts["patching_ratio"]
    return (
        backbone_place(row.backbone), row.facts["checkpoint"] is not None, _name_checkpoint(row),
        str(row.facts["checkpoint"]), -1.0 if ratio is None else ratio,
        str(row.facts["temporal_modeling"]), str(row.facts["prompts"]),
    )


def label_rows(rows: Sequence[Row]) -> None:
    """Call each row by its checkpoint and ratio, and by more where two would be called alike."""
    for row in rows:
        ratio = row.facts["patching_ratio"]
        row.label = _name_checkpoint(row) + ("" if ratio is None else f", ratio {ratio:g}")
        if row.facts["prompts"] != PUBLISHED_PROMPTS_SHA256 and row.facts["prompt_set"]:
            row.label += f", prompts {row.facts['prompt_set']}"
    tell_apart = (
        lambda row: str(row.facts["temporal_modeling"]),
        lambda row: Path(str((row.facts["checkpoint"] or {}).get("file"))).parent.name,
        lambda row: "weights " + str((row.facts["checkpoint"] or {}).get("sha256"))[:8],
        lambda row: "CLIP " + str(row.facts["clip"].get("sha256") or row.facts["clip"].get(
            "source"))[:8],
        lambda row: "prompts " + str(row.facts["prompts"])[:8],
    )
    for describe in tell_apart:
        alike: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            alike.setdefault((row.backbone, row.label), []).append(row)
        for group in alike.values():
            if len({describe(row) for row in group}) > 1:
                for row in group:
                    row.label += f", {describe(row)}"
