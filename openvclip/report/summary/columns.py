"""The columns of the zero-shot table: their protocols and their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openvclip.data.lists.protocols import PROTOCOLS, Protocol
from openvclip.utils.errors import ConfigError

DATASETS = {
    "ucf101": "UCF-101", "hmdb51": "HMDB-51", "kinetics600": "K600", "kinetics400": "K400",
    "ssv2": "SSv2",
}
# Dataset and kind of the protocols of each column in the order of the papers' tables, the column's
# name and what is tested.
_SPLITS, _HALVES = "official test splits 1 to 3", "10 draws of half the classes"
LAYOUT = (
    ("ucf101", "full", "full", "all videos"), ("ucf101", "split", "3 splits", _SPLITS),
    ("ucf101", "half", "half x 10", _HALVES),
    ("hmdb51", "full", "full", "all videos"), ("hmdb51", "split", "3 splits", _SPLITS),
    ("hmdb51", "half", "half x 10", _HALVES),
    ("kinetics600", "split", "3 splits", "validation videos of 3 draws of new classes"),
    ("kinetics400", "full", "val",
     "validation videos of the classes that models are trained on"),
    ("ssv2", "full", "val", "validation videos"),
)
# Shown only if there are results: it is not a zero-shot protocol of the published tables.
OPTIONAL = {"ssv2_full"}


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str  # what rows know it by, such as ucf101_split or t2v_r1
    kind: str  # what it shows: the name of a protocol or of a number
    group: str = ""  # what it shows that of, such as a dataset
    protocols: tuple[Protocol, ...] = ()  # of several, mean and standard deviation are shown
    tested: str = ""  # which of the dataset's videos

    @property
    def title(self) -> str:
        """What it shows of what."""
        return f"{self.group} {self.kind}".strip()

    @property
    def several(self) -> bool:
        """Whether it is a mean over several lists."""
        return len(self.protocols) > 1

    def describe(self) -> str:
        """Say what is tested: how many lists, videos and classes."""
        counts = sorted(protocol.rows or 0 for protocol in self.protocols)
        videos = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if counts[0] != counts[-1] else "")
        each = " each" if self.several else ""
        return (f"{self.title}: {self.tested}; {videos} videos, {self.protocols[0].classes} "
                f"classes{each}")


COLUMNS = tuple(
    Column(f"{dataset}_{kind}", shown, DATASETS[dataset], tuple(
        p for p in PROTOCOLS.values() if (p.dataset, p.kind) == (dataset, kind)), tested)
    for dataset, kind, shown, tested in LAYOUT
)
COLUMN_OF = {protocol.name: column for column in COLUMNS for protocol in column.protocols}


def select_columns(names: Sequence[str] | None, present: Iterable[str]) -> list[Column]:
    """Choose the columns to show.

    Args:
        names: protocols (``ucf101_split1``), columns (``ucf101_split``) or datasets (``ucf101``);
            None: all, except optional ones without results.
        present: names of the protocols that there are results for.

    Raises:
        ConfigError: a name is none of these.
    """
    present = set(present)
    if not names:
        return [
            column for column in COLUMNS
            if column.key not in OPTIONAL or any(p.name in present for p in column.protocols)
        ]
    known = {
        column.key: {column.key, *(x for p in column.protocols for x in (p.name, p.dataset))}
        for column in COLUMNS
    }
    wrong = [name for name in names if not any(name in those for those in known.values())]
    if wrong:
        rest = sorted({*DATASETS, *known})
        raise ConfigError(
            f"--protocols {' '.join(wrong)}: unknown; use protocols such as ucf101_split1, or any "
            f"of {', '.join(rest)}"
        )
    return [column for column in COLUMNS if not known[column.key].isdisjoint(names)]


def name_protocols(protocols: Sequence[Protocol]) -> str:
    """Name protocols briefly: whole columns by their titles, others by their own names."""
    parts = []
    left = {protocol.name for protocol in protocols}
    for column in COLUMNS:
        members = {protocol.name for protocol in column.protocols}
        if members <= left:
            parts.append(column.title)
        else:
            parts.extend(p.name for p in column.protocols if p.name in left)
    parts.extend(p.name for p in protocols if p.name not in COLUMN_OF)
    return ", ".join(parts)
