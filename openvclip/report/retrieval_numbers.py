"""The names of a retrieval test's numbers, and their table in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("r1", "r5", "r10", "median_rank", "mean_rank")
TITLES = ("R@1", "R@5", "R@10", "MdR", "MnR")
DIRECTIONS = ("t2v", "v2t")  # text to video, video to text


def name_numbers() -> list[str]:
    """Return the names of the numbers in a test's results: ``t2v_r1`` and so on."""
    return [f"{direction}_{column}" for direction in DIRECTIONS for column in COLUMNS]


def format_scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of results, one line per patching ratio."""
    titles = [f"{direction.upper()} {title}" for direction in DIRECTIONS for title in TITLES]
    lines = ["  ".join(["ratio ", *titles])]
    for row in rows:
        ratio = row.get("patching_ratio")
        cells = [f"{row[name]:.1f}".rjust(len(title))
                 for name, title in zip(name_numbers(), titles, strict=True)]
        lines.append("  ".join(["-     " if ratio is None else f"{ratio:<6g}", *cells]))
    return lines
