"""Numbers that papers have published, shown next to this project's own and never among them."""

from __future__ import annotations

from dataclasses import dataclass

# SHA-256 of the 28 published sentences, as results.json records it (one sentence per line).
PUBLISHED_PROMPTS_SHA256 = "820c23cc30bda2e5c3e9f8a477edd75d2a9e0f01e7c6240afa6f0644ef5e93ca"

# The published way to test: 3 clips in time x 1 centre crop of 8 frames, logits summed.
PUBLISHED_SETUP = {"views": 3, "crops": 1, "frames": 8, "ensemble": "sum"}

FROSTER = "FROSTER's table"
MOTE = "MoTE's table"

# Mean and standard deviation; None if the source gives none, or there is only one number.
Number = tuple[float, float | None]


@dataclass(frozen=True)
class Published:
    """One method's numbers."""

    backbone: str  # CLIP's image tower, such as B/16
    label: str  # the method
    source: str  # where the numbers stand
    numbers: dict[str, Number]  # column of the table -> top-1 accuracy in percent

    def number(self, column: str) -> Number | None:
        """Return mean and deviation in a column; None: there is no number."""
        return self.numbers.get(column)


# UCF-101 full, its splits, HMDB-51 full, its splits, Kinetics-600's splits.
_COLUMNS = ("ucf101_full", "ucf101_split", "hmdb51_full", "hmdb51_split", "kinetics600_split")


def _row(backbone: str, method: str, source: str, *numbers: Number | float | None) -> Published:
    pairs = zip(_COLUMNS, numbers, strict=True)
    return Published(backbone, method, source, {
        column: number if isinstance(number, tuple) else (number, None)
        for column, number in pairs if number is not None
    })


PUBLISHED: tuple[Published, ...] = (
    _row("B/16", "CLIP", FROSTER, 74.2, (73.8, 0.6), 46.3, (47.9, 0.5), (68.1, 1.1)),
    _row("B/16", "ActionCLIP", FROSTER, 77.4, (77.5, 0.8), 48.0, (48.2, 1.5), (62.5, 1.2)),
    _row("B/16", "X-CLIP", FROSTER, None, (72.0, 2.3), None, (44.6, 5.2), (65.2, 0.4)),
    _row("B/16", "ViFi-CLIP", FROSTER, None, (76.8, 0.7), None, (51.3, 0.6), (71.2, 1.0)),
    _row("B/16", "Open-VCLIP", FROSTER, 83.5, (83.4, 1.2), 53.2, (53.9, 1.2), (73.0, 0.8)),
    _row("B/16", "FROSTER", FROSTER, 85.0, (84.8, 1.1), 54.5, (54.8, 1.3), (74.8, 0.9)),
    _row("B/16", "TC-CLIP + LLM labels", "TC-CLIP's README", None, 85.4, None, 56.0, 78.1),
    _row("L/14", "Open-VCLIP", f"ICML abstract; splits from {MOTE}",
         87.9, (87.6, 1.2), 58.3, (59.0, 0.6), (81.1, 0.8)),
    _row("L/14", "Open-VCLIP++", "TPAMI abstract", 88.1, None, 58.7, None, 81.2),
    _row("L/14", "MoTE", MOTE, None, 88.7, None, 61.4, 78.4),
)


def select_published(backbones: set[str]) -> list[Published]:
    """Return the rows of these backbones, or all rows if no backbone is known."""
    return [row for row in PUBLISHED if not backbones or row.backbone in backbones]
