"""The picture of a training run: every loss in its log, the learning rate, validations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from openvclip.report.plots import FEW, finish, legend_below
from openvclip.report.styles import BLUE, COLOURS, GREEN, GREY

# Kind of line (``train_iter``, ``train_epoch``, ``val_epoch``), statistic -> epochs and values.
Points = Callable[[str, str], tuple[list[float], list[float]]]

LOSS, TOTAL, ENDING = "loss", "total_loss", "_loss"
NEAR = 5.0  # Losses within this factor of that of classification are drawn with it ...
MOST = 4  # ... up to so many kinds of them; each other kind has a panel of its own.
WIDE, ROW = 3, 1.9  # Panels in a row, and the height of a row.
# Metric -> its words, and the style of its lines.
METRICS = {"top1_acc": ("top-1", "o-"), "top5_acc": ("top-5", "s:"), "map": ("mAP", "o-")}


class Curve(NamedTuple):
    """A loss in the picture.

    Attributes:
        name: its name in the log.
        kind: the loss of which it is the value, at the same or at other weights.
        colour: of its kind.
        line: style of the epochs' means.
    """

    name: str
    kind: str
    colour: str
    line: str


def list_losses(names: Iterable[str]) -> list[Curve]:
    """Return the losses among the statistics of a log, that of classification first.

    A loss at other weights, such as ``connect_caption_loss`` beside ``caption_loss``, has the
    colour of its kind and a broken line. Passes over other weights are known by that: their own
    name is that of a loss, and another loss has it before its name.
    """
    found = [name for name in dict.fromkeys(names) if name == LOSS or name.endswith(ENDING)]
    found.sort(key=lambda name: (name == TOTAL, name != LOSS))  # stable: else in the log's order
    passes = [name.removesuffix(LOSS) for name in found
              if name != LOSS and any(name.removesuffix(LOSS) + other in found
                                      for other in found if other != LOSS)]
    kinds = {}
    for name in found:
        # "connect_loss" is "loss" in the pass "connect_".
        taken = next((p for p in passes if name.removeprefix(p) in found and name != p), "")
        kinds[name] = name.removeprefix(taken)
    free = [colour for colour in COLOURS if colour != BLUE]
    others = [name for name in dict.fromkeys(kinds.values()) if name not in (LOSS, TOTAL)]
    colours = {LOSS: BLUE, **{name: free[i % len(free)] for i, name in enumerate(others)},
               TOTAL: GREY}
    order = list(colours)
    return [Curve(name, kind, colours[kind], "-" if name == kind else "--") for name, kind
            in sorted(kinds.items(), key=lambda x: (order.index(x[1]), x[0] != x[1]))]


def group_losses(curves: Sequence[Curve], points: Points) -> list[list[Curve]]:
    """Return the curves of each panel: those of about the size of the loss first, then by kind."""
    kinds: dict[str, list[Curve]] = {}
    for curve in curves:
        kinds.setdefault(curve.kind, []).append(curve)
    sizes = {kind: max(_measure(points, curve.name) for curve in of) for kind, of in kinds.items()}
    usual = sizes.get(LOSS, 0.0)
    near = [kind for kind, size in sizes.items()
            if kind == LOSS or usual / NEAR <= size <= usual * NEAR][:MOST]
    panels = [[curve for kind in near for curve in kinds[kind]]]
    return panels + [of for kind, of in kinds.items() if kind not in near]


def _measure(points: Points, name: str) -> float:
    """The usual size of a loss."""
    values = points("train_epoch", name)[1] or points("train_iter", name)[1]
    return median(map(abs, values)) if values else 0.0


def draw_training(points: Points, names: Callable[[str], Sequence[str]]) -> Figure:
    """Draw losses and learning rate against epochs, and validation accuracies if there are any.

    Args:
        points: see :data:`Points`.
        names: kind of line -> its statistics that are numbers.
    """
    main, *panels = group_losses(
        list_losses([*names("train_iter"), *names("train_epoch")]), points)
    validated = list_accuracies(names("val_epoch"))
    rows = -(-len(panels) // WIDE)
    figure = Figure(figsize=(11 if validated or panels else 6.5, 5.6 + rows * ROW),
                    layout="constrained")
    # Figures in the figure, so that each keeps its own margins.
    parts: Any = figure
    top, below = (parts.subfigures(2, 1, height_ratios=(5.6, rows * ROW)) if panels
                  else (parts, None))
    left, right = top.subfigures(1, 2) if validated else (top, None)
    losses, rates = left.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _draw_losses(losses, main, points)
    losses.set_ylabel("training loss")
    left.suptitle("Training (dots: means of epochs)")
    if len(main) <= 3:
        losses.legend(fontsize=8, handlelength=3)
    else:  # they would hide curves
        left.legend(handles=losses.get_legend_handles_labels()[0], fontsize=8, ncols=3,
                    handlelength=3, loc="outside lower center")
    _draw_rate(rates, points)
    if right is not None:
        axes = right.subplots()
        right.suptitle("Validation")
        _draw_validation(axes, validated, points)
        axes.set_xlim(losses.get_xlim())
    if below is not None:
        _draw_panels(below, panels, points, losses.get_xlim())
    return figure


def _draw_panels(
    figure: SubFigure, panels: Sequence[Sequence[Curve]], points: Points,
    limits: tuple[float, float],
) -> None:
    """Draw losses of other sizes, each kind with an axis of its own."""
    columns = min(len(panels), WIDE)
    cells = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
    for axes, curves in zip(cells, panels, strict=False):
        _draw_losses(axes, curves, points)
        axes.set_title(_say(curves[0].kind), fontsize=9)
        axes.set_xlim(limits)
        axes.tick_params(labelsize=8)
        if len(curves) > 1:
            axes.legend(fontsize=7, handlelength=3)
    for axes in cells[len(panels):]:
        axes.remove()


def _draw_losses(axes: Axes, curves: Sequence[Curve], points: Points) -> None:
    """Draw losses: faint per iteration, and the epochs' means."""
    least = 0.0
    for name, _, colour, line in curves:
        steps, means = points("train_iter", name), points("train_epoch", name)
        axes.plot(*steps, color=colour, alpha=0.35, linewidth=1,
                  label=None if means[0] else _say(name))
        if means[0]:
            axes.plot(*means, f"o{line}", color=colour, markersize=4, label=_say(name))
        least = min(least, *steps[1], *means[1])
    if least == 0:
        axes.set_ylim(0, None)
    finish(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_rate(axes: Axes, points: Points) -> None:
    rate = points("train_iter", "lr")
    if not rate[0]:  # logs of before had no line in an epoch shorter than LOG_PERIOD
        rate = points("train_epoch", "lr")
    axes.plot(*rate, color=GREEN, marker="o" if len(rate[0]) <= FEW else "", markersize=4)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, None), ylim=(0, None))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes)


