"""One logger for the project, a progress line with rate and ETA, and PySlowFast's json_stats."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import simplejson

from openvclip.utils.errors import OpenVCLIPError

ROOT = "openvclip"


def get_logger(name: str = ROOT) -> logging.Logger:
    """Return the project's logger, or a child of it for a module's ``__name__``."""
    return logging.getLogger(name if name.startswith(ROOT) else f"{ROOT}.{name}")


def setup_logging(output_dir: str | Path | None = None, rank: int = 0) -> None:
    """Send the log to the terminal and to ``output_dir/stdout.log``.

    Only rank 0 logs below the level of a warning, so that N processes do not write N copies.

    Args:
        output_dir: folder of the log file; none is written without it or on other ranks.
        rank: number of this process in the run.
    """
    logger = logging.getLogger(ROOT)
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    layout = "[%(asctime)s][%(levelname)s] %(message)s"
    if rank != 0:
        layout = f"[%(asctime)s][%(levelname)s][rank {rank}] %(message)s"
    formatter = logging.Formatter(layout, datefmt="%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if output_dir is not None and rank == 0:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(output_dir) / "stdout.log", encoding="utf-8"))
    for handler in handlers:
        medium = "file" if isinstance(handler, logging.FileHandler) else "console"
        handler.addFilter(lambda record, medium=medium: getattr(record, "only", medium) == medium)
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def log_json_stats(stats: dict, output_dir: str | Path | None = None) -> None:
    """Log statistics: for people on the terminal, for programs in the file.

    The log file gets PySlowFast's ``json_stats: {...}`` line, which its tools read; the terminal
    gets the same as ``train_iter: epoch 1/22, iter 10/100, loss 1.5, ...``.

    Args:
        stats: what to write, ``_type`` first; floats are kept to six significant digits.
        output_dir: where ``json_stats.jsonl`` is appended to, if given.
    """
    short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in stats.items()}
    line = simplejson.dumps(short, sort_keys=True, ignore_nan=True)
    text = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in short.items()
        if name != "_type"
    )
    get_logger().info("json_stats: %s", line, extra={"only": "file"})
    get_logger().info("%s: %s", short.get("_type", "stats"), text, extra={"only": "console"})
    if output_dir is not None:
        with open(Path(output_dir) / "json_stats.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")


def report_errors(function: Callable[[], object]) -> int:
    """Call ``function`` for a tool; an error that a user can act on becomes a line of the log.

    Returns:
        The tool's exit code: 0, or 2 after such an error.
    """
    try:
        function()
    except OpenVCLIPError as error:
        get_logger().error("%s: %s", type(error).__name__, error)
        return 2
    return 0


def format_seconds(seconds: float) -> str:
    """Format a duration as ``1:02:03`` or ``2:03``."""
    total = int(round(seconds))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """Log how far a long loop is, its rate and the time left, at most once a ``period``.

    Args:
        total: number of units in all.
        what: name of the work, for the line's beginning.
        unit: plural name of what is counted, such as ``"clips"``.
        period: least seconds between two lines; the last line is always written.
    """

    def __init__(self, total: int, what: str, unit: str = "items", period: float = 5.0) -> None:
        self.total, self.what, self.unit, self.period = total, what, unit, period
        self.done = 0
        self.started = self.last = time.monotonic()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more units and log if the last line is old enough."""
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.last < self.period:
            return
        self.last = now
        rate = self.done / max(now - self.started, 1e-9)
        left = format_seconds((self.total - self.done) / rate) if rate > 0 else "?"
        get_logger().info(
            "%s: %d/%d %s, %.1f %s/s, ETA %s%s",
            self.what, self.done, self.total, self.unit, rate, self.unit, left,
            f", {note}" if note else "",
        )
