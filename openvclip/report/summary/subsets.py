"""Results of a protocol's subsets from the saved predictions of its full list.

The splits and halves of UCF-101 have only videos and classes that the test of the full list has
scored; all lists of HMDB-51, and the splits of Kinetics-600, those of a union. A score depends on
its video and its class alone, so that their results follow from picking rows and columns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import Protocol, find_protocol
from openvclip.metrics.classification import compute_scores
from openvclip.report.run.predictions_file import load_predictions, name_predictions
from openvclip.report.summary.runs import RESULTS, find_arch, read_results
from openvclip.report.summary.subset_lists import (
    Match,
    TestedList,
    has_list,
    list_subsets,
    match_list,
    read_tested,
    refuse_problems,
)
from openvclip.report.writers import name_top1, write_json, write_per_class
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# Accuracies (points) may differ by this before predictions count as not being the results': ties
# between scores can fall differently on another machine.
TOLERANCE = 0.1
# What two results must share to be of the same model and setup.
SAME_MODEL = ("clip", "checkpoint", "temporal_modeling", "prompts", "frames", "views", "crops")


class FullRun(NamedTuple):
    """The test of a full list.

    For each row of ``results``, ``scores`` has (N, C); ``done``, bool (N,), is False for videos
    that could not be evaluated.
    """

    path: Path
    content: dict[str, Any]
    tested: TestedList
    scores: list[Tensor]
    done: Tensor


class Subset(NamedTuple):
    """What was derived for one protocol: its results, and what its table of classes is made of."""

    results: dict[str, Any]
    match: Match
    scores: list[Tensor]
    done: Tensor


def load_full_run(
    folder: str | Path, root: str | Path, predictions: str = "predictions.pth"
) -> FullRun:
    """Read a full list's results and predictions, and check that list and files belong together.

    See :func:`derive_all` for the arguments.

    Raises:
        DataError: a file is missing or damaged, the list or the label map is not the one that was
            tested, or the predictions are another run's.
    """
    folder, root = Path(folder), Path(root)
    path = folder / RESULTS
    content = read_results(path)
    protocol = find_protocol(content["list"])
    if protocol is None:
        raise DataError(f"{path}: {content['list']} is not the list of a known protocol")
    if any("top1" not in row for row in content["results"]):
        raise DataError(
            f"{path} has results of several labels per video (DATA.MULTI_LABEL); "
            "no subset can be derived from them"
        )
    names = _find_label_space(content, protocol, root).names
    source = _find_list(content, protocol, root)
    about = f"the list of {protocol.name} that {path} was made with"
    videos, tested = read_tested(protocol, names, source, about)
    if len(videos) != content["videos"]:
        raise DataError(
            f"{source} has {len(videos)} rows, but {path} was made with {content['videos']}: the "
            "list has changed since; run the full test again"
        )
    failed = {failure["row"] for failure in content["failed"]}
    done = torch.tensor([row not in failed for row in range(len(videos))])
    labels, several = torch.from_numpy(videos.labels), len(content["results"]) > 1
    scores = [
        _load_scores(name_predictions(folder / predictions, row.get("patching_ratio"), several),
                     row, labels, done, len(names))
        for row in content["results"]
    ]
    content.setdefault("arch", find_arch(folder, content))
    return FullRun(path, content, tested, scores, done)


def _find_label_space(content: dict[str, Any], protocol: Protocol, root: Path) -> LabelSpace:
    """Return the classes that were tested: the map named by the results, or the one in ``root``."""
    facts = content.get("label_set") or {}
    named = str(facts.get("file"))
    places = [path for path in (Path(named), root / named, root / protocol.label_map)
              if path.is_file()]
    for path in places:
        space = LabelSpace.from_json(path)
        if space.digest() == facts.get("sha256"):
            return space
    looked = ", ".join(map(str, places)) or f"{named}, {root / protocol.label_map}: no such file"
    raise DataError(
        f"the label map {named} that the full list was tested with is not there any more "
        f"(looked at {looked}); give its folder with --root, or run the full test again"
    )


def _find_list(content: dict[str, Any], protocol: Protocol, root: Path) -> Path:
    named = Path(content["list"])
    places = (named, root / named, root / protocol.folder / named.name)
    for path in places:
        if path.is_file():
            return path
    raise DataError(
        f"the list {named} that was tested is not there any more, nor is {places[-1]}; "
        "give the folder of zs_label_db with --root"
    )


def _load_scores(
    path: Path, row: dict[str, Any], labels: Tensor, done: Tensor, classes: int
) -> Tensor:
    """Read the scores (N, C) of one patching ratio and check that they are the results'."""
    if not path.is_file():
        raise DataError(
            f"no predictions {path}: run the full test with TEST.SAVE_RESULTS_PATH, "
            "or name its file with --predictions"
        )
    scores, saved = load_predictions(path)
    if scores.shape != (len(labels), classes) or not torch.equal(saved, labels):
        raise DataError(
            f"{path} has scores of shape {tuple(scores.shape)} that do not belong to the list of "
            f"{len(labels)} videos and {classes} classes; run the full test again"
        )
    top1 = compute_scores(scores, labels, done)["top1"]
    if abs(top1 - row["top1"]) > TOLERANCE:
        raise DataError(
            f"{path} gives top-1 {top1:.2f} %, but {RESULTS} next to it says {row['top1']:.2f} %: "
            "the predictions are another run's; run the full test again"
        )
    return scores


