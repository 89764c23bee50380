"""Rows of the training list that cannot be decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openvclip.report.writers import write_csv
from openvclip.utils import distributed
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class BadRows:
    """Counts them, names each once, and stops the run if there are too many.

    Args:
        dataset: the training list; None if there is none.
        most: share of its rows that may be bad.
    """

    def __init__(self, dataset: Any, most: float) -> None:
        self.dataset, self.most = dataset, most
        self.reasons: dict[int, str] = {}

    def note(self, bad: list[tuple[int, str]]) -> None:
        """Add the bad rows of a batch, each with its reason.

        Raises:
            DataError: there are more than ``most`` allows.
        """
        for row, reason in bad:
            if row not in self.reasons:
                self.reasons[row] = reason
                logger.warning("bad video (row %d): %s", row, reason)
        rows = len(self.dataset)
        if bad and len(self.reasons) > self.most * rows:
            raise DataError(
                f"{len(self.reasons)} of {rows} training videos could not be decoded, more than "
                f"DATA.MAX_BAD_FRACTION ({self.most:g}) allows; the last: {bad[-1][1]}. Repair or "
                "leave out these files, or raise the fraction"
            )

    def gather(self) -> dict[int, str]:
        """Share them among all processes, all of which must call this, and return them."""
        for part in distributed.all_gather_object(self.reasons):
            self.reasons.update(part)
        return self.reasons

    def write(self, output_dir: Path) -> None:
        """Write ``bad_videos.csv`` for all processes, all of which must call this."""
        rows = sorted(self.gather().items())
        if rows and distributed.is_main():
            paths = self.dataset.describe([row for row, _ in rows])
            write_csv(
                output_dir / "bad_videos.csv",
                ["row", "path", "reason"],
                ([row, path, reason] for (row, reason), path in zip(rows, paths, strict=True)),
            )
