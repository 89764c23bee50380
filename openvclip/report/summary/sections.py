"""Few-shot, base-to-novel, supervised and own lists' results, gathered over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openvclip.data.lists.draws import Draw, parse_draw
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.checks import name_prompts
from openvclip.report.summary.columns import DATASETS
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256, Number
from openvclip.report.summary.results import CLIP, Result, Row, compute_spread
from openvclip.report.summary.rows import backbone_place
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

    method: str  # checkpoint, ratio, and what else differs from the usual
    dataset: str  # as shown
    setup: str  # how it was tested, as shown
    protocol: str  # name of the dataset's lists

    @property
    def name(self) -> str:
        """Its name in the notes."""
        return f"{self.dataset}, {self.backbone} {self.method} ({self.setup})"

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
    places.sort(key=lambda place: _is_novel(place[1]))
    lines: dict[str, dict[tuple, MethodRow]] = {key: {} for key in SECTIONS}
    for key, result in places:
        identity, line = _make_line(key, result, own)
        if shown is None or line.protocol in shown:
            line = lines[key].setdefault(identity, line)
            _add(key, line, result)
    sections = []
    for key, of_section in lines.items():
        if of_section:
            _tell_apart(of_section)
            ordered = sorted(of_section.values(), key=_place)
            sections.append(Section(key, _columns(key, ordered), ordered))
    return sections


def _is_novel(result: Result) -> bool:
    draw = parse_draw(result.run.content.get("draw"))
    return draw is not None and draw.kind == "novel"


def find_section(run: Run) -> str | None:
    """Return the table that a test belongs to, if any: by its list's draw or the training classes.

    A list of no known protocol, of other classes than those trained on, is an own test set.
    """
    content = run.content
    if any("top1" not in scores for scores in content["results"]):
        return None
    draw = parse_draw(content.get("draw"))
    if draw is not None:
        return "few_shot" if draw.kind == "few-shot" else "base_to_novel"
    if run.trained_classes and parse_draw(run.about("trained_on").get("draw")) is None:
        return "supervised"
    return "own" if run.protocol is None else None


def find_draw(run: Run) -> Draw | None:
    """Return the draw that the tested weights were trained on, else that of the tested list.

    Lists of several shots and seeds have the same test videos, so that the list does not tell.
    """
    own = parse_draw(run.content.get("draw"))
    trained = parse_draw(run.about("trained_on").get("draw"))
    if own is None or trained is None or trained.dataset != own.dataset:
        return own
    fits = trained.kind == ("few-shot" if own.kind == "few-shot" else "base")
    return Draw(own.kind, own.dataset, trained.shots, trained.seed) if fits else own


def _make_line(key: str, result: Result, own: dict[str, str]) -> tuple[tuple, MethodRow]:
    """Return what identifies a result's line within its table, and the line."""
    run, draw = result.run, find_draw(result.run)
    content = run.content
    if key == "supervised":
        dataset = run.protocol.name if run.protocol else name_folder(content["list"])
    else:
        dataset = own[content["list"]] if key == "own" or draw is None else draw.dataset
    setup = f"{content.get('views')} x {content.get('crops')} views, {content.get('frames')} frames"
    shots = f", {draw.shots} shots" if draw and key == "base_to_novel" and run.weights else ""
    line = MethodRow(result, _name_method(result), name_dataset(dataset) + shots, setup, dataset)
    weights = ""
    if key == "own":
        checkpoint = run.about("checkpoint")
        folder = Path(str(checkpoint.get("file", ""))).parent.name
        weights = f"{folder} {str(checkpoint.get('sha256'))[:8]}"
    _, clip, _, temporal, _ = result.model
    return (line.backbone, line.dataset, setup, line.method, temporal, f"CLIP {str(clip)[:8]}",
            weights), line


def _add(key: str, line: MethodRow, result: Result) -> None:
    """Put a result's accuracies into the cells of its line."""
    run = result.run
    draw, trained = find_draw(run), run.about("trained_on")
    if run.weights is None:
        seed = CLIP
    elif draw is None:
        seed = "-" if trained.get("seed") is None else str(trained["seed"])
    else:
        other = trained.get("seed") not in (None, draw.seed)
        seed = f"{draw.seed}/{trained['seed']}" if other else str(draw.seed)
    columns = {"top1": "top1", "top5": "top5"}
    if draw is not None and key == "few_shot":
        columns = {str(draw.shots if run.weights else 0): "top1"}
    elif draw is not None and key == "base_to_novel":
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
        method = Path(str(run.about("checkpoint").get("file"))).name
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


def _tell_apart(lines: dict[tuple, MethodRow]) -> None:
    """Add temporal type, CLIP and weights to the names of lines that would have the same."""
    by_name: dict[str, list[tuple[MethodRow, tuple]]] = {}
    for identity, line in lines.items():
        by_name.setdefault(line.name, []).append((line, identity[-3:]))
    for group in by_name.values():
        for place in range(3):
            if len({rest[place] for _, rest in group}) > 1:
                for line, rest in group:
                    line.method += f", {rest[place]}"


def _columns(key: str, lines: Sequence[MethodRow]) -> dict[str, str]:
    if key in ("supervised", "own"):
        return {"top1": "top-1", "top5": "top-5"}
    if key == "base_to_novel":
        return {"base": "base", "novel": "novel", "hm": "HM"}
    tested = {int(shots) for line in lines for shots in line.cells}
    return {str(shots): f"K = {shots}" for shots in sorted(tested | set(SHOTS))}


def _place(line: MethodRow) -> tuple:
    return line.dataset, backbone_place(line.backbone), not line.method.startswith(CLIP), (
        line.method), line.setup


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
