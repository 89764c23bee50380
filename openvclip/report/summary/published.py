"""Numbers that papers have published, to stand beside this project's own and never among them."""

from __future__ import annotations

from dataclasses import dataclass

# SHA-256 of the 28 published sentences, as results.json records it (one sentence a line).
PUBLISHED_PROMPTS_SHA256 = "820c23cc30bda2e5c3e9f8a477edd75d2a9e0f01e7c6240afa6f0644ef5e93ca"

# The published way to test: 3 clips in time x 1 centre crop of 8 frames, logits summed.
PUBLISHED_SETUP = {"views": 3, "crops": 1, "frames": 8, "ensemble": "sum"}

FROSTER = "FROSTER's table"
MOTE = "MoTE's table"

# Mean and standard deviation; None where the source gives none, or there is one number only.
Number = tuple[float, float | None]


@dataclass(frozen=True)
class Published:
    """One method's numbers."""

    backbone: str  # CLIP's image tower, such as B/16
    method: str
    source: str  # where the numbers stand
    numbers: dict[str, Number]  # column of the table -> top-1 accuracy in percent

    def number(self, column: str) -> Number | None:
        """Return the number of a column; None: none was published."""
        return self.numbers.get(column)

    def marks(self, column: str) -> str:
        """Nothing: how others tested is not known."""
        return ""


def _row(
    backbone: str, method: str, source: str, *, ucf: float | None = None,
    ucf_splits: Number | None = None, hmdb: float | None = None,
    hmdb_splits: Number | None = None, k600: Number | None = None,
) -> Published:
    found = {
        "ucf101_full": None if ucf is None else (ucf, None),
        "ucf101_split": ucf_splits,
        "hmdb51_full": None if hmdb is None else (hmdb, None),
        "hmdb51_split": hmdb_splits,
        "kinetics600_split": k600,
    }
    return Published(backbone, method, source, {k: v for k, v in found.items() if v})


PUBLISHED: tuple[Published, ...] = (
    _row("B/16", "CLIP", FROSTER, ucf=74.2, ucf_splits=(73.8, 0.6), hmdb=46.3,
         hmdb_splits=(47.9, 0.5), k600=(68.1, 1.1)),
    _row("B/16", "ActionCLIP", FROSTER, ucf=77.4, ucf_splits=(77.5, 0.8), hmdb=48.0,
         hmdb_splits=(48.2, 1.5), k600=(62.5, 1.2)),
    _row("B/16", "X-CLIP", FROSTER, ucf_splits=(72.0, 2.3), hmdb_splits=(44.6, 5.2),
         k600=(65.2, 0.4)),
    _row("B/16", "ViFi-CLIP", FROSTER, ucf_splits=(76.8, 0.7), hmdb_splits=(51.3, 0.6),
         k600=(71.2, 1.0)),
    _row("B/16", "Open-VCLIP", FROSTER, ucf=83.5, ucf_splits=(83.4, 1.2), hmdb=53.2,
         hmdb_splits=(53.9, 1.2), k600=(73.0, 0.8)),
    _row("B/16", "FROSTER", FROSTER, ucf=85.0, ucf_splits=(84.8, 1.1), hmdb=54.5,
         hmdb_splits=(54.8, 1.3), k600=(74.8, 0.9)),
    _row("B/16", "TC-CLIP + LLM labels", "TC-CLIP's README", ucf_splits=(85.4, None),
         hmdb_splits=(56.0, None), k600=(78.1, None)),
    _row("L/14", "Open-VCLIP", f"ICML abstract; splits from {MOTE}", ucf=87.9,
         ucf_splits=(87.6, 1.2), hmdb=58.3, hmdb_splits=(59.0, 0.6), k600=(81.1, 0.8)),
    _row("L/14", "Open-VCLIP++", "TPAMI abstract", ucf=88.1, hmdb=58.7, k600=(81.2, None)),
    _row("L/14", "MoTE", MOTE, ucf_splits=(88.7, None), hmdb_splits=(61.4, None),
         k600=(78.4, None)),
)


def select_published(backbones: set[str]) -> list[Published]:
    """Return the rows of these backbones, or all of them where none could be told."""
    return [row for row in PUBLISHED if not backbones or row.backbone in backbones]
