"""The summary of a preparation for its user, as lines of text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from openvclip.data.prepare.plan import Preparation, PreparedList
from openvclip.data.prepare.writer import EXTRA, MISSING
from openvclip.utils.text import clean

SHOWN = 20  # Names of files shown on the terminal; the files have them all.


def describe_preparation(
    preparation: Preparation, root: Path | None = None, width: int = 100
) -> list[str]:
    """Describe the lists, the counts of each class, and missing and extra files.

    Args:
        preparation: what to describe.
        root: folder relative to which lists are named.
        width: columns of the terminal.
    """
    lines = [f"{preparation.name}:", *_table(preparation.lists, root)]
    for group in preparation.counted:
        lines += ["", *_class_counts(group, root, width)]
    what = (
        ("annotated files are not on disk", preparation.missing, MISSING),
        ("videos on disk are in no list", preparation.extra, EXTRA),
        ("names cannot be placed", preparation.unplaced, ""),
    )
    for title, names, file in what:
        if names:
            lines += ["", *_names(title, names, preparation.folder, file)]
    return lines + ["", *(f"note: {note}" for note in preparation.notes)]


def _table(lists: Sequence[PreparedList], root: Path | None) -> list[str]:
    rows = [("list", "rows", "", "classes", "videos per class: least / median / most")]
    for prepared in lists:
        counts = prepared.count_classes()
        rows.append((
            _name(prepared.path, root),
            f"{len(prepared.rows):,}",
            _published(prepared),
            f"{sum(map(bool, counts))} of {len(counts)}",
            f"{min(counts):,} / {statistics.median(counts):,g} / {max(counts):,}",
        ))
    columns = ("left", "right", "left", "left", "left")
    text = tabulate(rows, tablefmt="plain", colalign=columns, disable_numparse=True)
    return [f"  {line.rstrip()}" for line in text.split("\n")]


def _published(prepared: PreparedList) -> str:
    if prepared.published is None:
        return ""
    if len(prepared.rows) == prepared.published:
        return "as published"
    return f"of {prepared.published:,} published"


def _class_counts(group: Sequence[PreparedList], root: Path | None, width: int) -> list[str]:
    """Count class by class, in as many columns as fit; empty classes are one line."""
    every = list(zip(*(prepared.count_classes() for prepared in group), strict=True))
    present = [(name, " / ".join(f"{n:,}" for n in numbers))
               for name, numbers in zip(group[0].space.names, every, strict=True) if any(numbers)]
    title = " / ".join(_name(prepared.path, root) for prepared in group)
    lines = [f"Videos per class, {title}:"]
    if present:
        broad = max(len(count) for _, count in present)
        # Long names, as of Something-Something, are cut to leave room for two columns.
        long = min(max(len(clean(name)) for name, _ in present), max(width // 2 - broad - 4, 12))
        cells = [f"{_cut(name, long):<{long}} {count:>{broad}}" for name, count in present]
        columns = max((width - 2) // (long + broad + 3), 1)
        deep = -(-len(cells) // columns)
        lines += ["  " + "  ".join(cells[row::deep]) for row in range(deep)]
    if lacking := len(every) - len(present):
        lines.append(f"  {lacking:,} of {len(every):,} classes have no videos")
    return lines


def _cut(name: str, length: int) -> str:
    name = clean(name)
    return name if len(name) <= length else f"{name[:length - 3]}..."


def _names(title: str, names: Sequence[str], folder: Path | None, file: str) -> list[str]:
    where = f", all in {folder / file}" if file and folder and len(names) > SHOWN else ""
    first = f", the first {SHOWN}" if len(names) > SHOWN else ""
    return [f"{len(names):,} {title}{first}{where}:",
            *(f"  {clean(name)}" for name in names[:SHOWN])]


def _name(path: Path, root: Path | None) -> str:
    return clean(str(path.relative_to(root) if root and path.is_relative_to(root) else path))
