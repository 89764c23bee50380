"""``benchmark.py methods``: what each method of training adds to a plain step."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.apart import run_apart
from benchmarks.compute import Case, finish_report, start_report, time_variants
from benchmarks.configured import MEMORY_STEPS, ConfiguredStep, iterate_apart, write_world
from benchmarks.measure import time_call
from benchmarks.method_table import METHODS, PLAIN
from benchmarks.rates import count_flops
from benchmarks.targets import judge_most, state_ratio
from openvclip.utils.logging import get_logger

# Numbers of the array that gives the memory's rate: 256 MiB each of three.
ARRAY = 2**26

logger = get_logger(__name__)


def run_methods(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the methods that the arguments name, print the table and write the JSON.

    Each is timed in turn with a plain step of its own, so that both have the machine's moods alike.

    Raises:
        ConfigError: there is no such device.
    """
    case = Case.from_args(args, dtype=args.dtype)
    chosen = list(dict.fromkeys([PLAIN, *(args.methods or METHODS)]))
    result = start_report("methods", case, {
        "arch": args.arch, "clips": args.clips, "frames": args.frames, "dtype": args.dtype,
        "repeats": args.repeats, "classes": args.classes, "memory_steps": MEMORY_STEPS,
    })
    result.update(rows=[], ratios=[], agreement={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(case, folder, args.classes)
        result["memory_gb_per_s"] = rate = measure_memory_rate(case)
        for method in chosen:
            logger.info("%s: %d steps of %d clips", method, args.repeats, case.clips)
            row = _measure(case, folder, method, args.repeats, rate)
            if not args.no_memory:
                row |= _measure_memory(case, folder, method)
            result["rows"].append(row)
    for row in result["rows"][1:]:
        result["ratios"] += _judge(row, result["rows"][0])
    return finish_report(result, compute_text.methods_lines, args.output)


def measure_memory_rate(case: Case) -> float:
    """Return how many GB a second a sum of two large arrays reads and writes, at best."""
    a, b, out = (torch.ones(ARRAY, device=case.device) for _ in range(3))

    def add() -> None:
        float(torch.add(a, b, out=out)[-1])

    add()
    return 3 * 4 * ARRAY / min(time_call(add) for _ in range(5)) / 1e6


def _measure(
    case: Case, folder: Path, name: str, repeats: int, rate: float
) -> dict[str, Any]:
    """Time a method's iterations in turn with plain ones, and compute its floor."""
    method = METHODS[name]
    plain = ConfiguredStep(case, folder, {})
    own = ConfiguredStep(case, folder, method.options) if name != PLAIN else plain
    flops, plain_flops = (count_flops(step.compute_gradients) for step in (own, plain))
    variants = {PLAIN: plain.iterate, name: own.iterate}
    times = time_variants(variants, case, repeats)
    row = {"variant": name, "dtype": case.dtype, "clips": case.clips, **times[name],
           "plain_ms": times[PLAIN]["median_ms"], "plain_runs_ms": times[PLAIN]["runs_ms"],
           "trained_millions": own.trained / 1e6, "tflop": flops / 1e12}
    pairs = zip(times[name]["runs_ms"], times[PLAIN]["runs_ms"], strict=True)
    row["over_plain"] = statistics.median(one / other for one, other in pairs)
    touching = 4 * method.touched * own.trained / rate / 1e6  # ms
    row["floor_over_plain"] = flops / plain_flops + touching / row["plain_ms"]
    del plain, own, variants
    gc.collect()
    return row


def _measure_memory(case: Case, folder: Path, name: str) -> dict[str, Any]:
    memory = run_apart(iterate_apart, threads=case.threads, case=dataclasses.asdict(case),
                       folder=str(folder), options=dict(METHODS[name].options))
    peak = memory["cuda_peak_bytes"] if case.device == "cuda" else memory["peak_bytes"]
    return {"peak_gib": peak / 2**30}


def _judge(row: dict[str, Any], plain: dict[str, Any]) -> list[dict[str, Any]]:
    name, method = row["variant"], METHODS[row["variant"]]
    ratios = [judge_most(f"{name} / plain", row["over_plain"], method.most, dtype=row["dtype"]),
              state_ratio(f"{name} / plain, floor", row["floor_over_plain"], dtype=row["dtype"])]
    if "peak_gib" in row:
        ratios.append(judge_most(f"{name}: GiB above plain", row["peak_gib"] - plain["peak_gib"],
                                 0.0 if method.saves_memory else None, dtype=row["dtype"]))
    return ratios
