"""JSON of files that others wrote: whatever is wrong with it is a ValueError of one line."""

from __future__ import annotations

import json
from typing import Any

# The largest whole numbers that anything here holds have 19; 10**400 is no float and no index.
MOST_DIGITS = 19


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return what JSON says.

    Args:
        text: as ``json.loads`` takes it.
        hooks: ``object_hook`` or ``object_pairs_hook`` of ``json.loads``.

    Raises:
        ValueError: it is no JSON, or no UTF-8, nested very deeply, or has a whole number of more
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
