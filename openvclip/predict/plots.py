"""Pictures of predictions: the sampled frames above bars, and labels over the time of a video."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from openvclip.predict.results import Prediction, Timeline, printable, shorten
from openvclip.report.styles import BLUE, GREY

WIDTH = 12.0  # Of figures, in inches.
TITLE = 0.45  # Its two lines, likewise.
PER_LINE = 8  # Frames side by side.
LINES = 6  # Most lines of frames.
TALLEST = 1.7  # Of a frame, in inches.
LABEL_LINE = 60  # Characters of a label per line; at most two lines.
ROWS = 20  # Most labels of a timeline.
MATTERS = 0.05  # A label with this probability at its peak is sorted by when that is.
STRIP = 12  # Pictures above a timeline.


def format_time(seconds: float) -> str:
    """Format a moment of a video: ``0.53 s``, ``1:02.5``, ``1:02:03``."""
    if round(seconds, 2) < 60:
        return f"{seconds:.2f} s"
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    if minutes < 60:
        return f"{minutes}:{rest / 10:04.1f}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest // 10:02d}"


def wrap_label(label: str) -> str:
    """Break a label into at most two lines of ``LABEL_LINE`` characters."""
    lines = textwrap.wrap(shorten(printable(label), 2 * LABEL_LINE - 10), LABEL_LINE)
    return "\n".join(lines[:2])


def draw_prediction(prediction: Prediction, note: str = "") -> Figure:
    """Draw the frames that the model saw, with their times, above bars of the ranking.

    The parts of a frame outside the square that the model sees are dimmed. Of many clips the first
    lines are shown.

    Args:
        prediction: with frames.
        note: a line below the title: which model, how many labels.
    """
    frames = prediction.frames
    assert frames is not None, "the prediction was made without frames"
    clips, count, height, width, _ = frames.shape
    per_clip = -(-count // PER_LINE)
    shown = max(1, min(clips, LINES // per_clip))
    across = min(count, PER_LINE)
    tall = min((WIDTH - 0.8) / across * height / width, TALLEST) + 0.28
    labels = [wrap_label(row.label) for row in prediction.ranking]
    bars = 0.55 + sum(0.17 + 0.15 * (1 + label.count("\n")) for label in labels)
    picture = shown * per_clip * tall
    layout = ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=(WIDTH, TITLE + picture + bars), layout=layout)
    parts: Any = figure.subfigures(2, 1, height_ratios=[TITLE + picture, bars])
    upper, lower = parts
    more = f" (the first {shown} of {clips} clips)" if shown < clips else ""
    _set_title(upper, prediction.video, note + more)
    grid = upper.subplots(shown * per_clip, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for clip in range(shown):
        for place in range(count):
            axes = grid[clip * per_clip + place // PER_LINE, place % PER_LINE]
            _draw_frame(axes, frames[clip, place], prediction.times[clip][place])
            if place == 0 and clips > 1:
                axes.text(-0.06, 0.5, f"clip {clip + 1}", rotation=90, va="center", ha="right",
                          fontsize=8, transform=axes.transAxes)
    _draw_bars(lower.subplots(), labels, [row.probability for row in prediction.ranking])
    return figure


def _draw_frame(axes: Axes, image: np.ndarray, seconds: float) -> None:
    height, width, _ = image.shape
    axes.imshow(image, interpolation="antialiased")
    side = min(height, width)
    for x, y, w, h in (
        (0, 0, (width - side) / 2, height), ((width + side) / 2, 0, (width - side) / 2, height),
        (0, 0, width, (height - side) / 2), (0, (height + side) / 2, width, (height - side) / 2),
    ):
        if w >= 1 and h >= 1:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, color="white", alpha=0.55, lw=0))
    axes.text(0.5, -0.03, format_time(seconds), va="top", ha="center", fontsize=9,
              transform=axes.transAxes)


def _draw_bars(axes: Axes, labels: Sequence[str], probabilities: Sequence[float]) -> None:
    percent = [100 * p for p in probabilities]
    colours = [BLUE, *[GREY] * (len(labels) - 1)]
    bars = axes.barh(range(len(labels)), percent, color=colours, height=0.7)
    axes.bar_label(bars, fmt="%.1f %%", padding=3, fontsize=8)
    _label_rows(axes, labels)
    axes.set(xlim=(0, 100), xticks=range(0, 101, 20), ylim=(len(labels) - 0.4, -0.6))
    axes.set_xlabel("probability (%)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_timeline(timeline: Timeline, note: str = "") -> Figure:
    """Draw the probability of each label over time, under pictures from the video.

    Labels that matter come first, in the order of their peaks. Of more than ``ROWS`` labels those
    with the highest peaks are shown. ``note`` is a line below the title.
    """
    values = timeline.probabilities.double().numpy().T  # (N, W)
    rows = order_rows(values)
    labels = [wrap_label(timeline.labels[row]) for row in rows]
    tall = 0.6 + sum(0.1 + 0.15 * (1 + label.count("\n")) for label in labels)
    figure = Figure(figsize=(WIDTH, 1.4 + tall), layout="constrained")
    more = f" (shown: the {len(rows)} with the highest peaks)" if len(rows) < len(values) else ""
    _set_title(figure, timeline.video, note + more)
    strip, axes = figure.subplots(2, 1, height_ratios=[0.85, tall], sharex=True)
    edges = [timeline.edge(i) for i in range(len(timeline.spans) + 1)]
    lines = np.arange(len(rows) + 1) - 0.5
    mesh = axes.pcolormesh(edges, lines, 100 * values[rows], vmin=0, vmax=100, cmap="Blues")
    axes.hlines(lines, edges[0], edges[-1], color=GREY, lw=0.4)
    _label_rows(axes, labels)
    axes.xaxis.set_major_formatter(lambda x, _: format_time(x) if x >= 60 else f"{x:g} s")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlabel(
        f"windows of {timeline.window:.3g} s, one every {timeline.stride:.3g} s", fontsize=8)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=6 * tall, ticks=range(0, 101, 20))
    bar.set_label("probability (%)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _draw_strip(strip, timeline, edges)
    return figure


def order_rows(values: np.ndarray) -> list[int]:
    """Return which labels of probabilities (N, W) a timeline shows, from top to bottom."""
    peaks = values.max(axis=1)
    rows = np.argsort(-peaks, kind="stable")[:ROWS].tolist()
    strong = [row for row in rows if peaks[row] >= MATTERS]
    return sorted(strong, key=lambda row: int(values[row].argmax())) + rows[len(strong):]


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)


def _set_title(figure: Figure | SubFigure, video: str, note: str) -> None:
    figure.suptitle(f"{shorten(printable(video), 110)}\n{note}", fontsize=10, parse_math=False)


def _draw_strip(axes: Axes, timeline: Timeline, edges: Sequence[float]) -> None:
    """Draw pictures at their times, as many as fit without overlapping."""
    axes.set_axis_off()
    axes.set_ylim(0, 1)
    room = (edges[-1] - edges[0]) / STRIP
    last = -np.inf
    for number, image in timeline.pictures.items():
        middle = sum(timeline.spans[number]) / 2
        if middle - last < room:
            continue
        last = middle
        inset = axes.inset_axes((middle - room * 0.48, 0.0, room * 0.96, 1.0),
                                transform=axes.transData)
        inset.imshow(image, interpolation="antialiased")
        inset.set_anchor("S")
        inset.set_axis_off()
