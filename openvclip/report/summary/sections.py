"""Few-shot, base-to-novel, supervised and own lists' results, gathered over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvclip.data.lists.draws import Draw, parse_draw
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.report.checks import MARKS, count_trained, name_prompts
from openvclip.report.summary.columns import DATASETS
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256
from openvclip.report.summary.rows import CLIP, backbone_place
from openvclip.report.summary.runs import Run
from openvclip.report.summary.sweeps import name_folder, name_lists

NOVEL = "novel, not yet paired"
SHOTS = (2, 4, 8, 16)  # The numbers of videos a class that the peers report.
TITLES = {
    "few_shot": "Few-shot top-1 accuracy (%)",
    "base_to_novel": "Base-to-novel top-1 accuracy (%)",
    "supervised": "Supervised accuracy (%)",
    "own": "Accuracy on own test sets (%)",
}


@dataclass(frozen=True)
class Test:
    """One accuracy.

    Attributes:
        run: the test.
        value: in percent.
        seed: of the draw and, where it is known and another, of the training.
        weights: what tells the tested weights from others; None: the untouched CLIP.
    """

    run: Run
    value: float
    seed: str
    weights: str | None


@dataclass
class Line:
    """One method on one dataset.

    Attributes:
        backbone: such as ``B/16``.
        method: checkpoint, ratio, and what else differs from the usual.
        dataset: as shown.
        setup: how it was tested, as shown.
        protocol: name of the dataset's lists.
        cells: column -> seed -> test.
        replaced: (shown, left out) where a seed had several tests.
    """

    backbone: str
    method: str
    dataset: str
    setup: str
    protocol: str
    cells: dict[str, dict[str, Test]] = field(default_factory=dict)
    replaced: list[tuple[Test, Test]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the notes call it."""
        return f"{self.dataset}, {self.backbone} {self.method} ({self.setup})"

    @property
    def seeds(self) -> list[str]:
        """All seeds, in order."""
        found = {seed for cell in self.cells.values() for seed in cell}
        return sorted(found, key=lambda seed: (len(seed), seed))

    def number(self, column: str) -> tuple[float, float | None] | None:
        """Mean and population standard deviation (None: one seed) over a cell's seeds, in %."""
        if column == "hm":
            return self._harmonic()
        return _spread([test.value for test in self.cells.get(column, {}).values()])

    def _harmonic(self) -> tuple[float, float | None] | None:
        """Harmonic mean of the mean base and novel accuracies; its deviation is over the seeds."""
        base, novel = self.cells.get("base", {}), self.cells.get("novel", {})
        pairs = [(base[seed].value, novel[seed].value) for seed in base if seed in novel]
        if not pairs:
            return None
        means = [statistics.fmean(values) for values in zip(*pairs, strict=True)]
        spread = _spread([compute_harmonic_mean(*pair) for pair in pairs])
        return compute_harmonic_mean(*means), spread[1]

    def marks(self, column: str) -> str:
        """Signs to show behind a cell's number."""
        parts = ("base", "novel") if column == "hm" else (column,)
        cells = [self.cells.get(part, {}) for part in parts]
        tests = [test for cell in cells for test in cell.values()]
        marks = ""
        if any(set(cell) != set(self.seeds) for cell in cells):
            marks += MARKS["partial"]
        if any(test.run.content["failed"] for test in tests):
            marks += MARKS["failed"]
        if any(count_trained(test.run.content) for test in tests):
            marks += MARKS["seen"]
        return marks

    def add(self, column: str, test: Test) -> None:
        """Take a test in; of two of a seed the newer one.

        Novel tests are kept by their weights until :func:`_pair` knows their seeds.
        """
        cell = self.cells.setdefault(column, {})
        key = f"weights {test.weights}" if column == NOVEL else test.seed
        old = cell.get(key)
        if old is not None:
            old, test = sorted((old, test), key=lambda x: x.run.written)
            if test.weights is not None or test.value != old.value:  # CLIP, on each seed's lists
                self.replaced.append((test, old))
        cell[key] = test


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        key: ``few_shot``, ``base_to_novel``, ``supervised`` or ``own``.
        title: what stands above it.
        columns: column -> heading.
        lines: its lines, in order.
    """

    key: str
    title: str
    columns: dict[str, str]
    lines: list[Line]


def compute_harmonic_mean(base: float, novel: float) -> float:
    """Return 2bn / (b + n); 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _spread(values: Sequence[float]) -> tuple[float, float | None] | None:
    if not values:
        return None
    return statistics.fmean(values), statistics.pstdev(values) if len(values) > 1 else None


