"""Trade-offs of several methods over their patching ratios and seeds, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from openvclip.report.styles import COLOURS, LINES

# One for each method, so that curves can be told apart without their colours.
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", "h", ">", "p")
Accuracies = Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Tradeoff:
    """A method's accuracies: patching ratio -> one number per seed.

    Attributes:
        across: of what is drawn to the right.
        up: of what is drawn upwards, one entry for each picture.
        chosen: the ratio to mark, or None.
    """

    across: Accuracies
    up: Sequence[Accuracies]
    chosen: float | None = None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation over seeds (n - 1; 0 for a single one)."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def draw_tradeoffs(
    methods: Mapping[str, Tradeoff], *, across: str, up: Sequence[str], title: str = "",
    point: tuple[str, float, Sequence[float]] | None = None,
) -> Figure:
    """Draw each method as a curve over its ratios, with the spread over seeds as whiskers.

    Args:
        methods: title -> accuracies in per cent.
        across: label of the horizontal axis.
        up: labels of the vertical axes, one for each picture.
        title: of the whole.
        point: something without ratios: its name, its place across and its places up.
    """
    figure = Figure(figsize=(6.2 * len(up), 6.6), layout="constrained")
    grid = figure.subplots(1, len(up), squeeze=False)[0]
    lines: list[Line2D] = []
    for place, axes in enumerate(grid):
        lines = [_draw_method(axes, number, name, method, place)
                 for number, (name, method) in enumerate(methods.items())]
        if point is not None:
            lines += axes.plot(point[1], point[2][place], "k*", markersize=13, label=point[0],
                               linestyle="none", zorder=6)
        axes.set(xlabel=across, ylabel=up[place])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.05)
    figure.legend(handles=lines, loc="outside lower center", ncols=5, fontsize=9, handlelength=3.2)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_method(axes: Axes, number: int, name: str, method: Tradeoff, place: int) -> Line2D:
    """Draw one curve; the marks of its chosen ratio are large and filled."""
    up = method.up[place]
    ratios = sorted(set(method.across) & set(up))
    points = {r: (mean_and_spread(method.across[r]), mean_and_spread(up[r])) for r in ratios}
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    xs, ys = ([points[r][i][0] for r in ratios] for i in (0, 1))
    line, = axes.plot(xs, ys, color=colour, linestyle=LINES[number % len(LINES)], linewidth=1.5,
                      marker=mark, markersize=5, markerfacecolor="white", label=name)
    spreads = [[points[r][i][1] for r in ratios] for i in (0, 1)]
    axes.errorbar(xs, ys, xerr=spreads[0], yerr=spreads[1], fmt="none", ecolor=colour,
                  elinewidth=0.8, alpha=0.45, zorder=1)
    if method.chosen in points:
        (x, x_spread), (y, y_spread) = points[method.chosen]
        axes.errorbar(x, y, xerr=x_spread, yerr=y_spread, color=colour, elinewidth=1.3, capsize=2,
                      marker=mark, markersize=10, markeredgecolor="black", zorder=5)
    return line
