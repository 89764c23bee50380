"""Whole numbers of texts that others wrote."""

from __future__ import annotations

# Nothing here counts further; Python's own reader refuses only what has over 4,300 digits.
MOST = 2**63 - 1


def read_whole(text: str) -> int:
    """Return the whole number that a text says, between -:data:`MOST` and that.

    Raises:
        ValueError: it says none, or a larger one.
    """
    text = text.strip()
    number = int(text) if len(text) <= 20 else MOST + 1
    if abs(number) > MOST:
        raise ValueError(f"{text[:20]!r}... is no whole number up to {MOST}")
    return number
