"""The evaluation protocols of the zero-shot literature: which list, which label set, how many rows.

Row counts are those of the lists that published numbers were made with. Other copies of Kinetics
differ a little, as videos vanish from the net; UCF-101 and HMDB-51 should not differ at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Rows of ucf101_half_test/0 .. 9.
UCF101_HALF_ROWS = (6483, 6658, 6625, 6696, 6676, 6622, 6605, 6636, 6504, 6660)
UCF101_TEST_ROWS = (3783, 3734, 3696)
K600_ROWS = (7276, 7226, 7261)
HALF_SEED = 2023


@dataclass(frozen=True)
class Protocol:
    """One list to test on.

    Attributes:
        name: such as ``ucf101_split1``; results are grouped and derived by it.
        dataset: such as ``ucf101``.
        kind: ``full``, ``split``, ``half`` or ``union`` (everything that the others test, in one
            list without published numbers). Splits and halves are reported as mean and standard
            deviation over the dataset's members of that kind.
        folder: folder of ``test.csv``, relative to the one with ``label_db`` and ``zs_label_db``.
        label_map: its ``index2cls.json``, likewise.
        classes: number of classes.
        rows: rows of the published ``test.csv``; None if none was published.
        of: the closest protocol whose predictions contain this one's, if there is one: the same
            videos against a superset of the classes.
    """

    name: str
    dataset: str
    kind: str
    folder: str
    label_map: str
    classes: int
    rows: int | None
    of: str | None = None


def _video_protocols(
    dataset: str, stem: str, classes: int, half: int, full_rows: int,
    split_rows: tuple[int, ...], half_rows: tuple[int, ...], *, full_has: tuple[int, ...],
) -> list[Protocol]:
    """UCF-101 and HMDB-51: all videos, three official splits, ten draws of half the classes.

    ``full_has`` are the splits whose test videos are in the full list; if it lacks those of some,
    a union has them all.
    """
    label_map, full = f"zs_label_db/{stem}-index2cls.json", f"{stem}_full"
    union = None if len(full_has) == len(split_rows) else f"{stem}_union"

    def one(name: str, kind: str, rows: int | None, of: str | None) -> Protocol:
        return Protocol(name, dataset, kind, f"zs_label_db/{name}", label_map, classes, rows, of)

    protocols = [] if union is None else [one(union, "union", None, None)]
    protocols.append(one(full, "full", full_rows, union))
    for number, rows in enumerate(split_rows, 1):
        protocols.append(one(f"{stem}_split{number}", "split", rows,
                         full if number in full_has else union))
    for draw, rows in enumerate(half_rows):
        folder = f"zs_label_db/{stem}_half_test/{draw}"
        protocols.append(Protocol(f"{stem}_half{draw}", dataset, "half", folder,
                                  f"{folder}/{stem}-index2cls.json", half, rows, full))
    return protocols


def _k600_protocols() -> list[Protocol]:
    """Kinetics-600: three draws of 160 classes that Kinetics-400 lacks, and all of theirs."""
    union = "k600_union"

    def one(name: str, kind: str, classes: int, rows: int | None, of: str | None) -> Protocol:
        folder = f"zs_label_db/{name}"
        label_map = f"{folder}/k600-openset-index2cls.json"
        return Protocol(name, "kinetics600", kind, folder, label_map, classes, rows, of)

    return [
        one(union, "union", 217, None, None),
        *(one(f"k600_split{n}", "split", 160, rows, union) for n, rows in enumerate(K600_ROWS, 1)),
    ]


_ALL = [
    Protocol("kinetics400", "kinetics400", "full", "label_db/weng_compress_full_splits",
             "label_db/k400-index2cls.json", 400, 19761),
    *_video_protocols("ucf101", "ucf101", 101, 50, 13320, UCF101_TEST_ROWS, UCF101_HALF_ROWS,
                      full_has=(1, 2, 3)),
    # The full list is what split 1 uses, 100 videos a class; the other splits test further ones.
    *_video_protocols("hmdb51", "hmdb", 51, 25, 5100, (1530,) * 3, (2500,) * 10, full_has=(1,)),
    *_k600_protocols(),
    Protocol("ssv2", "ssv2", "full", "zs_label_db/ssv2", "zs_label_db/ssv2-index2cls.json",
             174, 24777),
]
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


# What the protocol's list is called in its folder; where there are both, the two are equal.
LISTS = ("test.csv", "val.csv")


def find_protocol(list_path: str | Path) -> Protocol | None:
    """Return the protocol whose list a path names (``.../zs_label_db/hmdb_full/test.csv``).

    A list of another name in the same folder, such as a ``train.csv`` that TEST_FILE gives to a
    test, is none.
    """
    if Path(list_path).name not in LISTS:
        return None
    parts = Path(list_path).parent.parts
    for protocol in PROTOCOLS.values():
        folder = Path(protocol.folder).parts
        if parts[-len(folder):] == folder:
            return protocol
    return None


def find_sources(protocol: Protocol) -> Iterator[Protocol]:
    """Return the protocols whose predictions contain this one's, closest first."""
    while protocol.of is not None:
        protocol = PROTOCOLS[protocol.of]
        yield protocol


def draw_halves(classes: int, take: int, draws: int = 10) -> list[list[int]]:
    """Draw the published half-class subsets: sorted labels of each draw.

    One generator, seeded with 2023 once, shuffles ``range(classes)`` for each draw; the first
    ``take`` are sorted.
    """
    generator = random.Random(HALF_SEED)
    halves = []
    for _ in range(draws):
        order = list(range(classes))
        generator.shuffle(order)
        halves.append(sorted(order[:take]))
    return halves