def group_sections(runs: Sequence[Run], shown: set[str] | None = None) -> list[Section]:
    """Make the tables that there are results for.

    Args:
        runs: all tests found.
        shown: names of the protocols to take in; None: all lists, known or not.
    """
    found: dict[tuple, Line] = {}
    own = name_lists(run.content["list"] for run in runs if find_section(run) == "own")
    for run in runs:
        key = find_section(run)
        if key is None:
            continue
        for scores in run.content["results"]:
            for column, identity, line, test in _tests(key, run, scores, own):
                if shown is None or line.protocol in shown:
                    found.setdefault((key, *identity), line).add(column, test)
    sections = []
    for key, title in TITLES.items():
        lines = [line for identity, line in found.items() if identity[0] == key]
        if key == "base_to_novel":
            for line in lines:
                _pair(line)
        if lines:
            _tell_apart(lines, [i for i in found if i[0] == key])
            lines.sort(key=_place)
            sections.append(Section(key, title, _columns(key, lines), lines))
    return sections


def find_section(run: Run) -> str | None:
    """Say which table a test belongs to, if one: by its list's draw, or by the training classes.

    A list of no known protocol, of other classes than those trained on, is one's own.
    """
    content = run.content
    if any("top1" not in scores for scores in content["results"]):
        return None
    draw = parse_draw(content.get("draw"))
    if draw is not None:
        return "few_shot" if draw.kind == "few-shot" else "base_to_novel"
    trained = _trained(content)
    known = (content.get("label_set") or {}).get("sha256")
    same = known is not None and trained.get("label_set") == known
    if same and parse_draw(trained.get("draw")) is None:
        return "supervised"
    return "own" if run.protocol is None else None


def _trained(content: dict[str, Any]) -> dict[str, Any]:
    """What results say of the training; {} where they do not."""
    found = content.get("trained_on")
    return found if isinstance(found, dict) else {}


def find_draw(content: dict[str, Any]) -> Draw | None:
    """Return the draw that the tested weights were trained on, else that of the tested list.

    Lists of several shots and seeds have the same test videos, so that the list does not tell.
    """
    own = parse_draw(content.get("draw"))
    trained = parse_draw(_trained(content).get("draw"))
    if own is None or trained is None or trained.dataset != own.dataset:
        return own
    fits = trained.kind == ("few-shot" if own.kind == "few-shot" else "base")
    return Draw(own.kind, own.dataset, trained.shots, trained.seed) if fits else own


def _tests(
    key: str, run: Run, scores: dict[str, Any], own: dict[str, str]
) -> Iterator[tuple[str, tuple, Line, Test]]:
    """Give column, identity of the line, a line for it and the test, for each accuracy shown."""
    content = run.content
    checkpoint = content.get("checkpoint") or {}
    weights = checkpoint.get("sha256") or checkpoint.get("file")
    draw, trained = find_draw(content), _trained(content)
    if key == "supervised":
        dataset = run.protocol.name if run.protocol else name_folder(content["list"])
        seed = str(trained.get("seed"))
    elif key == "own":
        dataset, seed = own[content["list"]], str(trained.get("seed", "-"))
    else:
        dataset, seed = draw.dataset, str(draw.seed)
        if trained.get("seed") not in (None, draw.seed):
            seed += f"/{trained['seed']}"
    if weights is None:
        seed = CLIP
    setup = (f"{content.get('views')} x {content.get('crops')} views, "
             f"{content.get('frames')} frames")
    method, rest = _name_method(content, scores, trained)
    rest = (*rest, _name_weights(checkpoint) if key == "own" else "")
    shots = "" if key != "base_to_novel" or weights is None else f", {draw.shots} shots"
    line = Line(run.backbone, method, name_dataset(dataset) + shots, setup, dataset)
    identity = (line.backbone, line.dataset, setup, method, *rest)
    columns = {"top1": "top1", "top5": "top5"}
    if key == "few_shot":
        columns = {str(0 if weights is None else draw.shots): "top1"}
    elif key == "base_to_novel":
        columns = {NOVEL if draw.kind == "novel" else draw.kind: "top1"}
    for column, score in columns.items():
        if isinstance(scores.get(score), int | float):
            yield column, identity, line, Test(run, scores[score], seed, weights)


