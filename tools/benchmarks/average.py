"""``benchmark.py average``: the mean of checkpoints."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.apart import run_apart
from benchmarks.compute import (
    VIEW,
    Case,
    build_clip,
    check_agreement,
    finish_report,
    max_difference,
    start_report,
    summarize_runs,
)
from benchmarks.straightforward_compute import average_by_stacking
from benchmarks.targets import (
    AVERAGE_TARGET,
    STACKING_TARGET,
    TWENTY_TARGET,
    judge_least,
    judge_most,
)
from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints, load_model_state
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import Progress, get_logger

TWENTY = 20
TOLERANCE = 1e-6
OURS, STRAIGHT = "streamed", "loaded and stacked"

logger = get_logger(__name__)


def run_average(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the tables and write the JSON.

    Raises:
        ConfigError: the disk has not enough space.
        DataError: the two ways disagree.
    """
    case = Case.from_args(args)
    written = max(args.count, TWENTY) if args.twenty else args.count
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        size = write_checkpoints(Path(folder), case, written)
        result = start_report("average", case, {
            "arch": args.arch, "count": args.count, "twenty": args.twenty,
            "repeats": args.repeats, "checkpoint_gib": size / 2**30, "written": written,
        })
        rows = compare_ways(Path(folder), args.count, args.repeats, case)
        difference = _difference(Path(folder))
        result["agreement"] = {"fp32": check_agreement("average", difference, TOLERANCE)}
        if args.twenty:
            rows.append(_measure(OURS, Path(folder), TWENTY, 1, case))
    result["rows"], result["ratios"] = rows, _ratios(rows)
    return finish_report(result, compute_text.average_lines, args.output)


def write_checkpoints(folder: Path, case: Case, count: int) -> int:
    """Write checkpoints of random weights as the trainer names them; return the bytes of one.

    Raises:
        ConfigError: the disk has not enough space for them and the two means.
    """
    state = {f"model.{name}": tensor.cpu()
             for name, tensor in build_clip(case, VIEW).state_dict().items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    needed, free = (count + 3) * size, shutil.disk_usage(folder).free
    logger.info("writing %d checkpoints, %.1f GB in all, to a temporary folder",
                count, count * size / 1e9)
    if needed > free:
        raise ConfigError(
            f"{count} checkpoints of {case.arch} and their means take {needed / 1e9:.1f} GB, but "
            f"{folder.parent} has {free / 1e9:.1f} GB free; lower --count, leave out --twenty, or "
            "name another --folder"
        )
    draws = torch.Generator().manual_seed(case.seed)
    progress = Progress(count, "writing", "checkpoints")
    for number in range(1, count + 1):
        for tensor in state.values():
            tensor.normal_(generator=draws)
        ckpt.save_file(ckpt.checkpoint_path(folder, number), {"model_state": state})
        progress.update()
    return size


def compare_ways(folder: Path, count: int, repeats: int, case: Case) -> list[dict[str, Any]]:
    """Average the first ``count`` checkpoints both ways in turn, each time in a new process.

    An untimed run of each comes first, which brings the files into the system's cache.
    """
    runs_of: dict[str, list[dict[str, Any]]] = {OURS: [], STRAIGHT: []}
    progress = Progress(2 * (repeats + 1), f"averaging {count} checkpoints", "runs")
    for turn in range(repeats + 1):
        for name, runs in runs_of.items():
            run = run_apart(average_apart, threads=case.threads, way=name, folder=str(folder),
                            count=count)
            if turn:
                runs.append(run)
            progress.update()
    return [_row(name, count, runs) for name, runs in runs_of.items()]


def _measure(name: str, folder: Path, count: int, repeats: int, case: Case) -> dict[str, Any]:
    logger.info("averaging %d checkpoints, %s", count, name)
    return _row(name, count, [
        run_apart(average_apart, threads=case.threads, way=name, folder=str(folder), count=count)
        for _ in range(repeats)
    ])


def _row(name: str, count: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    peaks = [run["peak_bytes"] / 2**30 for run in runs]
    return {"variant": name, "count": count, **summarize_runs([run["ms"] for run in runs]),
            "peak_gib": max(peaks), "peaks_gib": peaks}


def average_apart(way: str, folder: str, count: int) -> dict[str, Any]:
    """Average checkpoints in one of the two ways (in a process of its own)."""
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: average_checkpoints(
            folder, start=1, end=count, output=_output(folder, OURS)
        ),
        STRAIGHT: lambda: average_by_stacking(
            [ckpt.checkpoint_path(folder, number) for number in range(1, count + 1)],
            _output(folder, STRAIGHT),
        ),
    }
    start = time.perf_counter()
    ways[way]()
    return {"ms": (time.perf_counter() - start) * 1e3}


def _output(folder: str | Path, way: str) -> Path:
    return Path(folder) / f"{way.replace(' ', '_')}.pyth"


def _difference(folder: Path) -> float:
    """Return the largest difference between the files of the two ways."""
    ours, other = (load_model_state(_output(folder, way)) for way in (OURS, STRAIGHT))
    if ours.keys() != other.keys():
        return float("inf")
    return max(max_difference(ours[name], tensor) for name, tensor in other.items())


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours, other = rows[:2]
    ratios = [
        judge_most("streamed: GiB above the interpreter", ours["peak_gib"], AVERAGE_TARGET),
        judge_least("loaded and stacked / streamed, time",
                    other["median_ms"] / ours["median_ms"], STACKING_TARGET),
    ]
    for row in rows[2:]:
        ratios.append(judge_most(
            f"streamed: memory of {row['count']} / of {ours['count']}",
            row["peak_gib"] / ours["peak_gib"], TWENTY_TARGET,
        ))
    return ratios
