"""``benchmark.py text``: the text classifier, from class names to embeddings."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.compute import (
    Case,
    build_clip,
    check_agreement,
    finish_report,
    max_difference,
    start_report,
    summarize_runs,
    synchronize,
    time_variants,
)
from benchmarks.measure import time_in_turn
from benchmarks.straightforward_compute import classify_text
from benchmarks.targets import TEXT_TARGET, judge_least, state_ratio
from openvclip.data.lists.labels import LabelSpace
from openvclip.models.backbone import CLIP
from openvclip.models.text import TEMPLATES, class_embeddings
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

NAMES_FILE = Path(__file__).resolve().parents[2] / "label_db" / "k400-index2cls.json"
TOLERANCE = 1e-5
OURS, STRAIGHT, CACHED = "computed", "computed, straightforward", "read from the cache"
CACHE_READS = 5

logger = get_logger(__name__)


def run_text(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the tables and write the JSON.

    Raises:
        ConfigError: more classes than there are names, or no such device.
        DataError: the two ways disagree.
    """
    names = choose_names(args.classes, args.fraction)
    case = Case.from_args(args)
    result = start_report("text", case, {
        "arch": args.arch, "classes": args.classes, "fraction": args.fraction,
        "classes_computed": len(names), "templates": len(TEMPLATES), "repeats": args.repeats,
    })
    logger.info("text classifier of %s: %d classes, twice", args.arch, len(names))
    clip = build_clip(case)
    times, embeddings = compare_ways(clip, names, case, args.repeats)
    difference = max_difference(embeddings[OURS], embeddings[STRAIGHT])
    result["agreement"] = {"fp32": check_agreement("text classifier", difference, TOLERANCE)}
    times[CACHED] = time_cache(clip, names, case)
    sentences = len(names) * len(TEMPLATES)
    result["rows"] = [{"variant": name, **time, "sentences": sentences,
                       "sentences_per_s": sentences / time["median_ms"] * 1e3}
                      for name, time in times.items()]
    ms = {name: time["median_ms"] for name, time in times.items()}
    result["ratios"] = [
        judge_least("straightforward / computed", ms[STRAIGHT] / ms[OURS], TEXT_TARGET),
        state_ratio("computed / read from the cache", ms[OURS] / ms[CACHED]),
    ]
    return finish_report(result, compute_text.text_lines, args.output)


def choose_names(classes: int, fraction: int) -> list[str]:
    """Return every ``fraction``-th of the first ``classes`` names of Kinetics-400.

    Raises:
        ConfigError: there are not so many.
    """
    names = LabelSpace.from_json(NAMES_FILE).names
    if classes > len(names):
        raise ConfigError(f"--classes {classes}: {NAMES_FILE.name} has {len(names)} names; give "
                          "that many or fewer")
    return list(names[:classes:fraction])


def compare_ways(
    clip: CLIP, names: list[str], case: Case, repeats: int
) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """Time both ways to the classifier in turn; return the times and the embeddings.

    Both run on two classes first. A whole untimed run would double minutes of work.
    """
    embeddings: dict[str, torch.Tensor] = {}
    ways = {OURS: class_embeddings, STRAIGHT: lambda *given: classify_text(*given, TEMPLATES)}

    def run(name: str, chosen: list[str]) -> None:
        embeddings[name] = ways[name](clip, chosen)
        synchronize(case.device)

    time_in_turn({name: lambda n=name: run(n, names[:2]) for name in ways}, 1, case.threads)
    runs = time_in_turn({name: lambda n=name: run(n, names) for name in ways}, repeats,
                        case.threads)
    return {name: summarize_runs(ms) for name, ms in runs.items()}, embeddings


def time_cache(clip: CLIP, names: list[str], case: Case) -> dict[str, Any]:
    """Time reading the classifier from the cache; checking the weights' digest is part of it."""
    with tempfile.TemporaryDirectory() as folder:

        def read() -> None:
            class_embeddings(clip, names, cache_dir=folder)

        return time_variants({CACHED: read}, case, CACHE_READS)[CACHED]
