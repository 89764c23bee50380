"""Small pictures of videos that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

CELL = (192, 108)  # Width and height, in pixels, that a frame is shrunk to fit in.
GAP = 2
QUALITY = 72


def make_thumbnails(
    rows: Iterable[int], frames: Callable[[int], np.ndarray]
) -> dict[int, str]:
    """Make a picture of each row of a list; one that cannot be read is skipped with a warning.

    Args:
        rows: of the list.
        frames: gives a row's frames, uint8 RGB (T, H, W, 3).

    Returns:
        row -> data URI.
    """
    made, reasons = {}, []
    for row in rows:
        try:
            made[row] = make_thumbnail(frames(row))
        # A report must not fail for a picture, whatever a decoder or a disk raises.
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    if reasons:
        logger.warning("no picture of %d of the videos that the report shows; the first: %s",
                       len(reasons), reasons[0])
    return made


def make_thumbnail(frames: np.ndarray) -> str:
    """Return the first, middle and last of frames (T, H, W, 3) in a row, a JPEG as a data URI."""
    cells = []
    for index in sorted({0, len(frames) // 2, len(frames) - 1}):
        cell = Image.fromarray(frames[index])
        cell.thumbnail(CELL)
        cells.append(cell)
    width, height = cells[0].size
    step = width + GAP
    strip = Image.new("RGB", (step * len(cells) - GAP, height))
    for place, cell in enumerate(cells):
        strip.paste(cell, (place * step, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