def list_accuracies(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the accuracies of validations: their name -> metric, and whose weights they are of."""
    found = {}
    for name in names:
        for metric in METRICS:
            if name == metric or name.startswith(f"{metric}_"):
                found[name] = metric, name[len(metric) + 1:]
    return found


def _draw_validation(
    axes: Axes, validated: Mapping[str, tuple[str, str]], points: Points
) -> None:
    ratios = points("val_epoch", "patching_ratio")[1]
    colours = dict(zip(dict.fromkeys(["", "patched", *(whose for _, whose in validated.values())]),
                       (BLUE, *(c for c in COLOURS if c != BLUE)), strict=False))
    places = [(metric, whose) for metric in METRICS for whose in colours]
    for name, (metric, whose) in sorted(validated.items(), key=lambda x: places.index(x[1])):
        words, style = METRICS[metric]
        other, patched = whose.removesuffix("patched").strip("_"), whose.endswith("patched")
        state = ("patched" + f" at {ratios[-1]:g}" * bool(ratios)) if patched else "unpatched"
        axes.plot(*points("val_epoch", name), style, color=colours[whose], markersize=5,
                  label=", ".join(filter(None, (words, other, state))))
    axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(axes, axes.get_lines())


def _say(name: str) -> str:
    return name.replace("_", " ")
