"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from openvclip.report.styles import BLUE, GREY, colour_runs, style_sets
from openvclip.utils.files import replacing_file
from openvclip.utils.logging import get_logger

if TYPE_CHECKING:  # summaries wait for matplotlib, but not for torch
    from torch import Tensor

logger = get_logger(__name__)

FEW = 30  # Points of a curve that are also drawn as dots.


def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix (C, C) of counts, rows normalised, names where they fit.

    Classes without videos that were never predicted are left out.
    """
    present = (counts.sum(dim=0) + counts.sum(dim=1)).nonzero().flatten().tolist()
    title = "" if len(present) == len(names) else f"{len(present)} of {len(names)} classes occur"
    counts, names = counts[present][:, present], [names[i] for i in present]
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    size = min(max(4.0, 0.22 * len(names)), 16.0)
    figure = Figure(figsize=(size + 1.5, size + 1.0), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's videos", shrink=0.8)
    if len(names) <= 60:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="named", ylabel="is", title=title)
    return figure


def draw_class_accuracy(total: Tensor, right: Tensor, names: Sequence[str]) -> Figure:
    """Draw each class's top-1 accuracy as a bar, worst first; at most the 60 worst."""
    accuracy = (right.double() / total.clamp(min=1) * 100).numpy()
    present = [i for i in np.argsort(accuracy, kind="stable") if total[i] > 0][:60]
    figure = Figure(figsize=(7, 1.0 + 0.18 * max(len(present), 4)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(present)), accuracy[present], color=BLUE)
    axes.set_yticks(range(len(present)), [names[i] for i in present], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="top-1 accuracy (%)", xlim=(0, 100))
    return figure


def draw_frames(frames: np.ndarray, title: str) -> Figure:
    """Draw frames (T, H, W, 3) uint8 side by side under a title."""
    figure = Figure(figsize=(1.5 * len(frames), 2.4), layout="constrained")
    for axes, frame in zip(np.atleast_1d(figure.subplots(1, len(frames))), frames, strict=True):
        axes.imshow(frame)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure


def draw_ratio_sweep(
    curves: Mapping[str, Mapping[str, Mapping[float, float]]],
    *,
    trained: Sequence[str] = (),
    zero_shot: Sequence[str] = (),
    chosen: Mapping[str, float] | None = None,
    kinds: Mapping[str, str] | None = None,
    metric: str = "top-1 accuracy (%)",
    title: str = "",
) -> Figure:
    """Draw accuracy against the patching ratio, and trained against zero-shot accuracy.

    A colour is a checkpoint and a line style a test set; if there is only one checkpoint, a
    colour is a test set.

    Args:
        curves: checkpoint -> test set -> patching ratio -> accuracy in per cent.
        trained: test sets whose mean is the vertical axis of the right-hand picture.
        zero_shot: test sets whose mean is its horizontal axis. It is drawn if both are given and
            some checkpoint was tested on all of them at two or more common ratios.
        chosen: checkpoint -> ratio to mark there.
        kinds: checkpoint -> how it was trained, see :func:`openvclip.report.styles.colour_runs`.
        metric: what the accuracies are.
        title: of the whole picture.
    """
    sets = list(dict.fromkeys(name for tested in curves.values() for name in tested))
    tradeoffs = {
        run: points for run, tested in curves.items()
        if len(points := compute_tradeoff(tested, trained, zero_shot)) > 1
    }
    several = len(curves) > 1
    runs = colour_runs(list(curves), kinds)
    by_set, styles = style_sets(sets, trained)
    if not several:  # room for what was measured and what lies between
        styles = {name: {**style, "marker": style["marker"] or "."}
                  for name, style in styles.items()}
    height = 4.3 + 0.18 * max(len(curves) if several else 0, len(sets), 3)
    figure = Figure(figsize=(11 if tradeoffs else 6.5, height), layout="constrained")
    left, *right = figure.subplots(1, 2 if tradeoffs else 1, squeeze=False)[0]
    for run, measured in curves.items():
        for name, accuracies in measured.items():
            xs = sorted(accuracies)
            left.plot(xs, [accuracies[x] for x in xs], linewidth=1.6, markersize=4,
                      color=runs[run] if several else by_set[name], **styles[name])
    left.set(xlabel="patching ratio (0: fine-tuned, 1: CLIP)", ylabel=metric, xlim=(-0.01, 1.01),
             ylim=(0, 100), title="Accuracy against the patching ratio")
    legend_below(
        left,
        [Line2D([], [], color=c, linewidth=4, label=r) for r, c in runs.items() if several],
        [Line2D([], [], color=GREY if several else by_set[name], label=name, markersize=4,
                **styles[name]) for name in sets],
    )
    for axes in right:
        _draw_tradeoff(axes, tradeoffs, runs, chosen or {})
        axes.set(xlabel=_name_mean(zero_shot, "zero-shot", metric),
                 ylabel=_name_mean(trained, "trained", metric), title="The trade-off")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def compute_tradeoff(
    tested: Mapping[str, Mapping[float, float]], trained: Sequence[str], zero_shot: Sequence[str]
) -> dict[float, tuple[float, float]]:
    """Return ratio -> (mean over ``zero_shot``, mean over ``trained``), if all sets have it."""
    names = [*trained, *zero_shot]
    if not trained or not zero_shot or any(name not in tested for name in names):
        return {}
    common = sorted(set.intersection(*(set(tested[name]) for name in names)))
    return {
        ratio: (fmean(tested[name][ratio] for name in zero_shot),
                fmean(tested[name][ratio] for name in trained))
        for ratio in common
    }


