"""JSON and numbers from texts that others wrote: what is wrong is a one-line ValueError."""

from __future__ import annotations

import json
from typing import Any

# Nothing here counts further; Python itself refuses only numbers of over 4,300 digits.
MOST = 2**63 - 1


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return the value of a JSON text; ``hooks`` are those of ``json.loads``.

    Raises:
        ValueError: it is not JSON or not UTF-8, is nested very deeply, or has a number of more
            than 19 digits.
    """
    try:
        return json.loads(text, parse_int=_read_int, **hooks)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def _read_int(text: str) -> int:
    if len(text.lstrip("-")) > len(str(MOST)):
        raise ValueError(f"a whole number of {len(text):,} digits, {text[:20]}...")
    return int(text)


def read_whole(text: str) -> int:
    """Return the whole number in a text, between -:data:`MOST` and :data:`MOST`.

    Raises:
        ValueError: there is none, or a larger one.
    """
    text = text.strip()
    number = int(text) if len(text) <= 20 else MOST + 1
    if abs(number) > MOST:
        raise ValueError(f"{text[:20]!r}... is not a whole number up to {MOST}")
    return number
