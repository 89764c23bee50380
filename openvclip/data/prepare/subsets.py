"""Few-shot and base-to-novel lists, drawn from the lists of a dataset."""

from __future__ import annotations

import os
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openvclip.data.lists.draws import Draw
from openvclip.data.lists.labels import LabelSpace, read_list
from openvclip.data.lists.protocols import find_protocol
from openvclip.data.prepare.official_splits import take_classes
from openvclip.data.prepare.plan import MAP_ENDING, Preparation, Row, group_by_label
from openvclip.data.prepare.preparer import Preparer
from openvclip.utils.errors import ConfigError, DataError


def plan_few_shot(
    source: Path, label_map: Path, output: Path, *,
    shots: Sequence[int] = (2, 4, 8, 16), seed: int = 1, allow_fewer: bool = False,
) -> Preparation:
    """Plan ``output/shots_K/{train,val,test}.csv`` with K training videos per class, and draw.json.

    Each class is shuffled once, by its own generator, and its first K videos are taken: those of
    2 shots are among those of 4. Validation and test lists are the source's ``test.csv``.

    Args:
        source: folder with ``train.csv`` and ``test.csv``.
        label_map: their ``index2cls.json``.
        output: folder to write below.
        shots: numbers of videos per class.
        seed: seed of the shuffles.
        allow_fewer: take all videos of a class that has fewer.

    Raises:
        ConfigError: a number of shots is not above 0.
        DataError: a list is missing or malformed, the two share videos, or a class has too few.
    """
    preparation = Preparation(f"few-shot lists of {source}")
    space, train, test = _read_source(source, label_map, shots, preparation)
    for count in sorted(set(shots)):
        folder = output / f"shots_{count}"
        rows = draw_shots(train, space, count, seed, allow_fewer=allow_fewer)
        lists = preparation.add_lists(folder, {"train": rows, "val": test, "test": test}, space)
        preparation.add_draw(folder, Draw("few-shot", _name(source), count, seed))
        if count == max(shots):
            preparation.counted.append([lists[0], lists[2]])
    return preparation


def plan_base_to_novel(
    source: Path, label_map: Path, output: Path, *,
    shots: int = 16, seed: int = 1, allow_fewer: bool = False,
) -> Preparation:
    """Plan ``output/base/{train,val,test}.csv`` and ``output/novel/test.csv``, maps, draw.json.

    Base classes are the half with most training videos, with ties going to the smaller label;
    with an odd number the larger half. Both halves are renumbered in the original order.
    Arguments, errors and the draw of ``shots`` per base class: as :func:`plan_few_shot`.
    """
    preparation = Preparation(f"base-to-novel lists of {source}")
    space, train, test = _read_source(source, label_map, [shots], preparation)
    groups = group_by_label(train)
    ranked = sorted(range(len(space)), key=lambda label: (-len(groups.get(label, ())), label))
    half = (len(space) + 1) // 2
    base, novel = sorted(ranked[:half]), sorted(ranked[half:])
    if not novel:
        raise DataError(f"{label_map} has only one class; two halves need two")
    chosen = frozenset(base)
    drawn = draw_shots(
        [row for row in train if row[1] in chosen], space, shots, seed, allow_fewer=allow_fewer
    )
    for name, labels in (("base", base), ("novel", novel)):
        rows, part = take_classes(test, space, labels)
        lists = {"test": rows}
        if name == "base":
            lists = {"train": take_classes(drawn, space, labels)[0], "val": rows, "test": rows}
        prepared = preparation.add_lists(output / name, lists, part)
        preparation.counted.append([p for p in prepared if p.path.name != "val.csv"])
        stem = label_map.name.removesuffix(MAP_ENDING).removesuffix(".json")
        preparation.add_map(output / name / f"{stem}{MAP_ENDING}", part)
        preparation.add_draw(output / name, Draw(name, _name(source), shots, seed))
    return preparation


