"""One logger for the project, a progress line with rate and ETA, and PySlowFast's json_stats."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import simplejson

from openvclip.utils import live
from openvclip.utils.errors import ConfigError
from openvclip.utils.files import UnfitFileError, check_regular, open_append
from openvclip.utils.text import clean_lines

ROOT = "openvclip"
T = TypeVar("T")


def get_logger(name: str = ROOT) -> logging.Logger:
    """Return the project's logger, or a child of it for a module's ``__name__``."""
    return logging.getLogger(name if name.startswith(ROOT) else f"{ROOT}.{name}")


def setup_logging(
    output_dir: str | Path | None = None, rank: int = 0, terminal: str | None = None
) -> None:
    """Send the log to the terminal and to ``output_dir/stdout.log``.

    Only rank 0 logs below the level of a warning, so that N processes do not write N copies. In a
    terminal rank 0 also has a live line (:mod:`openvclip.utils.live`), and the log goes above it.

    Args:
        output_dir: folder of the log file; none is written without it or on other ranks.
        rank: number of this process in the run.
        terminal: for one of several runs side by side: the logger whose records go to the terminal;
            of others only warnings and errors do, and there is no live line.

    Raises:
        ConfigError: the log's file is a pipe or a device, for which a run might wait forever.
    """
    loggers = [logging.getLogger(name) for name in (ROOT, "py.warnings")]
    for logger in loggers:
        logger.propagate = False
        logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    layout = "[%(asctime)s][%(levelname)s] %(message)s"
    if rank != 0:
        layout = f"[%(asctime)s][%(levelname)s][rank {rank}] %(message)s"
    formatter = _CleanFormatter(layout, datefmt="%m/%d %H:%M:%S")
    whole = terminal is None
    line = live.LiveLine(sys.stdout) if whole and live.is_terminal(sys.stdout) else None
    live.set_current(line if rank == 0 else None)
    # Python's warnings would be written into the live line otherwise.
    logging.captureWarnings(line is not None and sys.stderr.isatty())
    console = live.LiveHandler(line) if line else logging.StreamHandler(sys.stdout)
    if terminal is not None:
        console.addFilter(lambda x: x.levelno >= logging.WARNING or x.name == terminal)
    _add_handler(console, "console", formatter, loggers)
    if output_dir is not None and rank == 0:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        _check_log(Path(output_dir) / "json_stats.jsonl", check_regular)
        file = _LogFile(Path(output_dir) / "stdout.log", encoding="utf-8")
        _add_handler(file, "file", formatter, loggers)


def _add_handler(
    handler: logging.Handler, medium: str, formatter: logging.Formatter,
    loggers: Sequence[logging.Logger],
) -> None:
    handler.addFilter(lambda record: getattr(record, "only", medium) == medium)
    handler.setFormatter(formatter)
    for logger in loggers:
        logger.addHandler(handler)


class _CleanFormatter(logging.Formatter):
    """Formats records so that no name in them can control a terminal or forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return clean_lines(super().format(record))


class _LogFile(logging.FileHandler):
    """A regular file; if it can no longer be written, that is said once, and the work goes on."""

    def _open(self):
        return _check_log(self.baseFilename, open_append)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say why, on the terminal, and stop writing."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.addFilter(lambda _: False)
        get_logger().warning("%s can no longer be written: %s", self.baseFilename, error.strerror,
                             extra={"only": "console"})


def _check_log(path: str | Path, use: Callable[[str | Path], T]) -> T:
    try:
        return use(path)
    except UnfitFileError as error:
        raise ConfigError(f"the log {path} {error.strerror}; remove it, or give another "
                          "OUTPUT_DIR") from error


