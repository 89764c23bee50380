"""Accuracy against the patching ratio: of one test, and of all tests under some folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvclip.report.summary.columns import COLUMN_OF, Column
from openvclip.report.summary.rows import ModelRow, Result, label_rows
from openvclip.utils.errors import ConfigError

PICTURE = "accuracy_vs_ratio.png"
CLEAN = "clean"  # Folder that tools/check_videos.py writes lists to.

Curve = dict[float, float]  # patching ratio -> top-1 accuracy in percent


@dataclass(frozen=True)
class Sweeps:
    """What was tested at several ratios."""

    curves: dict[str, dict[str, Curve]]  # by checkpoint and test set
    trained: list[str]  # the sets whose classes the checkpoints were trained on
    zero_shot: list[str]  # the others; both only name what all checkpoints with a trained set have
    kinds: dict[str, str]  # checkpoint -> how it was trained, where known: see find_kind


def write_test_sweep(output_dir: str | Path, results: dict[str, Any]) -> Path | None:
    """Draw ``accuracy_vs_ratio.png`` of one test's results; None if it was at only one ratio."""
    name = "top1" if "top1" in results["results"][0] else "map_decoded"
    points = {row["patching_ratio"]: row[name] for row in results["results"]}
    if len(points) < 2:
        return None
    run = Path(str((results.get("checkpoint") or {}).get("file", "CLIP"))).name
    curves = {run: {name_lists([results["list"]])[results["list"]]: points}}
    return save_sweeps(
        Sweeps(curves, [], [], {run: find_kind(results)}), output_dir,
        "top-1 accuracy (%)" if name == "top1" else "mean average precision (%)")


def save_sweeps(
    sweeps: Sweeps, folder: str | Path, metric: str = "top-1 accuracy (%)"
) -> Path | None:
    """Draw all sweeps into ``folder``; return None if there are none, or after a warning."""
    if not sweeps.curves:
        return None
    from openvclip.report.plots import draw_ratio_sweep, save_or_warn

    return save_or_warn(Path(folder) / PICTURE, lambda: draw_ratio_sweep(
        sweeps.curves, trained=sweeps.trained, zero_shot=sweeps.zero_shot, kinds=sweeps.kinds,
        metric=metric, title=next(iter(sweeps.curves)) if len(sweeps.curves) == 1 else "",
    ))


def name_lists(paths: Iterable[str]) -> dict[str, str]:
    """Name lists of videos after their folders, as many of these as make the names unique.

    ``data/unseen/test.csv`` is ``unseen``; a list of another name than ``test.csv`` keeps its own,
    and one that was cleaned the folder above ``clean``.
    """
    paths = list(dict.fromkeys(paths))
    parts = {}
    for path in paths:
        where = Path(path)
        parts[path] = where.parent.parts if where.name == "test.csv" else (
            *where.parent.parts, where.stem)
    names: dict[str, str] = {}
    for depth in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {path: _join_folders(folders, depth) or path for path, folders in parts.items()}
        if len(set(names.values())) == len(paths):
            break
    return names or {path: path for path in paths}


def name_folder(path: str | Path) -> str:
    """Name a list after its folder: ``ssv2``, or ``ssv2/clean`` of what check_videos.py cleaned."""
    return _join_folders(Path(path).parent.parts, 1)


def _join_folders(parts: Sequence[str], depth: int) -> str:
    """Join the last ``depth`` folders; ``clean`` says nothing without the one above it."""
    return "/".join(parts[-max(depth, 2 if parts and parts[-1] == CLEAN else 1):])


