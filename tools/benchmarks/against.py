"""``benchmark.py against CHECKOUT``: whether a step got slower or larger since another checkout.

Each checkout has a process of its own, and the two take their steps in turn, so that other load on
the machine meets both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import compute_text
from benchmarks.apart import TOOLS, run_apart
from benchmarks.compute import Case, finish_report, start_report
from benchmarks.configured import ConfiguredStep, iterate_apart, write_world
from benchmarks.measure import quiet_process, time_call
from benchmarks.method_table import METHODS
from benchmarks.targets import UNCHANGED_TARGET, judge_most, state_ratio
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.logging import get_logger

HERE, THERE = "here", "there"
STEPS = ("plain", "interpolated")
ROOT = TOOLS.parent

logger = get_logger(__name__)


def run_against(args: argparse.Namespace) -> dict[str, Any]:
    """Compare plain and interpolated steps with those of ``args.checkout``; print, write the JSON.

    Raises:
        ConfigError: there is no checkout in that folder, or no such device.
        DataError: the two compute other losses.
    """
    checkout = Path(args.checkout).resolve()
    if not (checkout / "openvclip" / "__init__.py").is_file():
        raise ConfigError(f"{args.checkout} has no openvclip/__init__.py; name a clone's folder")
    case = Case.from_args(args, dtype=args.dtype)
    result = start_report("against", case, {
        "arch": args.arch, "clips": args.clips, "frames": args.frames, "dtype": args.dtype,
        "repeats": args.repeats, "checkout": str(checkout),
    })
    result.update(rows=[], ratios=[], agreement={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(case, folder)
        for step in STEPS:
            logger.info("%s steps, in turn with those of %s", step, checkout)
            rows = _compare(case, folder, step, checkout, args.repeats)
            if not args.no_memory:
                _add_memory(case, folder, step, checkout, rows)
            result["rows"] += rows.values()
            result["ratios"] += _judge(step, rows, case.dtype)
    return finish_report(result, compute_text.against_lines, args.output)


class Worker:
    """A process in which a checkout's step waits to be asked for."""

    def __init__(self, case: Case, folder: Path, step: str, checkout: Path) -> None:
        order = {"case": dataclasses.asdict(case), "folder": str(folder),
                 "options": dict(METHODS[step].options)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.against"], cwd=TOOLS, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        self.about = self.ask(json.dumps(order))

    def ask(self, line: str = "step") -> dict[str, Any]:
        """Let it take a step; return its ``ms`` and ``loss``.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        for answer in self._process.stdout:
            if answer.startswith("{"):
                return json.loads(answer)
        raise RuntimeError(f"the process ended with exit status {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve() -> None:
    """Take steps as they are asked for on standard input."""
    import torch

    import openvclip

    order = json.loads(sys.stdin.readline())
    case = Case(**order["case"])
    with quiet_process(case.threads):
        torch.set_num_threads(case.threads)
        step = ConfiguredStep(case, order["folder"], order["options"])
        print(json.dumps({"package": openvclip.__file__}), flush=True)
        for _ in sys.stdin:
            ms = time_call(step.iterate)
            print(json.dumps({"ms": ms, "loss": step.loss}), flush=True)


def _compare(
    case: Case, folder: Path, step: str, checkout: Path, repeats: int
) -> dict[str, dict[str, Any]]:
    """Let the two checkouts take their steps in turn, the first of each untimed."""
    workers = {HERE: Worker(case, folder, step, ROOT), THERE: Worker(case, folder, step, checkout)}
    try:
        for name, place in ((HERE, ROOT), (THERE, checkout)):
            package = Path(workers[name].about["package"]).resolve()
            if place not in package.parents:
                raise DataError(f"the steps of {place} would be those of {package}")
        first = {name: worker.ask()["loss"] for name, worker in workers.items()}
        if abs(first[HERE] - first[THERE]) > 1e-4 * abs(first[THERE]):
            raise DataError(f"{step}: the loss is {first[HERE]} here and {first[THERE]} in "
                            f"{checkout}; the two compute something else")
        runs: dict[str, list[float]] = {HERE: [], THERE: []}
        for number in range(repeats):
            # Who begins changes: the second finds the caches as the first left them.
            for name in (HERE, THERE) if number % 2 else (THERE, HERE):
                runs[name].append(workers[name].ask()["ms"])
    finally:
        for worker in workers.values():
            worker.close()
    return {name: {"variant": f"{step}, {name}", "dtype": case.dtype,
                   "median_ms": statistics.median(ms), "min_ms": min(ms), "runs_ms": ms,
                   "clips_per_s": case.clips / statistics.median(ms) * 1e3}
            for name, ms in runs.items()}


def _add_memory(
    case: Case, folder: Path, step: str, checkout: Path, rows: dict[str, dict[str, Any]]
) -> None:
    for name, place in ((HERE, ROOT), (THERE, checkout)):
        memory = run_apart(iterate_apart, threads=case.threads, checkout=place,
                           case=dataclasses.asdict(case), folder=str(folder),
                           options=dict(METHODS[step].options))
        peak = memory["cuda_peak_bytes"] if case.device == "cuda" else memory["peak_bytes"]
        rows[name]["peak_gib"] = peak / 2**30


def _judge(step: str, rows: dict[str, dict[str, Any]], dtype: str) -> list[dict[str, Any]]:
    here, there = rows[HERE], rows[THERE]
    each = [one / other for one, other in zip(here["runs_ms"], there["runs_ms"], strict=True)]
    low, middle, high = (statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1
                         else each * 3)
    ratios = [
        judge_most(f"{step}: here / there", middle, UNCHANGED_TARGET, dtype=dtype),
        state_ratio(f"{step}: a quarter of the pairs is below", low, dtype=dtype),
        state_ratio(f"{step}: a quarter of the pairs is above", high, dtype=dtype),
    ]
    if "peak_gib" in here:
        ratios.append(judge_most(f"{step}: memory here / there",
                                 here["peak_gib"] / there["peak_gib"], UNCHANGED_TARGET,
                                 dtype=dtype))
    return ratios


if __name__ == "__main__":
    serve()
