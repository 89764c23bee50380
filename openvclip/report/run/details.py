"""What a test's ``report.html`` shows, as data: each patching ratio's classes and mistakes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openvclip.metrics.classification import (
    compute_average_precision,
    compute_confusion_pairs,
    compute_per_class_accuracy,
    rank_mistakes,
)
from openvclip.report.checks import count_trained, say_trained
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

MISTAKES = 12  # Shown for each patching ratio.
MAX_DECODED = 60  # Videos decoded for pictures, however many ratios there are.
MAX_FAILED = 200  # Listed; results.json has all of them.
FRAME = (192, 108)  # Width and height, in pixels, that a picture's frames are shrunk to fit in.
GAP = 2  # Pixels between them.
QUALITY = 72

Scored = tuple[Tensor, Tensor]  # scores (N, C), and whether each video was evaluated, bool (N,)


def build_details(
    results: Mapping[str, Any],
    class_names: Sequence[str],
    labels: Tensor,
    columns: Sequence[Scored],
    dataset: Any = None,
    clips: int = 1,
) -> dict[str, Any]:
    """Gather what the report shows.

    Args:
        results: the content of ``results.json``.
        class_names: names of the C classes.
        labels: (N,) class indices, or 0/1 (N, C) for several labels per video.
        columns: one for each row of ``results["results"]``.
        dataset: gives ``frames(row)`` and ``describe(rows)``; None for a report without pictures.
        clips: how many clips' logits were added to a score.
    """
    several = labels.dim() == 2
    tested = [
        {**row, **(_detail_labels if several else _detail_classes)(scores, labels, done)}
        for row, (scores, done) in zip(results["results"], columns, strict=True)
    ]
    metric = "map_decoded" if several else "top1"
    best = max(range(len(tested)), key=lambda i: (tested[i][metric], -i))
    if not several:
        for row, (scores, done) in zip(tested, columns, strict=True):
            row["mistakes"] = _list_mistakes(scores, labels, done, dataset, clips)
    totals = labels.sum(dim=0) if several else torch.bincount(labels, minlength=len(class_names))
    order = [tested[best], *tested]  # of pictures: those of the ratio that is shown first
    rows = [mistake["row"] for row in order for mistake in row.get("mistakes", ())]
    return {
        **describe_run(results, ", and are left out" if several else "; they count as wrong"),
        "title": f"openvclip test of {results.get('list', 'a list')}",
        "headline": _say_headline(tested[best], several),
        "several": several,
        "metric": metric,
        "metrics": [["mAP", metric]] if several else [["top-1", "top1"], ["top-5", "top5"]],
        "best_by": "mAP" if several else "top-1",
        "classes": list(class_names),
        "totals": totals.long().tolist(),
        "tested": tested,
        "best": best,
        "pictures": make_pictures(rows, dataset),
    }


def describe_run(results: Mapping[str, Any], failures: str) -> dict[str, Any]:
    """Return what a report shows for any test, whatever its task.

    Args:
        results: the content of ``results.json``.
        failures: what happens to videos that could not be evaluated, as the end of a sentence.
    """
    failed = results["failed"]
    return {
        "weights": _say_weights(results),
        "short": _say_protocol(results),
        "caution": f"{say_trained(results)}: this is not a test on new videos."
        if count_trained(results) else "",
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M UTC%z"),
        "videos": results["videos"],
        "failed": {"count": len(failed), "shown": failed[:MAX_FAILED], "effect": failures},
        "protocol": _describe_protocol(results),
        "loaded": _describe_loaded(results),
    }


def _detail_classes(scores: Tensor, labels: Tensor, done: Tensor) -> dict[str, Any]:
    scores, labels = scores[done], labels[done]
    return {
        "right": compute_per_class_accuracy(scores, labels)[1].tolist(),
        "confusion": compute_confusion_pairs(scores, labels).flatten().tolist(),
    }


def _detail_labels(scores: Tensor, labels: Tensor, done: Tensor) -> dict[str, Any]:
    precision = compute_average_precision(scores[done], labels[done]) * 100
    return {"precision": [None if x != x else x for x in precision.tolist()]}  # NaN: no video


def _list_mistakes(
    scores: Tensor, labels: Tensor, done: Tensor, dataset: Any, clips: int
) -> list[dict[str, Any]]:
    mistakes = rank_mistakes(scores, labels, done, MISTAKES, clips)
    rows = [row for row, _, _ in mistakes]
    paths = dataset.describe(rows) if dataset is not None else [f"video {row}" for row in rows]
    return [
        {"row": row, "path": path, "is": int(labels[row]), "named": answer,
         "confidence": confidence}
        for (row, answer, confidence), path in zip(mistakes, paths, strict=True)
    ]


def make_pictures(rows: Iterable[int], dataset: Any) -> dict[str, str]:
    """Return row -> picture of the first :data:`MAX_DECODED` different rows of a list.

    One that cannot be read is left out with a warning. For ``dataset`` see :func:`build_details`.
    """
    if dataset is None:
        return {}
    made, reasons = {}, []
    for row in list(dict.fromkeys(rows))[:MAX_DECODED]:
        try:
            made[str(row)] = make_thumbnail(dataset.frames(row))
        # A report must not fail for a picture, whatever a decoder or a disk raises.
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    if reasons:
        logger.warning("no picture of %d of the videos that the report shows; the first: %s",
                       len(reasons), reasons[0])
    return made


def make_thumbnail(frames: np.ndarray) -> str:
    """Return the first, middle and last of frames (T, H, W, 3) in a row, a JPEG as a data URI."""
    cells = [Image.fromarray(frames[i]) for i in sorted({0, len(frames) // 2, len(frames) - 1})]
    for cell in cells:
        cell.thumbnail(FRAME)
    width, height = cells[0].size
    step = width + GAP
    strip = Image.new("RGB", (step * len(cells) - GAP, height))
    for place, cell in enumerate(cells):
        strip.paste(cell, (place * step, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def say_ratio(row: Mapping[str, Any]) -> str:
    """Say at which patching ratio a row of results was tested; "": not patched."""
    ratio = row.get("patching_ratio")
    return "" if ratio is None else f" at patching ratio {ratio:g}"


def _say_headline(row: Mapping[str, Any], several: bool) -> str:
    if several:
        return f"mean average precision {row['map_decoded']:.2f}%{say_ratio(row)}"
    return f"top-1 {row['top1']:.2f}%, top-5 {row['top5']:.2f}%{say_ratio(row)}"


def _say_weights(results: Mapping[str, Any]) -> str:
    """Say what was tested, and how it was patched."""
    checkpoint = results.get("checkpoint")
    if not checkpoint:
        source = (results.get("clip") or {}).get("source")
        return "the untouched CLIP" + (f", {source}" if source else "")
    ratios = [row["patching_ratio"] for row in results["results"]]
    patched = "not patched"
    if len(ratios) > 1:
        patched = f"patched with CLIP at {len(ratios)} ratios, {min(ratios):g} to {max(ratios):g}"
    elif ratios[0] is not None:
        patched = f"patched with CLIP at ratio {ratios[0]:g}"
    which = f", its {checkpoint['weights']} weights" if checkpoint.get("weights") else ""
    return f"{checkpoint['file']}{which}, {patched}"


def _say_protocol(results: Mapping[str, Any]) -> str:
    """Return the protocol in one line, or "" if it is unknown."""
    if not {"frames", "sampling_rate", "views", "crops", "ensemble"} <= set(results):
        return ""
    line = (
        f"{results['frames']} frames at sampling rate {results['sampling_rate']}, "
        f"{results['views']} x {results['crops']} views x crops ({results['ensemble']})"
    )
    texts = [f", {results[name]['count']} {name}" for name in ("prompts", "captions")
             if name in results]
    return line + "".join(texts)


# What the report lists of a test besides its numbers: key of the results -> names and values.
PROTOCOL = {
    "list": {"list": "{}"},
    "videos": {"videos": "{}"},
    "frames": {"frames per clip": "{}"},
    "sampling_rate": {"sampling rate": "{}"},
    "views": {"temporal views": "{}"},
    "crops": {"spatial crops": "{}"},
    "ensemble": {"ensemble over clips": "{}"},
    "raw_model_ratio": {"share of the raw model's logits": "{}"},
    "captions": {"captions": "{[count]}", "split": "{[split]}", "pairs repeated": "{[repeated]}",
                 "captions of several videos": "{[shared]}", "captions cut off": "{[truncated]}",
                 "SHA-256 of the pairs": "{[sha256]}"},
    "prompts": {"prompts": "{[count]} templates", "SHA-256 of the prompts": "{[sha256]}"},
    "label_set": {"classes": "{0[classes]}, {0[file]}", "SHA-256 of the class names": "{[sha256]}"},
}
MACHINE = {
    "arch": "architecture", "temporal_modeling": "temporal modelling", "seed": "seed",
    "config_sha256": "SHA-256 of the config", "precision": "precision", "device": "device",
    "seconds": "seconds taken",
}


def _describe_protocol(results: Mapping[str, Any]) -> list[list[str]]:
    """Return (name, value) of everything besides the weights that an accuracy depends on."""
    captions = results.get("captions")
    if captions:
        captions = {**captions, "split": captions["split"] or "none: the whole list"}
    content = {**results, "captions": captions}
    return [[name, value.format(content[key])] for key, lines in PROTOCOL.items()
            if content.get(key) not in (None, {}) for name, value in lines.items()]


def _describe_loaded(results: Mapping[str, Any]) -> list[list[str]]:
    """Return (name, value) of the weights, the model and the machine."""
    lines = []
    for key, name, place in (("clip", "CLIP", "source"), ("checkpoint", "checkpoint", "file")):
        if results.get(key):
            lines += [[name, str(results[key][place])],
                      [f"SHA-256 of the {name}", results[key]["sha256"] or "not a file here"]]
        elif key in results:
            lines.append([name, "none: the untouched CLIP"])
    lines += [[name, str(results[key])] for key, name in MACHINE.items() if key in results]
    return lines + [[f"version of {name}", json.dumps(version).strip('"')]
                    for name, version in results.get("versions", {}).items()]
