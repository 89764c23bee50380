"""Timing on a machine that others may be using, and describing that machine."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import torch


@contextmanager
def quiet_process(threads: int = 1) -> Iterator[None]:
    """Run on few torch threads and without garbage collection; both are restored afterwards."""
    before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


def time_call(function: Callable[[], Any]) -> float:
    """Return the wall time of a call in milliseconds."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def time_in_turn(
    variants: Mapping[str, Callable[[], Any]], repeats: int, threads: int = 1
) -> dict[str, list[float]]:
    """Time the variants one after the other, ``repeats`` times over.

    Other load on the machine then affects all variants alike.

    Returns:
        Milliseconds of each variant's runs.
    """
    runs: dict[str, list[float]] = {name: [] for name in variants}
    with quiet_process(threads):
        for _ in range(repeats):
            for name, function in variants.items():
                runs[name].append(time_call(function))
            gc.collect()
    return runs


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load_average() -> float | None:
    """Return the load average of the last minute, if the system gives it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_machine() -> dict[str, Any]:
    """Return the machine, the versions, the date and how busy the machine is now."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "load_average": load_average(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }
