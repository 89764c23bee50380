"""Predictions for videos: as objects, as a table in a terminal, as JSON and CSV."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from openvclip.report.writers import write_csv, write_json
from openvclip.utils.text import clean

BAR = 24  # Characters of a bar in the terminal at 100 %.
NUMBERS = 16  # Columns of a line that rank, probability and spaces take.


class Ranked(NamedTuple):
    """A label, its probability among the given labels or by itself, and its score (the logit)."""

    label: str
    probability: float
    score: float


@dataclass(frozen=True)
class Prediction:
    """What a video shows, or why it could not be read.

    Attributes:
        video: path of the file.
        ranking: the labels, best first.
        seconds: duration of the video; 0 if the file does not say.
        times: for each clip, the times of its T frames in seconds.
        frames: small pictures of them, uint8 (clips, T, h, w, 3); None unless requested.
        error: why the video could not be read; "" otherwise.
        embedding: float32 (D,) on the CPU, of a video that was only encoded; else None.
    """

    video: str
    ranking: list[Ranked] = field(default_factory=list)
    seconds: float = 0.0
    times: tuple[tuple[float, ...], ...] = ()
    frames: np.ndarray | None = field(default=None, repr=False)
    error: str = ""
    embedding: Tensor | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return format_prediction(self)


@dataclass(frozen=True)
class Timeline:
    """Labels of windows that slide over a video.

    Attributes:
        video: path of the file.
        labels: the N labels.
        window: seconds per window.
        stride: seconds from one window's start to the next.
        spans: seconds at which each of the W windows begins and ends.
        probabilities: (W, N), rows sum to 1 unless each label's is by itself.
        pictures: number of a window -> uint8 (h, w, 3), spread over the video.
        merged: number of windows merged into the one before, since they show the same frames.
        cut: whether the video continues after the last window, because there were too many.
    """

    video: str
    labels: tuple[str, ...]
    window: float
    stride: float
    spans: tuple[tuple[float, float], ...]
    probabilities: Tensor
    pictures: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    merged: int = 0
    cut: bool = False

    def segments(self) -> list[dict[str, Any]]:
        """Return the stretches in which one label is first: start, end, label, mean probability.

        A window stands for the time around its middle; the first and the last up to the ends.
        """
        best = self.probabilities.argmax(dim=1).tolist()
        segments, first = [], 0
        for label, group in itertools.groupby(best):
            count = len(list(group))
            rows = slice(first, first + count)
            segments.append({
                "start": round(self.edge(first), 3),
                "end": round(self.edge(first + count), 3),
                "label": self.labels[label],
                "probability": round(float(self.probabilities[rows, label].mean()), 6),
            })
            first += count
        return segments

    def edge(self, number: int) -> float:
        """Return the second from which window ``number`` stands for the video."""
        if number == 0:
            return self.spans[0][0]
        if number == len(self.spans):
            return self.spans[-1][1]
        # A long span stands for many windows: what counts is the middle of the outermost.
        (start, before), (after, end) = self.spans[number - 1 : number + 1]
        return (before - min(self.window, before - start) / 2
                + after + min(self.window, end - after) / 2) / 2


def compute_probabilities(scores: Tensor, single: bool = False) -> Tensor:
    """Scores (..., N) to probabilities among all N, or with ``single`` of each by itself."""
    return scores.sigmoid() if single else scores.softmax(dim=-1)


def rank_labels(
    labels: Sequence[str], scores: Tensor, top_k: int, single: bool = False
) -> list[Ranked]:
    """Return the ``top_k`` best labels of scores (N,), with their :func:`compute_probabilities`."""
    probabilities = compute_probabilities(scores.double(), single)
    order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
    return [Ranked(labels[i], float(probabilities[i]), float(scores[i])) for i in order]


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def shorten(text: str, width: int) -> str:
    """Cut a text to ``width`` columns, the last three of them dots if it was longer."""
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 3:
        text = text[:-1]
    return text.rstrip() + "..."


def printable(text: str) -> str:
    """Return a path as text that any output can hold: one line, every character visible."""
    return clean(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def format_prediction(prediction: Prediction, heading: str = "", columns: int = 100) -> str:
    """Format a ranking as lines of text, labels in one column, not wider than ``columns``."""
    title = f"{heading}{clean(prediction.video)}"
    if prediction.error:
        reason = prediction.error.removeprefix(f"{prediction.video}: ")
        return f"{title}\n  skipped: {clean(reason)}"
    clips = len(prediction.times)
    title += f"  ({prediction.seconds:.1f} s, {clips} clip{'s' if clips > 1 else ''})"
    # Labels before bars: a bar takes what the longest label leaves.
    names = [shorten(clean(row.label), max(columns - NUMBERS, 20)) for row in prediction.ranking]
    width = max(map(display_width, names), default=0)
    bar = max(min(BAR, columns - NUMBERS - width - 2), 0)
    lines = [
        f"  {rank:>3}  {name}{' ' * (width - display_width(name))}  {row.probability:6.1%}".replace(
            "%", " %") + f"  {'#' * round(bar * row.probability)}"
        for rank, (name, row) in enumerate(zip(names, prediction.ranking, strict=True), 1)
    ]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def describe(prediction: Prediction) -> dict[str, Any]:
    """Return a video's entry in ``predictions.json``."""
    if prediction.error:
        return {"video": printable(prediction.video), "reason": printable(prediction.error)}
    return {
        "video": printable(prediction.video),
        "seconds": round(prediction.seconds, 3),
        "ranking": [
            {"rank": rank, "label": row.label, "probability": round(row.probability, 6),
             "score": round(row.score, 4)}
            for rank, row in enumerate(prediction.ranking, 1)
        ],
        "clips": [[round(t, 3) for t in times] for times in prediction.times],
    }


def write_predictions(
    folder: str | Path, facts: dict[str, Any], videos: Sequence[dict], failed: Sequence[dict]
) -> list[Path]:
    """Write ``predictions.json`` and ``predictions.csv`` to a folder; return their paths.

    Args:
        facts: what the JSON begins with: the model and the labels.
        videos, failed: what :func:`describe` returns for videos predicted, and for the others.
    """
    paths = [Path(folder) / "predictions.json", Path(folder) / "predictions.csv"]
    write_json(paths[0], {**facts, "videos": videos, "failed": failed})
    rows = [[video["video"], *row.values(), ""] for video in videos for row in video["ranking"]]
    rows += [[video["video"], "", "", "", "", video["reason"]] for video in failed]
    write_csv(paths[1], ["video", "rank", "label", "probability", "score", "error"], rows)
    return paths


def write_timeline(path: str | Path, timeline: Timeline) -> None:
    """Write a CSV with one row per window: start, end, first label, every label's probability."""
    rows = (
        [round(start, 3), round(end, 3), timeline.labels[max(range(len(row)), key=row.__getitem__)],
         *(round(value, 6) for value in row)]
        for (start, end), row in zip(
            timeline.spans, map(Tensor.tolist, timeline.probabilities), strict=True)
    )
    write_csv(path, ["start", "end", "first", *timeline.labels], rows)
