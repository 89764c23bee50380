"""The retrieval results of a summary: rows of the same weights and list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openvclip.report.checks import MARKS, count_trained, say_trained
from openvclip.report.retrieval_numbers import name_numbers
from openvclip.report.summary.rows import ModelRow, Result, sort_and_label
from openvclip.report.summary.runs import Run


@dataclass(frozen=True)
class RetrievalRow:
    """One line of the table: a list of videos and texts, tested with one set of weights."""

    list: str  # its name, and its split if it has some
    row: ModelRow  # the weights, and their name
    result: Result  # the numbers
    replaced: tuple[str, ...] = ()  # folders of older results of the same, which are left out

    @property
    def size(self) -> str:
        """How many videos and texts there are, and how many videos failed."""
        run = self.result.run
        texts = run.about("captions").get("count")
        return (f"{run.content['videos']:,} x " + ("?" if texts is None else f"{texts:,}")
                + self.result.marks)

    @property
    def numbers(self) -> Sequence[float]:
        """The numbers, in the order of :func:`name_numbers`."""
        return [self.result.scores[name] for name in name_numbers()]


def is_retrieval(run: Run) -> bool:
    """Whether a test's results are of retrieval."""
    return run.content.get("task") == "retrieval"


def group_retrieval(results: Sequence[Result]) -> list[RetrievalRow]:
    """Make the lines of the table, by list, then by backbone and weights, of the newest results."""
    rows: dict[tuple, ModelRow] = {}
    lines: dict[tuple, RetrievalRow] = {}
    names = _name_lists([result.run for result in results])
    for result in sorted(results, key=lambda result: result.run.written):
        model = result.model, result.ratio
        row = rows.setdefault(model, ModelRow(result))
        place = _identify_list(result.run), *model
        old = lines.get(place)
        replaced = (*old.replaced, str(old.result.run.folder)) if old else ()
        lines[place] = RetrievalRow(names[place[0]], row, result, replaced)
    order = {id(row): place for place, row in enumerate(sort_and_label(rows.values()))}
    return sorted(lines.values(), key=lambda line: (line.list, order[id(line.row)]))


def _identify_list(run: Run) -> str:
    """Return the digest of a list's pairs, or its path in results that lack it."""
    return str(run.about("captions").get("sha256") or run.content["list"])


def _name_lists(runs: Sequence[Run]) -> dict[str, str]:
    """Name each list after its file, with its digest where two files have the same name."""
    names = {}
    for run in runs:
        split = run.about("captions").get("split")
        name = Path(run.content["list"]).name + (f", {split}" if split else "")
        names[_identify_list(run)] = name
    often = Counter(names.values())
    return {key: f"{name} ({key[:8]})" if often[name] > 1 else name for key, name in names.items()}


def collect_retrieval_notes(rows: Sequence[RetrievalRow]) -> Iterator[str]:
    """Yield what the reader of the table must know besides its numbers."""
    for line in rows:
        run, name = line.result.run, f"{line.row.name}, {line.list}"
        if run.failed:
            yield (f"{MARKS['failed']} {name}: {run.failed:,} of {run.content['videos']:,} videos "
                   "could not be decoded; they and their texts have the last rank")
        if count_trained(run.content):
            yield (f"{MARKS['seen']} {name}: {say_trained(run.content)}; "
                   "not comparable with other numbers")
        if line.replaced:
            yield (f"{name}: shown is {run.folder} (newer), left out "
                   f"{', '.join(line.replaced)}")
