"""Whole numbers in texts that others wrote."""

from __future__ import annotations

# Nothing here counts further; Python itself refuses only numbers of over 4,300 digits.
MOST = 2**63 - 1


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
