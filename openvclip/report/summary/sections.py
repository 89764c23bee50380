"""Few-shot, base-to-novel, supervised and own lists' results, gathered over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openvclip.data.lists.draws import parse_draw
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.checks import name_prompts
from openvclip.report.summary.columns import DATASETS
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256, Number
from openvclip.report.summary.rows import (
    CLIP,
    Result,
    Row,
    backbone_place,
    compute_spread,
    tell_apart,
)
from openvclip.report.summary.runs import Run
from openvclip.report.summary.sweeps import name_folder, name_lists

SHOTS = (2, 4, 8, 16)  # The numbers of videos per class that the peers report.
# Key of a table -> its title and what stands below it.
SECTIONS = {
    "few_shot": ("Few-shot top-1 accuracy (%)", "K: training videos per class."),
    "base_to_novel": ("Base-to-novel top-1 accuracy (%)",
                      "Trained on the base classes. HM: harmonic mean 2bn / (b + n) of the two "
                      "means, over the seeds that have both."),
    "supervised": ("Supervised accuracy (%)", "Trained and tested on the same classes."),
    "own": ("Accuracy on own test sets (%)",
            "Lists of no known protocol, named after their folders; zero-shot where the weights "
            "were not trained on their classes."),
}


@dataclass
class MethodRow(Row):
    """One method on one dataset."""

    dataset: str  # as shown
    setup: str  # how it was tested, as shown
    protocol: str  # name of the dataset's lists

    @property
    def method(self) -> str:
        """Checkpoint, ratio, and what else differs from the usual."""
        return self.label

    @property
    def name(self) -> str:
        """Its name in the notes."""
        return f"{self.dataset}, {self.backbone} {self.label} ({self.setup})"

    @property
    def seeds(self) -> list[str]:
        """All seeds, in order."""
        seeds = {seed for cell in self.cells.values() for seed in cell}
        return sorted(seeds, key=lambda seed: (len(seed), seed))

    def wanted(self, column: str) -> Sequence[str]:
        """Name the seeds that any cell of the row has."""
        return self.seeds

    def parts(self, column: str) -> Sequence[str]:
        """Name the cells that a column's number is made of."""
        return ("base", "novel") if column == "hm" else (column,)

    def seeds_of(self, column: str) -> list[str]:
        """Name the seeds of a cell; for the harmonic mean, those that both halves have."""
        return [seed for seed in self.seeds
                if all(seed in self.cells.get(part, {}) for part in self.parts(column))]

    def number(self, column: str) -> Number | None:
        """Mean and deviation over a cell's seeds, in %.

        The harmonic mean is that of the two means; its deviation is over the seeds' own.
        """
        if column != "hm":
            return super().number(column)
        seeds = self.seeds_of("hm")
        if not seeds:
            return None
        pairs = [(self.cells["base"][s].value, self.cells["novel"][s].value) for s in seeds]
        means = [statistics.fmean(values) for values in zip(*pairs, strict=True)]
        spread = compute_spread([compute_harmonic_mean(*pair) for pair in pairs])
        return compute_harmonic_mean(*means), spread[1] if spread else None


@dataclass(frozen=True)
class Section:
    """One table: a key of :data:`SECTIONS`, column -> heading, and its lines in order."""

    key: str
    columns: dict[str, str]
    lines: list[MethodRow]

    @property
    def title(self) -> str:
        """The text above it."""
        return SECTIONS[self.key][0]

    @property
    def footer(self) -> str:
        """The text below it."""
        footer = SECTIONS[self.key][1]
        if "0" in self.columns:
            footer += " K = 0 is the untouched CLIP."
        if any(len(line.seeds) > 1 for line in self.lines):
            footer += " Several seeds: mean ± population standard deviation (ddof 0) over them."
        return footer


