"""Command lines whose mistakes end in one line that says what was meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from openvclip.utils.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations that raises :class:`ConfigError`.

    Options that do not exist are named first, with the nearest one that does: what else is wrong,
    such as a required option that is missing, mostly follows from the misspelling.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        args = sys.argv[1:] if args is None else list(args)
        self._check_names(args)
        return super().parse_args(args, namespace)

    def _check_names(self, args: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        for word in args:
            name = word.split("=", 1)[0]
            if name == "--":
                return
            if not name.startswith("--") or name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"the nearest is {near[0]}" if near else "-h lists all"
            raise ConfigError(f"command line: there is no option {name}; {hint}")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; -h shows the options")
