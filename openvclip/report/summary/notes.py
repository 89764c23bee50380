"""What the reader of a table must know beside its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from openvclip.data.lists.protocols import PROTOCOLS, find_sources
from openvclip.report.checks import MARKS, Fault, SetupCheck, say_trained
from openvclip.report.summary.columns import COLUMN_OF, Column, name_protocols
from openvclip.report.summary.rows import Result, Row
from openvclip.report.summary.runs import Problem, Run
from openvclip.report.summary.sections import find_section

# Kind of note -> its heading, in the order in which they stand below the table.
HEADINGS = {
    "missing": "Missing",
    "unfinished": "Failed, unfinished or unreadable",
    "partial": f"{MARKS['partial']} Mean over fewer lists than the protocol has, or fewer seeds",
    "failed": f"{MARKS['failed']} Videos that could not be decoded; they count as wrong",
    "rows": f"{MARKS['rows']} Other videos than on the published list",
    "setup": f"{MARKS['setup']} Not tested as the protocol says",
    "seen": f"{MARKS['seen']} Tested on videos that were trained on; not comparable with other "
            "numbers",
    "training": "Trained on something else",
    "unchecked": "Not checked",
    "replaced": "Several results for one cell",
    "derived": "Derived",
    "other": "Results outside the tables",
}


@dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        kind: the key of its heading.
        text: what it says.
        rows: names of the rows that it is about; empty: about none in particular.
    """

    kind: str
    text: str
    rows: tuple[str, ...] = ()


def collect_notes(
    rows: Sequence[Row],
    runs: Sequence[Run],
    problems: Sequence[Problem],
    columns: Sequence[Column],
    check: SetupCheck,
    further: Sequence[Note] = (),
) -> list[Note]:
    """Gather all notes, in the order of :data:`HEADINGS`.

    Args:
        rows: the table's rows.
        runs: all tests found.
        problems: folders of tests without results.
        columns: the table's columns.
        check: what the results were held to.
        further: notes of the other tables.
    """
    notes = [note for row in rows for note in _notes_of_row(row, columns)]
    notes += [Note("unfinished", f"{p.folder}: {p.what}") for p in problems]
    notes += [
        Note("unchecked", f"label sets of {name}: {why}") for name, why in check.unread.items()
    ]
    prompts = {row.facts["prompts"] for row in rows}
    if len(prompts) > 1:
        notes.append(Note("setup", f"the rows were made with {len(prompts)} different prompt "
                                   "sets and do not compare"))
    notes += _derived(rows)
    notes += further
    notes += [Note("other", text) for run in runs if (text := _outside(run))]
    order = list(HEADINGS)
    return sorted(_merge(notes), key=lambda note: order.index(note.kind))


def _merge(notes: Iterable[Note]) -> list[Note]:
    """Make one note of those that say the same of several rows."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for note in notes:
        found.setdefault((note.kind, note.text), {}).update(dict.fromkeys(note.rows))
    return [Note(kind, text, tuple(rows)) for (kind, text), rows in found.items()]


def _notes_of_row(row: Row, columns: Sequence[Column]) -> Iterator[Note]:
    about = (row.name,)
    cells = {column.key: row.cell(column) for column in columns}
    missing = [p for column in columns if not cells[column.key] for p in column.protocols]
    if missing:
        yield Note("missing", name_protocols(missing) + _say_derivable(row, missing), about)
    for cell in filter(None, cells.values()):
        if cell.missing:
            yield Note(
                "partial",
                f"{cell.column.title}: {len(cell.members)} of {len(cell.column.protocols)}; "
                f"missing: {', '.join(p.name for p in cell.missing)}", about,
            )
    for kind, say in (("failed", _say_failed), ("rows", _say_rows), ("seen", _say_seen)):
        found = _say_each(row, kind, say)
        if found:
            yield Note(kind, found, about)
    faults: dict[Fault, list] = {}
    for name, result in row.results.items():
        for fault in result.faults:
            faults.setdefault(fault, []).append(PROTOCOLS[name])
    for fault, protocols in faults.items():
        yield Note("setup", f"{name_protocols(protocols)}: {fault.what}", about)
    for protocol, shown, left_out in row.replaced:
        why = "newer"
        if left_out.faults and not shown.faults:
            why = "tested as the protocol says"
        yield Note(
            "replaced",
            f"{protocol.name}: shown is {shown.run.folder} ({why}, {shown.top1:.1f}), "
            f"left out {left_out.run.folder} ({left_out.top1:.1f})", about,
        )


def _say_derivable(row: Row, missing: Sequence) -> str:
    """Point out which missing results follow from predictions that are there."""
    nearest = (next((s.name for s in find_sources(p) if s.name in row.results), None)
               for p in missing)
    sources = sorted(set(filter(None, nearest)))
    if not sources:
        return ""
    folders = ", ".join(str(row.results[name].run.folder) for name in sources)
    return f" (tools/derive_results.py can make some of them from {folders})"


def _say_each(row: Row, kind: str, say: Callable[[str, Result], str]) -> str:
    """Say something of each result that has the mark of ``kind``."""
    order = list(PROTOCOLS)
    marked = [name for name, result in row.results.items() if MARKS[kind] in result.marks]
    return "; ".join(say(name, row.results[name]) for name in sorted(marked, key=order.index))


def _say_failed(name: str, result: Result) -> str:
    content = result.run.content
    return f"{name}: {len(content['failed']):,} of {content['videos']:,}"


def _say_seen(name: str, result: Result) -> str:
    return f"{name}: {say_trained(result.run.content)}"


def _say_rows(name: str, result: Result) -> str:
    videos, published = result.run.content["videos"], PROTOCOLS[name].rows
    if videos < published:
        return f"{name}: {videos:,} of the {published:,} videos of the published list"
    return f"{name}: {videos:,} videos, the published list has {published:,}"


def _derived(rows: Sequence[Row]) -> Iterator[Note]:
    """Say once which results were not run but follow from others."""
    names = {
        name for row in rows for name, result in row.results.items()
        if "derived_from" in result.run.content
    }
    if names:
        listed = name_protocols([PROTOCOLS[name] for name in PROTOCOLS if name in names])
        yield Note("derived", f"{listed}: from the saved predictions of the full lists; the same "
                              "as a test of their own")


def _outside(run: Run) -> str:
    """Describe results that have no place in the table; nothing if they have one."""
    protocol = run.protocol
    if find_section(run) is not None:
        return ""
    if protocol is None:
        what = f"{run.content['list']}, no list of a known protocol"
    elif protocol.name not in COLUMN_OF:
        several = any(p.of == protocol.name and p.classes != protocol.classes
                      for p in PROTOCOLS.values())
        all_of = f"{protocol.classes} classes" if several else "videos"
        what = f"{protocol.name}, all {all_of} of its splits together"
    elif all("top1" in row for row in run.content["results"]):
        return ""
    else:
        what = f"{protocol.name}, with several labels a video"
    scores = ", ".join(_say_score(row) for row in run.content["results"])
    return f"{run.folder}: {what}: {scores}"


def _say_score(row: dict) -> str:
    name, value = ("top-1", row["top1"]) if "top1" in row else ("mAP", row["map_decoded"])
    ratio = row.get("patching_ratio")
    return f"{name} {value:.1f} %" + ("" if ratio is None else f" at ratio {ratio:g}")