def _name_method(
    content: dict[str, Any], scores: dict[str, Any], trained: dict[str, Any]
) -> tuple[str, tuple[str, str]]:
    """Return what a method is called, and what tells it from another of that name."""
    checkpoint, ratio = content.get("checkpoint") or {}, scores.get("patching_ratio")
    method = Path(str(checkpoint.get("file"))).name if checkpoint else CLIP
    if checkpoint and trained.get("interpolated") is False:
        method += ", plain"
    if checkpoint and trained.get("captions"):
        method += f", captions ({trained['captions']} text tower)"
    if checkpoint and ratio is not None:  # CLIP patched with CLIP is CLIP.
        method += f", ratio {ratio:g}"
    texts = content.get("prompts") or {}
    if texts.get("sha256") != PUBLISHED_PROMPTS_SHA256:
        # Two halves of the classes have two files of descriptions.
        name = "" if texts.get("descriptions") else name_prompts(texts)
        method += f", prompts {name or texts.get('name') or str(texts.get('sha256'))[:8]}"
    clip = content.get("clip") or {}
    return method, (str(content.get("temporal_modeling")),
                    f"CLIP {str(clip.get('sha256') or clip.get('source'))[:8]}")


def _name_weights(checkpoint: dict[str, Any]) -> str:
    """Return what tells a checkpoint from others of its file name."""
    folder = Path(str(checkpoint.get("file", ""))).parent.name
    return f"{folder} {str(checkpoint.get('sha256'))[:8]}"


def _pair(line: Line) -> None:
    """File each novel test under the seed of the base test of the same weights."""
    seeds = {test.weights: seed for seed, test in line.cells.get("base", {}).items()}
    for test in line.cells.pop(NOVEL, {}).values():
        line.add("novel", replace(test, seed=seeds.get(test.weights, test.seed)))


def _tell_apart(lines: Iterable[Line], identities: Iterable[tuple]) -> None:
    """Add temporal type, CLIP and weights to the names of lines that would be called alike."""
    by_name: dict[str, list[tuple[Line, tuple]]] = {}
    for line, identity in zip(lines, identities, strict=True):
        by_name.setdefault(line.name, []).append((line, identity[-3:]))
    for group in by_name.values():
        for place in range(3):
            if len({rest[place] for _, rest in group}) > 1:
                for line, rest in group:
                    line.method += f", {rest[place]}"


def _columns(key: str, lines: Sequence[Line]) -> dict[str, str]:
    if key in ("supervised", "own"):
        return {"top1": "top-1", "top5": "top-5"}
    if key == "base_to_novel":
        return {"base": "base", "novel": "novel", "hm": "HM"}
    found = {int(shots) for line in lines for shots in line.cells}
    return {str(shots): f"K = {shots}" for shots in sorted(found | set(SHOTS))}


def _place(line: Line) -> tuple:
    return line.dataset, backbone_place(line.backbone), not line.method.startswith(CLIP), (
        line.method), line.setup


def name_dataset(name: str) -> str:
    """Return how a protocol's lists are called in a table; other lists keep their name."""
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        return name
    dataset = DATASETS[protocol.dataset]
    if protocol.dataset in ("kinetics400", "ssv2"):
        return f"{dataset} val"
    kind = name.rpartition("_")[2]
    return f"{dataset} {kind.replace('split', 'split ').replace('half', 'half ')}"