def collect_sweeps(
    results: Sequence[Result],
    rows: Sequence[ModelRow],
    columns: Sequence[Column],
    trained: Sequence[str] | None = None,
) -> Sweeps:
    """Gather the sweeps of a table's rows, and of tests of lists that it has no column for.

    Args:
        results: what to take lists of no column from.
        rows: the table's rows.
        columns: the table's columns.
        trained: test sets whose classes were trained on; None: see :attr:`Run.trained_classes`,
            and Kinetics-400 where that is unknown.

    Raises:
        ConfigError: ``trained`` names a set that was not swept.
    """
    models: dict[tuple, _Swept] = {}
    for result, name, value in (*_of_rows(rows, columns), *_of_others(results)):
        model = models.setdefault(result.model, _Swept(replace(result, scores={})))
        assert result.ratio is not None  # as points have one
        model.curves.setdefault(name, {})[result.ratio] = value
        if trained:
            model.learned[name] = name in trained
        elif name not in model.learned:
            known, protocol = result.run.trained_classes, result.run.protocol
            if known is None:
                known = protocol is not None and protocol.dataset == "kinetics400"
            model.learned[name] = known
    for model in models.values():
        model.curves = {name: curve for name, curve in model.curves.items() if len(curve) > 1}
    swept = [model for model in models.values() if model.curves]
    label_rows(swept)
    swept.sort(key=lambda model: model.name)
    if len({model.backbone for model in swept}) > 1:
        for model in swept:
            model.label = model.name
    sets: dict[str, set[bool]] = {}  # whether their classes were trained on, by checkpoint
    for model in swept:
        for name in sorted(model.curves):
            sets.setdefault(name, set()).add(model.learned[name])
    if unknown := [name for name in trained or () if name not in sets]:
        raise ConfigError(
            f"--trained {' '.join(unknown)}: not tested at several patching ratios; what was: "
            f"{', '.join(sets) or 'nothing'}"
        )
    return _choose_axes(swept, sets)


@dataclass
class _Swept(ModelRow):
    """A model at all its ratios: its curves, and whether each set's classes were trained on."""

    curves: dict[str, Curve] = field(default_factory=dict, init=False)
    learned: dict[str, bool] = field(default_factory=dict, init=False)


def find_kind(content: dict[str, Any]) -> str:
    """Say how the tested weights were trained: a key of ``styles.KINDS``; "" if unknown."""
    trained = content.get("trained_on")
    if not isinstance(trained, dict) or "interpolated" not in trained:
        return ""
    if trained.get("captions"):
        return "captions"
    return "interpolated" if trained["interpolated"] else "plain"


def _choose_axes(swept: Sequence[_Swept], is_trained: dict[str, set[bool]]) -> Sweeps:
    """Set what all checkpoints that can be compared were tested on against each other.

    Trained sets come first among the curves.
    """
    learned = [name for name, kinds in is_trained.items() if kinds == {True}]
    order = sorted(is_trained, key=lambda name: name not in learned)
    fit = [model.curves for model in swept if any(name in model.curves for name in learned)]
    common = [name for name in is_trained if fit and all(name in curves for curves in fit)]
    kinds = {model.label: find_kind(model.first.run.content) for model in swept}
    return Sweeps(
        curves={model.label: {name: model.curves[name] for name in order if name in model.curves}
                for model in swept},
        trained=[name for name in common if name in learned],
        zero_shot=[name for name in common if is_trained[name] == {False}],
        kinds={label: kind for label, kind in kinds.items() if kind},
    )


Point = tuple[Result, str, float]  # a result, the test set and the accuracy in percent


def _of_rows(rows: Sequence[ModelRow], columns: Sequence[Column]) -> Iterator[Point]:
    """Yield the table's cells; of several lists the mean, where all of them have the ratio."""
    for column in columns:
        cells = [cell for row in rows if (cell := row.cell(column))]
        most = max((len(cell.results) for cell in cells), default=0)
        for cell in cells:
            result = next(iter(cell.results.values()))
            if result.ratio is not None and len(cell.results) == most:
                yield result, column.title, cell.mean


def _of_others(results: Sequence[Result]) -> Iterator[Point]:
    """Yield the tests of lists without a column, oldest first: the newer of two counts."""
    others = [r for r in results if r.run.protocol is None or r.run.protocol.name not in COLUMN_OF]
    names = name_lists(result.run.content["list"] for result in others)
    for result in sorted(others, key=lambda result: result.run.written):
        if result.ratio is not None and "top1" in result.scores:
            yield result, names[result.run.content["list"]], result.value