def draw_shots(
    rows: Sequence[Row], space: LabelSpace, shots: int, seed: int, *, allow_fewer: bool = False
) -> list[Row]:
    """Draw ``shots`` rows of each label that has rows, and return them in their order.

    Raises:
        DataError: a class has fewer, and ``allow_fewer`` is off.
    """
    places: dict[int, list[int]] = {}
    for place, (_, label) in enumerate(rows):
        places.setdefault(label, []).append(place)
    fewer = [label for label in sorted(places) if len(places[label]) < shots]
    if fewer and not allow_fewer:
        names = ", ".join(f"{space.names[i]!r} ({len(places[i])})" for i in fewer[:5])
        rest = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        raise DataError(
            f"fewer than {shots} training videos of {names}{rest}; lower --shots, or give "
            "--allow-fewer to take what is available"
        )
    kept: list[int] = []
    for label, own in places.items():
        random.Random(f"{seed}:{label}").shuffle(own)
        kept.extend(own[:shots])
    return [rows[place] for place in sorted(kept)]


def _read_source(
    source: Path, label_map: Path, shots: Sequence[int], preparation: Preparation
) -> tuple[LabelSpace, list[Row], list[Row]]:
    if not shots or min(shots) < 1:
        raise ConfigError(f"--shots is {' '.join(map(str, shots)) or 'empty'}; give 1 or more")
    space = LabelSpace.from_json(label_map)
    lists = (
        read_list(source / name, separator=",", num_classes=len(space))
        for name in ("train.csv", "test.csv")
    )
    train, test = (list(zip(x.paths, np.asarray(x.labels).tolist(), strict=True)) for x in lists)
    _require_disjoint(train, test, source)
    empty = sorted(set(range(len(space))) - {label for _, label in train})
    if empty:
        preparation.notes.append(
            f"{len(empty)} classes have no training videos, the first {space.names[empty[0]]!r}"
        )
    return space, train, test


def _require_disjoint(train: Sequence[Row], test: Sequence[Row], source: Path) -> None:
    """Refuse lists whose test would use training videos."""
    trained = {os.path.normpath(path) for path, _ in train}
    shared = [path for path, _ in test if os.path.normpath(path) in trained]
    if shared:
        raise DataError(
            f"{len(shared):,} of the {len(test):,} videos of {source / 'test.csv'} are in its "
            f"train.csv too, the first {shared[0]}: a test would be on what was trained on; take "
            "them out of one of the lists (tools/prepare_labels.py folders --val-share makes lists "
            "that share none)"
        )


def _name(source: Path) -> str:
    """Return the protocol of the source lists, or the name of their folder."""
    protocol = find_protocol(source / "test.csv")
    return protocol.name if protocol else source.resolve().name


class FewShot(Preparer):
    """Some training videos per class."""

    help = "K training videos per class, from a dataset that has its lists"
    output = "folder to write shots_K/ to"
    shots: ClassVar[dict[str, Any]] = {
        "nargs": "+", "default": [2, 4, 8, 16],
        "help": "training videos per class (default: 2 4 8 16)",
    }
    planner: ClassVar[Callable[..., Preparation]] = staticmethod(plan_few_shot)

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the source, the output and the draw."""
        add = parser.add_argument
        add("--source", required=True, type=Path, metavar="DIR",
            help="folder with the dataset's train.csv and test.csv")
        add("--map", required=True, type=Path, metavar="FILE", help="its index2cls.json")
        add("--output", required=True, type=Path, metavar="DIR", help=self.output)
        add("--shots", type=int, metavar="K", **self.shots)
        add("--seed", type=int, default=1, help="seed of the draw (default: 1)")
        add("--allow-fewer", action="store_true",
            help="take all videos of a class that has fewer")

    def plan(self, args: Namespace) -> Preparation:
        """Plan the lists, see :func:`plan_few_shot` and :func:`plan_base_to_novel`."""
        return self.planner(args.source, args.map, args.output, shots=args.shots, seed=args.seed,
                            allow_fewer=args.allow_fewer)


class BaseToNovel(FewShot):
    """Half of the classes to train on, the others to test on."""

    help = "half of the classes to train on, the others to test on"
    output = "folder to write base/ and novel/ to"
    shots: ClassVar[dict[str, Any]] = {
        "default": 16, "help": "training videos per class (default: 16)",
    }
    planner: ClassVar[Callable[..., Preparation]] = staticmethod(plan_base_to_novel)
