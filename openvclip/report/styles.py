"""Colours and line styles: one table for all pictures of runs and test sets.

The same kind of training and the same test set look alike in every picture, whatever they are
called there and in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps

# Colours that remain distinct for the colour-blind and in print (Okabe and Ito).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
COLOURS = (ORANGE, BLUE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
LINES = ("-", "--", ":", "-.")
MARKS = ("", "o", "s", "^", "D", "v", "P", "X")

# Kinds of training and words of a test set's name -> place in the tables above.
KINDS = {"plain": 0, "interpolated": 1, "captions": 2}
SETS = {"trained": 0, "unseen": 1, "knew": 2}


def colour_runs(runs: Sequence[str], kinds: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return run -> colour.

    Args:
        runs: names of checkpoints.
        kinds: of those that are known, how they were trained: one of :data:`KINDS`. The first of a
            kind has the kind's colour, all others the next free ones.
    """
    kinds = kinds or {}
    return _colours(_allot(runs, {run: KINDS.get(kinds.get(run, "")) for run in runs}))


def style_sets(
    sets: Sequence[str], trained: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return test set -> colour, for pictures of one run, and test set -> style of its line.

    Args:
        sets: names of test sets, such as ``unseen`` or ``unseen classes``.
        trained: those whose classes were trained on: the first is drawn with a whole line.
    """
    wanted = {}
    for name in sets:
        known = [SETS[word] for word in name.split() if word in SETS]
        wanted[name] = known[0] if known else 0 if name in trained else None
    free = 1 if trained else 0  # the whole line is kept for what was trained
    places = _allot(sets, wanted, free)
    return _colours(places), {name: {"linestyle": LINES[place % 4],
                                     "marker": MARKS[place // 4 % len(MARKS)]}
                              for name, place in places.items()}


def _allot(
    names: Iterable[str], wanted: Mapping[str, int | None], first: int = 0
) -> dict[str, int]:
    """Give each name its preferred place if that is free, else the next free one."""
    taken: dict[str, int] = {}
    for name in names:
        place = wanted[name]
        if place is not None and place not in taken.values():
            taken[name] = place
    for name in names:
        if name not in taken:
            taken[name] = next(i for i in range(first, first + len(taken) + 2)
                               if i not in taken.values())
    return {name: taken[name] for name in names}


def _colours(places: Mapping[str, int]) -> dict[str, Any]:
    """Colours that are easy to tell apart; beyond eight, evenly spaced on a colour scale."""
    if max(places.values(), default=0) < len(COLOURS):
        return {name: COLOURS[place] for name, place in places.items()}
    scale = colormaps["turbo"](np.linspace(0, 1, len(places)))
    return dict(zip(places, scale, strict=True))