def _draw_tradeoff(
    axes: Axes, curves: Mapping[str, Mapping[float, tuple[float, float]]],
    colours: Mapping[str, Any], chosen: Mapping[str, float],
) -> None:
    lines, marks = [], []
    look: dict[str, Any] = {"fontsize": 7 if len(curves) > 1 else 8,
                            "textcoords": "offset points", "va": "center"}
    for number, (run, points) in enumerate(curves.items()):
        lines += axes.plot(*zip(*points.values(), strict=True), "o-", color=colours[run],
                           label=run, markersize=4)
        if (mark := chosen.get(run)) is not None and mark in points:
            marks += axes.plot(*points[mark], "*", color=colours[run], markersize=16,
                               label=f"{run}: chosen ratio {mark:g}")
        # Which point is which; neighbouring curves write to different sides of theirs.
        left = number % 2 == 0 and len(curves) > 1
        for ratio, place in points.items():
            axes.annotate(f"{ratio:g}", place, (-6 if left else 6, -5 if left else 5),
                          ha="right" if left else "left", color=colours[run], **look)
    axes.margins(0.08)
    if len(curves) > 1 or marks:
        legend_below(axes, lines, marks)
    else:
        finish(axes)


def _name_mean(names: Sequence[str], kind: str, metric: str) -> str:
    """Name an axis after its sets; several long ones by their number."""
    text = ", ".join(names)
    if len(names) > 1:
        text = f"mean of {text if len(text) <= 34 else f'{len(names)} {kind} sets'}"
    return f"{text if len(text) <= 42 else f'{text[:39]}...'}\n{metric}"


def legend_below(axes: Axes, *groups: Sequence[Line2D]) -> None:
    """Put the legend below the axes, where there are no curves: a column for each group."""
    finish(axes)
    groups = tuple(list(group) for group in groups if group)
    if len(groups) == 1:  # in columns as its texts allow
        longest = max(len(str(line.get_label())) for line in groups[0])
        columns = 3 if longest <= 18 else 2 if longest <= 36 else 1
    else:
        columns = len(groups)
        rows = max(map(len, groups))
        groups = tuple([*g, *[Line2D([], [], alpha=0, label=" ")] * (rows - len(g))]
                       for g in groups)
    axes.legend(handles=[line for group in groups for line in group], fontsize=8, ncols=columns,
                loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=6.8, handlelength=3)


def finish(axes: Axes) -> None:
    """Give axes the common look of all pictures here."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a picture; the ending of ``path`` chooses the format."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(path).suffix[1:].lower() or "png")


def save_or_warn(path: str | Path, draw: Callable[[], Figure]) -> Path | None:
    """Draw and write a picture; results are worth more, so a failure is only a warning.

    Returns:
        The picture's path, or None after a failure.
    """
    try:
        save_figure(draw(), path)
    except Exception as error:
        logger.warning("%s was not drawn (%s: %s)", path, type(error).__name__, error)
        return None
    return Path(path)
