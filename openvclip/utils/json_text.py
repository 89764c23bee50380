"""JSON from files that others wrote: anything wrong with it is a one-line ValueError."""

from __future__ import annotations

import json
from typing import Any

# The largest whole numbers used here have 19; 10**400 is neither a float nor an index.
MOST_DIGITS = 19


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return the value of a JSON text.

    Args:
        text: as ``json.loads`` takes it.
        hooks: ``object_hook`` or ``object_pairs_hook`` of ``json.loads``.

    Raises:
        ValueError: it is not JSON or not UTF-8, is nested very deeply, or has a number of more
            than 19 digits.
    """
    try:
        return json.loads(text, parse_int=_read_int, **hooks)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def _read_int(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits, {text[:20]}...")
    return int(text)
