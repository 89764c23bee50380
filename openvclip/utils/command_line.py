"""What every tool's ``main`` runs through: errors end in one line, and so does Ctrl-C."""

from __future__ import annotations

import argparse
import difflib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NoReturn

from openvclip.utils import interrupts, live
from openvclip.utils.errors import ConfigError, OpenVCLIPError, describe_os_error
from openvclip.utils.json_text import MOST, read_whole
from openvclip.utils.logging import get_logger, setup_logging
from openvclip.utils.output import guarded_output
from openvclip.utils.text import clean_lines

FAILED = 2  # Exit code after an error that a user can act on.


def run_tool(
    work: Callable[[], int | None], kept: str | Callable[[], str] = "nothing was lost", *,
    log: bool = True, always: bool = False,
) -> int:
    """Do a tool's work, including its command line, and return its exit code.

    An error that a user can act on, or one from the system (a full disk, no permission), gives one
    line in the log, or on standard error while there is no log, and exit code 2. Ctrl-C gives one
    line and exit code 130. If standard output is closed, the work continues without it; if it
    cannot be written to (a full disk), this is reported, and the exit code is 2.

    Args:
        work: returns an exit code; None is 0.
        kept: what to say about the state after Ctrl-C, or a function that returns it then.
        log: start a log to the terminal; else ``work`` starts its own.
        always: see :func:`openvclip.utils.interrupts.raising`.
    """
    with guarded_output() as output, interrupts.raising(always=always):
        if log:
            setup_logging()
        try:
            code = _run(work, kept)
        except SystemExit as leaving:  # argparse's, after --help
            if leaving.code:
                raise
            output.flush()
            if not output.lost:
                raise
            code = FAILED
        output.flush()
        return code or (FAILED if output.lost else 0)


def through_run_tool(
    kept: str, *, log: bool = True
) -> Callable[[Callable[[list[str] | None], int | None]], Callable[..., int]]:
    """Make a command's ``main(argv=None)`` of its work, done through :func:`run_tool`."""

    def decorate(work: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
        @wraps(work)
        def main(argv: list[str] | None = None) -> int:
            return run_tool(lambda: work(argv), kept, log=log)

        return main

    return decorate


def _run(work: Callable[[], int | None], kept: str | Callable[[], str]) -> int:
    try:
        with live.closing():
            return work() or 0
    except BaseException as error:
        pressed = interrupts.came() or isinstance(error, KeyboardInterrupt)
        if pressed and not isinstance(error, SystemExit):
            _say(logging.WARNING, f"stopped by Ctrl-C: {kept() if callable(kept) else kept}")
            return interrupts.EXIT_CODE
        if isinstance(error, OpenVCLIPError):
            _say(logging.ERROR, f"{type(error).__name__}: {error}")
        elif isinstance(error, OSError):
            _say(logging.ERROR, f"OSError: {describe_os_error(error)}")
        else:
            raise
        return FAILED


def _say(level: int, text: str) -> None:
    """Log a line, or print it if the log is not set up; only the run's first process does."""
    logger = get_logger()
    quiet = level < logging.ERROR and (
        not interrupts.is_first_process() or logger.level > logging.INFO)
    if quiet:
        return
    if logger.handlers:
        logger.log(level, "%s", text)
    if not logger.handlers or getattr(sys.stdout, "lost", None) is not None:
        sys.stderr.write(f"{clean_lines(text)}\n")


def read_int(text: str) -> int:
    """Read an option's whole number: at most 19 digits."""
    try:
        return read_whole(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{_shorten(text)} is not a whole number up to {MOST}") from None


def read_float(text: str) -> float:
    """Read an option's finite number."""
    number = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{_shorten(text)} is not a finite number")
    return number


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text):,} characters)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations that raises :class:`ConfigError`.

    Unknown options are reported first, each with the closest known one: other errors, such as a
    missing required option, mostly follow from the misspelling. Options of the types ``int`` and
    ``float`` are bounded, see :func:`read_int`. A description of several lines keeps them.
    Subcommands are such parsers too.
    """

    def __init__(self, **options: Any) -> None:
        if "\n" in (options.get("description") or ""):
            options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self.register("type", int, read_int)
        self.register("type", float, read_float)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the known options, after checking for unknown ones."""
        args = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:  # else the subcommand knows its options
            self._check_names(args)
        return super().parse_known_args(args, namespace)

    def _check_names(self, args: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        takes_rest = {name for name, action in self._option_string_actions.items()
                      if action.nargs == argparse.REMAINDER}
        for word in args:
            name = word.split("=", 1)[0]
            if name == "--" or name in takes_rest:
                return
            if not name.startswith("--") or name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"the nearest is {near[0]}" if near else "-h lists all"
            raise ConfigError(f"command line: there is no option {_shorten(name)}; {hint}")

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as an error of the project."""
        raise ConfigError(f"command line: {message}; -h shows the options")


def add_weights_option(add: Callable) -> None:
    """Add ``--weights`` to a parser of a command that reads a checkpoint.

    Args:
        add: the parser's ``add_argument``.
    """
    add("--weights", choices=("current", "ema"), default="current",
        help="of a checkpoint: the current ones, or ema, their moving average (TRAIN.EMA); "
        "default: current")