def derive_subset(full: FullRun, protocol: Protocol, root: str | Path) -> Subset:
    """Pick the rows and columns of one protocol of the test of a list that contains it.

    Raises:
        DataError: its list or label map is missing, or has a video or class that was not tested.
    """
    started = time.monotonic()
    match = match_list(full.tested, protocol, root)
    done = full.done[match.rows]
    scores = [each[match.rows][:, match.columns] for each in full.scores]
    content = full.content
    failures = {failure["row"]: failure for failure in content["failed"]}
    results = {
        **content,
        "list": str(match.source),
        "label_set": {"file": str(match.label_map), "classes": len(match.space),
                      "sha256": match.space.digest()},
        "videos": len(match.rows),
        "failed": [{**failures[row], "row": place} for place, row in enumerate(match.rows)
                   if row in failures],
        "results": [
            {"patching_ratio": row.get("patching_ratio"),
             **compute_scores(each, match.labels, done)}
            for row, each in zip(content["results"], scores, strict=True)
        ],
        "derived_from": {
            "protocol": full.tested.protocol.name, "results": str(full.path),
            "list": content["list"], "videos": content["videos"],
        },
    }
    trained = content.get("tested_on_training")
    if isinstance(trained, dict) and isinstance(trained.get("rows"), list):
        known = {row for row in trained["rows"] if isinstance(row, int)}
        places = [place for place, row in enumerate(match.rows) if row in known]
        results["tested_on_training"] = {"videos": len(places), "rows": places}
    results["seconds"] = round(time.monotonic() - started, 1)
    return Subset(results, match, scores, done)


def derive_all(
    source: str | Path,
    names: Sequence[str],
    *,
    root: str | Path,
    output: str | Path,
    predictions: str = "predictions.pth",
) -> list[Path]:
    """Derive the results of several protocols and write each to ``output/NAME``.

    Nothing is written unless all that are named can be derived. Of ``all``, those that can be are
    written before the others are an error. Results of a test of their own are never overwritten.

    Args:
        source: ``OUTPUT_DIR`` of the full list's test.
        names: names of protocols, or ``all``: those that have a list.
        root: folder with ``label_db`` and ``zs_label_db``.
        output: folder that each protocol's folder is made in.
        predictions: the full run's ``TEST.SAVE_RESULTS_PATH``.

    Returns:
        The folders written.

    Raises:
        ConfigError: a name is unknown, or its results cannot be derived from that test.
        DataError: files are missing or do not belong together; all such protocols are named.
    """
    full = load_full_run(source, root, predictions)
    protocols = list_subsets(full.tested.protocol, names)
    if "all" in names:
        protocols = [p for p in protocols if p.name in names or has_list(p, root)]
    subsets, problems = [], {}
    for protocol in protocols:
        try:
            subset = derive_subset(full, protocol, root)
            if _may_write(subset, Path(output)):
                subsets.append(subset)
        except DataError as error:
            if protocol.name in names:
                raise
            problems[protocol.name] = str(error)
    written = [_write(subset, Path(output) / subset.match.protocol.name) for subset in subsets]
    refuse_problems(problems, f"cannot be derived from {full.path}")
    return written


def _may_write(subset: Subset, output: Path) -> bool:
    """Whether to write: not over the results of a test of its own.

    Raises:
        DataError: such results are there, of another model or setup.
    """
    path = output / subset.match.protocol.name / RESULTS
    if not path.is_file():
        return True
    old = read_results(path)
    if "derived_from" in old:
        return True
    ratios = [[row.get("patching_ratio") for row in x["results"]] for x in (old, subset.results)]
    differs = [key for key in SAME_MODEL if _identity(old, key) != _identity(subset.results, key)]
    if ratios[0] != ratios[1]:
        differs.append("patching ratio")
    if differs:
        raise DataError(
            f"{path} is from a test of its own, of something else ({', '.join(differs)}); "
            "remove it or give another --output"
        )
    logger.warning("kept %s: it is from a test of its own", path)
    return False


def _identity(content: dict[str, Any], key: str) -> Any:
    """Return what identifies results by ``key``: prompts by their texts, whatever their name.

    Results of earlier versions do not name them.
    """
    value = content.get(key)
    return value.get("sha256") if key == "prompts" and isinstance(value, dict) else value


def _write(subset: Subset, folder: Path) -> Path:
    rows = subset.results["results"]
    write_json(folder / RESULTS, subset.results)
    columns = {
        name_top1(row.get("patching_ratio")): (scores, subset.done)
        for row, scores in zip(rows, subset.scores, strict=True)
    }
    write_per_class(
        folder / "per_class.csv", subset.match.space.names, subset.match.labels, columns)
    shown = ", ".join(
        f"top-1 {row['top1']:.2f} %" + (
            "" if row.get("patching_ratio") is None else f" at ratio {row['patching_ratio']:g}")
        for row in rows
    )
    logger.info("%s: %d videos, %s", folder, subset.results["videos"], shown)
    return folder
