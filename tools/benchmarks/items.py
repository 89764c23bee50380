"""Single items against the bare decode and against the straightforward way."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import straightforward
from benchmarks.clips import Pass, Survey, clip_stamps, decode_bare, plan_floor
from benchmarks.measure import quiet_process, time_in_turn
from benchmarks.settings import Settings

FLOOR, OURS, STRAIGHT = "floor", "ours", "straightforward"


def compare(
    video: Survey, mode: str, settings: Settings, *, repeats: int, draws: int
) -> dict[str, Any]:
    """Time the whole item of a video: bare decode, library, straightforward way.

    In train mode ``draws`` random clips are timed, and each figure is the median over them.

    Returns:
        A row of the table, with every run's time.
    """
    epochs = range(draws if mode == "train" else 1)
    parts = [_compare_epoch(video, mode, settings, epoch, repeats) for epoch in epochs]
    names = [name for name in parts[0] if name != "runs_ms"]
    row = {name: statistics.median(part[name] for part in parts) for name in names}
    row["max_difference"] = max(part["max_difference"] for part in parts)
    for name, count in (("clips", settings.clips(mode)), ("frames", row["frames_decoded"])):
        row[f"{name}_per_s"] = count / row["ours_ms"] * 1e3
    return {**describe(video), **row, "runs_ms": [part["runs_ms"] for part in parts]}


def describe(video: Survey) -> dict[str, Any]:
    """Return a row's description of a video."""
    return {
        "video": Path(video.path).name, "path": video.path, "codec": video.codec,
        "width": video.width, "height": video.height, "fps": video.fps,
        "frames": len(video.stamps),
    }


def _compare_epoch(
    video: Survey, mode: str, settings: Settings, epoch: int, repeats: int
) -> dict[str, Any]:
    clips = clip_stamps(video, settings.requests(mode, epoch, 0), settings.sampling)
    passes = plan_floor(video, clips)
    variants = _variants(video, mode, settings, epoch, passes)
    with quiet_process():
        # Not timed: fills the file cache, and says whether both make the same tensor.
        variants[FLOOR]()
        ours, other = variants[OURS](), variants[STRAIGHT]()
    runs = time_in_turn(variants, repeats)
    row: dict[str, Any] = {
        "frames_decoded": sum(part.frames for part in passes),
        "frames_wanted": len({stamp for clip in clips for stamp in clip}),
        "max_difference": float((ours - other).abs().max()),
    }
    for name, times in runs.items():
        row[f"{name}_ms"], row[f"{name}_min_ms"] = statistics.median(times), min(times)
    row["ours_over_floor"] = row["ours_ms"] / row["floor_ms"]
    row["straightforward_over_ours"] = row["straightforward_ms"] / row["ours_ms"]
    return {**row, "runs_ms": runs}


def _variants(
    video: Survey, mode: str, settings: Settings, epoch: int, passes: Sequence[Pass]
) -> dict[str, Callable[[], Any]]:
    dataset = settings.dataset(mode, [video.path])
    how = {"sampling": settings.sampling, "pixels": settings.pixels(mode)}
    if mode == "test":
        plain = functools.partial(
            straightforward.make_test_item, video.path, settings.views, **how
        )
    else:
        plain = functools.partial(
            straightforward.make_train_item, video.path, epoch, 0, settings.seed, **how
        )
    return {
        FLOOR: functools.partial(decode_bare, video.path, passes),
        OURS: lambda: dataset[(epoch, 0)]["video"],
        STRAIGHT: plain,
    }
