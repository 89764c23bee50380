"""The targets of the benchmarks, and whether they are met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

SMALL, LARGE = "up to 480p", "1080p"
# Per mode and size: most of ours / floor, least of straightforward / ours.
TARGETS = {
    "test": {SMALL: (1.6, 4.0), LARGE: (2.0, 12.0)},
    "train": {SMALL: (1.8, 3.0), LARGE: (1.8, 3.0)},
}
LOADER_TARGET = 1.7


def _size(row: dict[str, Any]) -> str | None:
    short = min(row["width"], row["height"])
    if short <= 480:
        return SMALL
    return LARGE if short >= 1080 else None


def summarize(mode: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians over the clips of each size, with their targets.

    Clips between the two sizes count for neither. Generated clips count among the small ones, and
    are summed up by themselves as well.
    """
    made = [row for row in rows if row["generated"]]
    groups = [(size, size, [row for row in rows if _size(row) == size]) for size in (SMALL, LARGE)]
    groups.insert(1, (f"{SMALL}, generated", SMALL, [r for r in made if _size(r) == SMALL]))
    return [_summary(mode, name, size, chosen) for name, size, chosen in groups if chosen]


def _summary(
    mode: str, name: str, size: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    most, least = TARGETS[mode][size]
    floor = statistics.median(row["ours_over_floor"] for row in rows)
    straight = statistics.median(row["straightforward_over_ours"] for row in rows)
    return {
        "clips_of": name, "videos": len(rows),
        "ours_over_floor": floor, "ours_over_floor_target": most,
        "ours_over_floor_met": floor <= most,
        "straightforward_over_ours": straight, "straightforward_over_ours_target": least,
        "straightforward_over_ours_met": straight >= least,
    }


# Of the compute path. Most of view / no view, least of straightforward / ours, by precision.
VIEW_TARGETS = {"fp32": 1.12, "bf16": 1.2}
STEP_TARGETS = {"fp32": 1.08, "bf16": 2.2}
INTERPOLATED_TARGET = 2.03
BF16_TARGET = 2.3
# Copies of the trainable parameters above a plain step; GiB below the straightforward one.
COPIES_TARGET, SAVED_TARGET = 1.0, 1.5
# Most of a step's time and memory over those of an earlier version.
UNCHANGED_TARGET = 1.01
MATMUL_SHARE_TARGET = 0.45
TEXT_TARGET = 4.0
# GiB above the interpreter; least of stacking / ours; most of twenty / fewer checkpoints.
AVERAGE_TARGET, STACKING_TARGET, TWENTY_TARGET = 1.6, 3.0, 1.05


def judge_most(name: str, value: float, target: float | None, **more: Any) -> dict[str, Any]:
    """Return a figure that must be at most ``target``; None means no target."""
    return _judged(name, value, target, "<=", more)


def judge_least(name: str, value: float, target: float | None, **more: Any) -> dict[str, Any]:
    """Return a figure that must be at least ``target``; None means no target."""
    return _judged(name, value, target, ">=", more)


def state_ratio(name: str, value: float, **more: Any) -> dict[str, Any]:
    """Return a figure without a target."""
    return _judged(name, value, None, "", more)


def _judged(
    name: str, value: float, target: float | None, sign: str, more: dict[str, Any]
) -> dict[str, Any]:
    met = None
    if target is not None:
        met = value <= target if sign == "<=" else value >= target
    return {"name": name, **more, "value": value, "sign": sign, "target": target, "met": met}