def compute_harmonic_mean(base: float, novel: float) -> float:
    """Return 2bn / (b + n); 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def group_sections(results: Sequence[Result], shown: set[str] | None = None) -> list[Section]:
    """Make the tables that have results.

    Args:
        results: those of all tests.
        shown: names of the protocols to take in; None: all lists, known or not.
    """
    places = [(key, result) for result in results if (key := find_section(result.run))]
    own = name_lists(result.run.content["list"] for key, result in places if key == "own")
    # A novel test's seed is that of the base test of the same weights, which comes first for it.
    places.sort(key=lambda place: place[1].run.draw is not None
                and place[1].run.draw.kind == "novel")
    lines: dict[str, dict[tuple, MethodRow]] = {key: {} for key in SECTIONS}
    for key, result in places:
        identity, line = _make_line(key, result, own)
        if shown is None or line.protocol in shown:
            _add(lines[key].setdefault(identity, line), result)
    sections = []
    for key, of_section in lines.items():
        rows = list(of_section.values())
        tell_apart(rows, (details for _, details in of_section))
        rows.sort(key=lambda row: (row.dataset, backbone_place(row.backbone),
                                   not row.method.startswith(CLIP), row.method, row.setup))
        if rows:
            sections.append(Section(key, _columns(key, rows), rows))
    return sections


def find_section(run: Run) -> str | None:
    """Return the table that a test belongs to, if any: by its list's draw or the training classes.

    A list of no known protocol, of other classes than those trained on, is an own test set.
    """
    if any("top1" not in scores for scores in run.content["results"]):
        return None
    if run.draw is not None:
        return "few_shot" if run.draw.kind == "few-shot" else "base_to_novel"
    if run.trained_classes and parse_draw(run.about("trained_on").get("draw")) is None:
        return "supervised"
    return "own" if run.protocol is None else None


def _make_line(key: str, result: Result, own: dict[str, str]) -> tuple[tuple, MethodRow]:
    """Return a result's line, and what identifies it within its table, what may not show last."""
    run, content = result.run, result.run.content
    shots = weights = ""
    if run.draw is not None:
        dataset = run.draw.dataset
        if key == "base_to_novel" and run.weights:
            shots = f", {run.draw.shots} shots"
    elif key == "supervised":
        dataset = run.protocol.name if run.protocol else name_folder(content["list"])
    else:
        dataset, checkpoint = own[content["list"]], run.about("checkpoint")
        folder = Path(str(checkpoint.get("file", ""))).parent.name
        weights = f"{folder} {str(checkpoint.get('sha256'))[:8]}"
    setup = f"{content.get('views')} x {content.get('crops')} views, {content.get('frames')} frames"
    line = MethodRow(result, name_dataset(dataset) + shots, setup, dataset)
    line.label = _name_method(result)
    _, clip, _, temporal, _ = result.model
    return (line.name, (temporal, f"CLIP {str(clip)[:8]}", weights)), line


def _add(line: MethodRow, result: Result) -> None:
    """Put a result's accuracies into the cells of its line."""
    run, draw, trained = result.run, result.run.draw, result.run.about("trained_on")
    if run.weights is None:
        seed = CLIP
    elif draw is None:
        seed = "-" if trained.get("seed") is None else str(trained["seed"])
    else:
        other = trained.get("seed") not in (None, draw.seed)
        seed = f"{draw.seed}/{trained['seed']}" if other else str(draw.seed)
    if draw is None:
        columns = {"top1": "top1", "top5": "top5"}
    elif draw.kind == "few-shot":
        columns = {str(draw.shots if run.weights else 0): "top1"}
    else:
        columns = {draw.kind: "top1"}
        if draw.kind == "novel":
            known = [*line.cells.get("base", {}).items(), *line.cells.get("novel", {}).items()]
            seed = next((its for its, test in known if test.run.weights == run.weights), seed)
    for column, score in columns.items():
        if isinstance(result.scores.get(score), int | float):
            line.add(column, seed, replace(result, score=score, seed=seed))


def _name_method(result: Result) -> str:
    """Name a result's method after checkpoint, training, ratio and texts."""
    run, trained, texts = result.run, result.run.about("trained_on"), result.run.about("prompts")
    method = CLIP
    if run.weights is not None:
        method = result.method
        if trained.get("interpolated") is False:
            method += ", plain"
        if trained.get("captions"):
            method += f", captions ({trained['captions']} text tower)"
        if result.ratio is not None:
            method += f", ratio {result.ratio:g}"
    if texts.get("sha256") != PUBLISHED_PROMPTS_SHA256:
        # Two halves of the classes have two files of descriptions.
        name = "" if texts.get("descriptions") else name_prompts(texts)
        method += f", prompts {name or texts.get('name') or str(texts.get('sha256'))[:8]}"
    return method


def _columns(key: str, lines: Sequence[MethodRow]) -> dict[str, str]:
    if key in ("supervised", "own"):
        return {"top1": "top-1", "top5": "top-5"}
    if key == "base_to_novel":
        return {"base": "base", "novel": "novel", "hm": "HM"}
    tested = {int(shots) for line in lines for shots in line.cells}
    return {str(shots): f"K = {shots}" for shots in sorted(tested | set(SHOTS))}


def name_dataset(name: str) -> str:
    """Return the name of a protocol's lists in a table; other lists keep their name."""
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        return name
    dataset = DATASETS[protocol.dataset]
    if protocol.dataset in ("kinetics400", "ssv2"):
        return f"{dataset} val"
    kind = name.rpartition("_")[2]
    return f"{dataset} {kind.replace('split', 'split ').replace('half', 'half ')}"
