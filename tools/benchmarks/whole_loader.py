"""The whole loader of a run: clips per second in this process and with worker processes."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.clips import Survey
from benchmarks.measure import quiet_process, time_call
from benchmarks.settings import Settings
from openvclip.data.loader import Loader, build_loader

# Videos of a batch.
BATCH = 4


def time_loader(
    videos: Sequence[Survey],
    mode: str,
    settings: Settings,
    *,
    workers: int,
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Time epochs over a list that repeats the videos, with 0 and with ``workers`` processes.

    The first epoch of each, in which workers start, is not timed. The others take turns. Threads
    and garbage collection are left as a run has them.

    Args:
        videos: at least one.
        mode: ``test`` or ``train``.
        settings: of the clips.
        workers: processes of the second loader.
        repeats: epochs that are timed.
        seconds: that an epoch without workers should take, about.
    """
    paths = [video.path for video in videos]
    rounds = _rounds(paths, mode, settings, seconds)
    rates: dict[int, list[float]] = {0: [], workers: []}
    with tempfile.TemporaryDirectory() as folder:
        loaders = {
            count: build_loader(
                settings.config(
                    mode, paths * rounds, folder=Path(folder), batch=BATCH, workers=count
                ),
                mode,
            )
            for count in rates
        }
        for epoch in range(repeats + 1):
            for count, loader in loaders.items():
                rate = _run_epoch(loader, epoch)
                if epoch:
                    rates[count].append(rate)
    single, several = (statistics.median(rates[count]) for count in (0, workers))
    return {
        "videos": len(paths), "rows": len(paths) * rounds, "batch_videos": BATCH,
        "workers": workers, "clips_per_s": {"0": single, str(workers): several},
        "ratio": several / single,
        "runs_clips_per_s": {str(count): values for count, values in rates.items()},
    }


def _rounds(paths: Sequence[str], mode: str, settings: Settings, seconds: float) -> int:
    """Return how often to repeat the videos: whole batches, and about ``seconds`` of work."""
    dataset = settings.dataset(mode, list(paths))

    def run() -> None:
        for row in range(len(paths)):
            dataset[(0, row)]

    with quiet_process():
        run()
        rounds = max(1, math.ceil(seconds * 1e3 / time_call(run)))
    whole = BATCH // math.gcd(BATCH, len(paths))
    return math.ceil(rounds / whole) * whole


def _run_epoch(loader: Loader, epoch: int) -> float:
    loader.set_epoch(epoch)
    clips = 0
    start = time.perf_counter()
    for batch in loader:
        clips += len(batch["video"])
    return clips / (time.perf_counter() - start)
