"""The command lines of published scripts, from ``golden/published_options.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "Kinetics"


def read_scripts(family: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return the yaml and the pairs of option and value of each script of a family.

    Args:
        family: ``openvclip`` or ``froster``.
    """
    text = (ROOT / "tests" / "golden" / "published_options.json").read_text(encoding="utf-8")
    content = json.loads(text)
    pairs = [(key, value) for key, value in content["pairs"]]
    return {name: (cfg, [pairs[number] for number in numbers])
            for name, (cfg, numbers) in content["scripts"][family].items()}


def fill_in(pairs: list[tuple[str, str]], values: Mapping[str, object]) -> list[str]:
    """Return a command line's words, with ``values`` for the options that a user must give.

    Raises:
        KeyError: the script needs a value that is not there.
    """
    return [word for key, value in pairs for word in (
        key, str(values[key]) if value in ("PATH", "NUMBER") else value)]
