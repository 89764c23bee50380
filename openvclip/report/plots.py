"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Colours that stay apart for the colour-blind and in print (Okabe and Ito).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix (C, C) of counts, rows normalised, names where they fit."""
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    size = min(max(4.0, 0.22 * len(names)), 16.0)
    figure = Figure(figsize=(size + 1.5, size + 1.0), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's videos", shrink=0.8)
    if len(names) <= 60:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="named", ylabel="is")
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


def draw_training(points: Callable[[str, str], tuple[list[float], list[float]]]) -> Figure:
    """Draw losses and learning rate against epochs, and validation accuracies if there are any.

    Args:
        points: kind of line (``train_iter``, ``train_epoch``, ``val_epoch``) and name of a
            statistic -> epochs and values.
    """
    shown = [
        ("top1_acc", "top-1, as it is", BLUE, "o-"), ("top1_acc_patched", "top-1", ORANGE, "o-"),
        ("top5_acc", "top-5, as it is", BLUE, "s:"), ("top5_acc_patched", "top-5", ORANGE, "s:"),
        ("map", "mAP, as it is", BLUE, "o-"), ("map_patched", "mAP", ORANGE, "o-"),
    ]
    validated = [entry for entry in shown if points("val_epoch", entry[0])[0]]
    figure = Figure(figsize=(11 if validated else 6.5, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2 if validated else 1, height_ratios=(2, 1))
    losses = figure.add_subplot(grid[0, 0])
    rates = figure.add_subplot(grid[1, 0], sharex=losses)
    for name, label, colour in (
        ("loss", "loss", BLUE), ("connect_loss", "connect loss", ORANGE)
    ):
        losses.plot(*points("train_iter", name), color=colour, alpha=0.35, linewidth=1)
        if (mean := points("train_epoch", name))[0]:
            losses.plot(*mean, "o-", color=colour, markersize=4, label=f"{label}, epoch's mean")
    rates.plot(*points("train_iter", "lr"), color=GREEN)
    losses.set(ylabel="training loss", title="Training", ylim=(0, None))
    losses.tick_params(labelbottom=False)
    rates.set(xlabel="epoch", ylabel="learning rate", xlim=(0, None), ylim=(0, None))
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    drawn = [losses, rates]
    if validated:
        axes = figure.add_subplot(grid[:, 1])
        ratios = points("val_epoch", "patching_ratio")[1]
        for name, label, colour, style in validated:
            at = f", patched at {ratios[-1]:g}" if name.endswith("_patched") else ""
            axes.plot(*points("val_epoch", name), style, color=colour, markersize=5,
                      label=label + at)
        axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100), title="Validation",
                 xlim=losses.get_xlim())
        drawn.append(axes)
    for axes in drawn:
        _finish(axes)
    return figure


def _finish(axes: Axes) -> None:
    """Give axes the look of all pictures here, and the legend a place that no curve covers."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)


def draw_ratio_sweep(
    curves: Mapping[str, Mapping[str, Mapping[float, float]]],
    *,
    tradeoff: tuple[str, str],
    chosen: Mapping[str, float] | None = None,
) -> Figure:
    """Draw accuracy against the patching ratio, and one accuracy against another.

    Args:
        curves: run -> test set -> patching ratio -> top-1 accuracy in percent.
        tradeoff: the two test sets (vertical, horizontal) of the right-hand picture.
        chosen: run -> ratio to mark there.
    """
    colours = [ORANGE, BLUE, GREEN, GREY]
    styles = ["-", "--", ":", "-."]
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (run, sets) in zip(colours, curves.items(), strict=False):
        for style, (name, points) in zip(styles, sets.items(), strict=False):
            xs = sorted(points)
            left.plot(xs, [points[x] for x in xs], style, color=colour, label=f"{run}: {name}")
        ratios = sorted(set(sets[tradeoff[0]]) & set(sets[tradeoff[1]]))
        xs = [sets[tradeoff[1]][r] for r in ratios]
        ys = [sets[tradeoff[0]][r] for r in ratios]
        right.plot(xs, ys, "o-", color=colour, label=run, markersize=4)
        mark = (chosen or {}).get(run)
        if mark in ratios:
            at = ratios.index(mark)
            right.plot(xs[at], ys[at], "*", color=colour, markersize=16,
                       label=f"{run}: chosen ratio {mark:g}")
    left.set(xlabel="patching ratio (0: fine-tuned, 1: CLIP)", ylabel="top-1 accuracy (%)",
             xlim=(0, 1), ylim=(0, 100), title="Accuracy against the patching ratio")
    right.set(xlabel=f"{tradeoff[1]}: top-1 accuracy (%)",
              ylabel=f"{tradeoff[0]}: top-1 accuracy (%)", title="Learned against kept")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        # Below the axes, where no curve can run.
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a picture; the ending of ``path`` chooses the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
