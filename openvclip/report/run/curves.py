"""A training run's curves, from the statistics that it leaves in ``json_stats.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openvclip.utils.files import iterate_lines
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

STATS = "json_stats.jsonl"
PICTURE = "curves.png"
# Lines of iterations since the line before, of a whole epoch, of a validation.
KINDS = ("train_iter", "train_epoch", "val_epoch")


class Curves:
    """Statistics of a run, each kind by the epochs that were done when they were logged."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[float, dict[str, Any]]] = {kind: {} for kind in KINDS}

    def add(self, stats: dict[str, Any]) -> None:
        """Add a line; a training line removes what a killed run had logged after it."""
        kind = stats.get("_type")
        if kind not in KINDS:
            return
        epoch = int(str(stats["epoch"]).split("/")[0])
        place = float(epoch)
        if kind == "train_iter":
            done, iterations = map(int, stats["iter"].split("/"))
            place += done / iterations - 1
            for rows in self.rows.values():
                while rows and next(reversed(rows)) >= place:
                    rows.popitem()
        self.rows[kind][place] = stats

    def names(self, kind: str) -> list[str]:
        """Statistics that are numbers in any line of a kind, in the order of the log."""
        return list(dict.fromkeys(
            name for _, stats in sorted(self.rows[kind].items()) for name, value in stats.items()
            if isinstance(value, int | float)))

    def points(self, kind: str, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one statistic, where it is a number."""
        rows = sorted(self.rows[kind].items())
        points = [(x, s[name]) for x, s in rows if isinstance(s.get(name), int | float)]
        return [x for x, _ in points], [y for _, y in points]


def read_curves(lines: Iterable[str]) -> Curves:
    """Read the lines of a ``json_stats.jsonl``; a line that a kill cut off is skipped."""
    curves = Curves()
    for line in lines:
        try:
            curves.add(parse_json(line))
        except (ValueError, KeyError, AttributeError, ZeroDivisionError):
            continue
    return curves


def write_curves(output_dir: str | Path) -> Path | None:
    """Draw ``curves.png`` of all that a run and those that it resumed have logged.

    Returns:
        The picture; None if there is nothing to draw, or it could not be drawn, which is a warning:
        a finished run does not fail because of it.
    """
    try:
        curves = read_curves(iterate_lines(Path(output_dir) / STATS, errors="replace"))
    except OSError:
        return None
    if not curves.rows["train_iter"] and not curves.rows["train_epoch"]:
        return None
    from openvclip.report.plots import save_or_warn  # matplotlib takes a second
    from openvclip.report.training_plot import draw_training

    path = save_or_warn(
        Path(output_dir) / PICTURE, lambda: draw_training(curves.points, curves.names))
    if path is not None:
        logger.info("wrote %s", path)
    return path