def log_json_stats(
    stats: dict,
    output_dir: str | Path | None = None,
    *,
    terminal: bool = True,
    file_only: dict | None = None,
) -> None:
    """Log statistics: for people on the terminal, for programs in the file.

    The log file gets a ``json_stats: {...}`` line with PySlowFast's names as well as ours
    (:func:`as_published`); the terminal gets
    ``train_iter: epoch 1/22, iter 10/100, loss 1.5, ...``.

    Args:
        stats: what to write, ``_type`` first; floats are rounded to six significant digits.
        output_dir: where ``json_stats.jsonl`` is appended to, if given.
        terminal: False keeps it off the terminal, whose live line says the same.
        file_only: more for the log file's line.
    """
    short = _shorten(stats)
    line = simplejson.dumps(short, sort_keys=True, ignore_nan=True)
    published = simplejson.dumps(
        as_published({**short, **_shorten(file_only or {})}), sort_keys=True, ignore_nan=True
    )
    text = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in short.items()
        if name != "_type"
    )
    get_logger().info("json_stats: %s", published, extra={"only": "file"})
    if terminal:
        get_logger().info("%s: %s", short.get("_type", "stats"), text, extra={"only": "console"})
    if output_dir is not None:
        with _check_log(Path(output_dir) / "json_stats.jsonl", open_append) as file:
            file.write(line + "\n")


def _shorten(stats: dict) -> dict:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in stats.items()}


def as_published(stats: dict) -> dict:
    """Return statistics under the names and in the forms that PySlowFast's log readers look for.

    They tell the ``json_stats: {...}`` lines of ``stdout.log`` apart by ``_type``, tests by
    ``split``. ``train_iter`` becomes ``train_iter_``; ``eta`` has hours; ``gpu_mem`` is present
    without a GPU, too; a test's ``top1_acc`` and ``top5_acc`` are strings with two decimals. Our
    own fields are kept.
    """
    kind = stats.get("_type", "")
    published = dict(stats)
    if kind == "train_iter":
        published["_type"] = "train_iter_"
    eta = stats.get("eta")
    if isinstance(eta, str) and eta.count(":") == 1:
        published["eta"] = f"0:{eta.zfill(5)}"
    if kind.startswith(("train_", "val_")):
        published.setdefault("gpu_mem", "0.00G")
    if kind == "test_final":
        published.update(_test_fields(stats))
    return published


def _test_fields(stats: dict) -> dict:
    if "map_decoded" in stats:
        value = f"{stats['map_decoded']:.2f}"
        return {"split": "test_final", "map": value, "top1_acc": value, "top5_acc": value}
    if "top1" not in stats:  # retrieval, which PySlowFast lacks
        return {}
    return {"split": "test_final",
            **{f"top{k}_acc": f"{stats[f'top{k}']:.2f}" for k in (1, 5) if f"top{k}" in stats}}


def format_seconds(seconds: float) -> str:
    """Format a duration as ``1:02:03`` or ``2:03``."""
    total = int(round(seconds))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """Log a long loop's progress, its rate and the time left: at most once per ``period``.

    In a terminal the live line shows it instead, more often, and the plain lines go to the log's
    file only, except for the last one.

    Args:
        total: total number of units.
        what: name of the work, for the beginning of the line.
        unit: plural name of the units, such as ``"clips"``.
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
        line = live.current()
        ended = self.done >= self.total
        if line is not None and not ended:
            line.show(self._fields(now, note))
        if not ended and now - self.last < self.period:
            return
        self.last = now
        if line is not None and ended:
            line.clear()
        rate, left = self._pace(now)
        get_logger().info(
            "%s: %d/%d %s, %.1f %s/s, ETA %s%s",
            self.what, self.done, self.total, self.unit, rate, self.unit, left,
            f", {note}" if note else "",
            extra={"only": "file"} if line is not None and not ended else None,
        )

    def _pace(self, now: float) -> tuple[float, str]:
        rate = self.done / max(now - self.started, 1e-9)
        return rate, format_seconds((self.total - self.done) / rate) if rate > 0 else "?"

    def _fields(self, now: float, note: str) -> list[live.Field]:
        rate, left = self._pace(now)
        share = f"{self.done / max(self.total, 1):.0%}"
        fields = [
            live.Field(self.what, self.what, 1),
            live.Field(f"{self.done}/{self.total} {self.unit}", f"{self.done}/{self.total}"),
            live.Field(share, share, 4),
            live.Field(f"{rate:.1f} {self.unit}/s", f"{rate:.1f}/s", 3),
            live.Field(f"ETA {left}", f"ETA {left}", 2),
        ]
        return [*fields, live.Field(note, note, 5)] if note else fields
