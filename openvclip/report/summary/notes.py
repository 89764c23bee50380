"""What a table's reader must know besides its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from openvclip.data.lists.draws import parse_draw
from openvclip.data.lists.protocols import PROTOCOLS, Protocol, find_sources
from openvclip.report.checks import MARKS, SetupCheck, count_trained, say_trained
from openvclip.report.summary.columns import COLUMN_OF, Column, name_protocols
from openvclip.report.summary.rows import ModelRow, Result
from openvclip.report.summary.runs import Problem, Run
from openvclip.report.summary.sections import SHOTS, MethodRow, Section, find_section

# Kind of note -> its heading, in the order in which they follow the table.
HEADINGS = {
    "missing": "Missing",
    "unfinished": "Failed, unfinished or unreadable",
    "partial": f"{MARKS['partial']} Mean over fewer lists than the protocol has, or fewer seeds",
    "failed": f"{MARKS['failed']} Videos that could not be decoded; they count as wrong",
    "rows": f"{MARKS['rows']} Not the videos of the published list",
    "setup": f"{MARKS['setup']} Not tested as the protocol says",
    "seen": f"{MARKS['seen']} Tested on videos that were trained on; not comparable with other "
            "numbers",
    "training": "Trained on something else",
    "unchecked": "Not checked",
    "replaced": "Several results for one cell",
    "derived": "Derived",
    "other": "Results outside the tables",
}


class Note(NamedTuple):
    """One note: the key of its heading, what it says, and names of the rows that it is about."""

    kind: str
    text: str
    rows: tuple[str, ...] = ()


Said = Iterator[tuple[str, str]]  # kind and text


def collect_notes(
    rows: Sequence[ModelRow],
    sections: Sequence[Section],
    runs: Sequence[Run],
    problems: Sequence[Problem],
    columns: Sequence[Column],
    check: SetupCheck,
) -> list[Note]:
    """Gather all notes in the order of :data:`HEADINGS`, one note for rows that share it.

    Args:
        rows: the zero-shot table's rows.
        sections: the tables over seeds.
        runs: all tests found.
        problems: folders of tests without results.
        columns: of the zero-shot table.
        check: what the results were compared with.
    """
    about: dict[tuple[str, str], dict[str, None]] = {}  # kind and text -> rows
    for row in rows:
        for said in _notes_of_row(row, columns):
            about.setdefault(said, {})[row.name] = None
    others = [("unfinished", f"{p.folder}: {p.what}") for p in problems]
    others += [("unchecked", f"label sets of {name}: {why}") for name, why in check.unread.items()]
    prompts = {row.facts["prompts"] for row in rows}
    if len(prompts) > 1:
        others.append(("setup", f"the rows were made with {len(prompts)} different prompt sets and "
                                "do not compare"))
    others += _derived(rows)
    for line in (line for section in sections for line in section.lines):
        of_line = (*_notes_of_seeds(line), *_notes_of_tests(line))
        others += [(kind, f"{line.name}: {text}") for kind, text in of_line]
    others += [("other", text) for run in runs if (text := _outside(run))]
    about |= {said: about.get(said, {}) for said in others}
    return [Note(kind, text, tuple(names)) for heading in HEADINGS
            for (kind, text), names in about.items() if kind == heading]


def _notes_of_row(row: ModelRow, columns: Sequence[Column]) -> Said:
    results = row.results
    untested = [p for column in columns if column.key not in row.cells for p in column.protocols]
    if untested:
        yield "missing", name_protocols(untested) + _say_derivable(row, untested)
    for column in columns:
        lacking = [p.name for p in column.protocols if p.name not in results]
        if column.key in row.cells and lacking:
            of = len(column.protocols)
            yield "partial", (f"{column.title}: {of - len(lacking)} of {of}; "
                              f"missing: {', '.join(lacking)}")
    for kind, say in (
        ("failed", _say_failed), ("rows", _say_rows),
        ("seen", lambda run: say_trained(run.content)),
    ):
        marked = [f"{name}: {say(result.run)}" for name, result in results.items()
                  if MARKS[kind] in result.marks]
        if marked:
            yield kind, "; ".join(marked)
    faults: dict[str, list[Protocol]] = {}
    for name, result in results.items():
        for fault in result.faults:
            faults.setdefault(fault, []).append(PROTOCOLS[name])
    for fault, protocols in faults.items():
        yield "setup", f"{name_protocols(protocols)}: {fault}"
    for shown, left_out in row.replaced:
        better = left_out.faults and not shown.faults
        why = "tested as the protocol says" if better else "newer"
        assert shown.run.protocol is not None  # the table has no others
        yield "replaced", f"{shown.run.protocol.name}: {_say_replaced(shown, left_out, why)}"


def _say_derivable(row: ModelRow, missing: Sequence) -> str:
    """Point out which missing results can be derived from existing predictions."""
    nearest = (next((s.name for s in find_sources(p) if s.name in row.results), None)
               for p in missing)
    sources = sorted(set(filter(None, nearest)))
    if not sources:
        return ""
    folders = ", ".join(str(row.results[name].run.folder) for name in sources)
    return f" (tools/derive_results.py can make some of them from {folders})"


def _say_replaced(shown: Result, left_out: Result, why: str = "newer") -> str:
    return (f"shown is {shown.run.folder} ({why}, {shown.value:.1f}), "
            f"left out {left_out.run.folder} ({left_out.value:.1f})")


def _say_failed(run: Run) -> str:
    return f"{run.failed:,} of {run.content['videos']:,}"


def _say_rows(run: Run) -> str:
    assert run.protocol is not None and run.protocol.rows is not None  # the caller asks
    videos, published = run.content["videos"], run.protocol.rows
    if videos < published:
        return f"{videos:,} of the {published:,} videos of the published list"
    return f"{videos:,} videos, the published list has {published:,}"


def _derived(rows: Sequence[ModelRow]) -> Said:
    """Say once which results were not run but derived from others."""
    names = {name for row in rows for name, result in row.results.items()
             if "derived_from" in result.run.content}
    if names:
        listed = name_protocols([p for p in PROTOCOLS.values() if p.name in names])
        yield "derived", (f"{listed}: from the saved predictions of the full lists; the same as a "
                          "test of their own")


def _notes_of_seeds(line: MethodRow) -> Said:
    key = find_section(line.first.run)
    if key == "few_shot" and list(line.cells) != ["0"]:
        missing = [str(shots) for shots in SHOTS if str(shots) not in line.cells]
        if missing:
            yield "missing", f"no results with K = {', '.join(missing)}"
        for shots, cell in sorted(line.cells.items(), key=lambda item: int(item[0])):
            lacking = [seed for seed in line.seeds if seed not in cell]
            if lacking:
                yield "partial", f"K = {shots} lacks the seeds {', '.join(lacking)}"
    for here, there in (("base", "novel"), ("novel", "base")) if key == "base_to_novel" else ():
        others = line.cells.get(there, {})
        for seed, result in line.cells.get(here, {}).items():
            if seed not in others:
                yield "partial" if others else "missing", (
                    f"seed {seed}: {result.run.folder} tests the {here} classes, but no test of "
                    f"the {there} classes with the same weights was found; no harmonic mean"
                )


def _notes_of_tests(line: MethodRow) -> Said:
    runs = {str(result.run.folder): result.run for cell in line.cells.values()
            for result in cell.values()}
    for folder, run in runs.items():
        if run.failed:
            yield "failed", f"{folder}: {_say_failed(run)}"
        if count_trained(run.content):
            yield "seen", f"{folder}: {say_trained(run.content)}"
        if training := _say_training(run):
            yield "training", f"{folder}: {training}"
    for shown, left_out in line.replaced:
        # The untouched CLIP is tested on each seed's lists; only other numbers are worth a note.
        if shown.run.weights is not None or shown.value != left_out.value:
            yield "replaced", f"seed {shown.seed}: {_say_replaced(shown, left_out)}"


def _say_training(run: Run) -> str:
    """Point out weights that were not trained on the draw that the test belongs to."""
    wanted = run.draw
    if run.weights is None or wanted is None:
        return ""
    file, trained = run.about("checkpoint").get("file"), run.about("trained_on")
    if not isinstance(run.content.get("trained_on"), dict):
        return f"what {file} was trained on is not known: no config.yaml of a training next to it"
    draw = parse_draw(trained.get("draw"))
    if draw is None or (draw.dataset, draw.shots, draw.seed) != (
            wanted.dataset, wanted.shots, wanted.seed) or (
            (draw.kind == "few-shot") != (wanted.kind == "few-shot")):
        return f"{file} was trained on {trained.get('list')}, not on these lists' draw"
    return ""


def _outside(run: Run) -> str:
    """Describe results without a place in the table; nothing if they have one."""
    protocol = run.protocol
    if find_section(run) is not None:
        return ""
    if protocol is None:
        what = f"{run.content['list']}, not the list of a known protocol"
    elif protocol.name not in COLUMN_OF:
        several = any(p.of == protocol.name and p.classes != protocol.classes
                      for p in PROTOCOLS.values())
        all_of = f"{protocol.classes} classes" if several else "videos"
        what = f"{protocol.name}, all {all_of} of its splits together"
    elif all("top1" in row for row in run.content["results"]):
        return ""
    else:
        what = f"{protocol.name}, with several labels per video"
    scores = ", ".join(_say_score(row) for row in run.content["results"])
    return f"{run.folder}: {what}: {scores}"


def _say_score(row: dict) -> str:
    name, value = ("top-1", row["top1"]) if "top1" in row else ("mAP", row["map_decoded"])
    ratio = row.get("patching_ratio")
    return f"{name} {value:.1f} %" + ("" if ratio is None else f" at ratio {ratio:g}")
