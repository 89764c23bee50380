"""``benchmark.py data``: the data path, from files to batches."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import text
from benchmarks.clips import Survey, find_videos, survey, write_clip
from benchmarks.items import compare
from benchmarks.measure import describe_machine, load_average, quiet_process
from benchmarks.settings import MODES, Settings
from benchmarks.stages import time_stages
from benchmarks.targets import LOADER_TARGET, summarize
from benchmarks.whole_loader import time_loader
from openvclip.report.writers import write_json
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.logging import Progress, get_logger

PARTS = (*MODES, "stages", "loader")
# The two ways to a tensor differ only by rounding.
TOLERANCE = 1e-4

logger = get_logger(__name__)


def run_data(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the tables and write the JSON.

    Raises:
        ConfigError: the arguments contradict each other.
        DataError: no video can be used.
    """
    settings = Settings(
        args.views, args.frames, args.sampling_rate, args.scale, args.crop,
        tuple(args.train_scales), args.seed,
    )
    if not args.videos and not args.generate:
        raise ConfigError("no videos to measure: give --videos, --generate or both")
    files = find_videos(args.videos)
    with tempfile.TemporaryDirectory() as folder:
        made = [
            write_clip(Path(folder) / f"generated_{number}.mp4", seed=number)
            for number in range(args.generate)
        ]
        videos, left_out = _usable([*files, *made], settings)
        result = {
            "machine": describe_machine(),
            "settings": dataclasses.asdict(settings),
            "repeats": args.repeats, "draws": args.draws,
            "left_out": left_out,
            **_measure(videos, {str(path) for path in made}, settings, args),
        }
    result["machine"]["load_average_after"] = load_average()
    for line in _lines(result):
        print(line)
    if args.output:
        write_json(args.output, result)
    return result


def _usable(
    paths: Iterable[Path], settings: Settings
) -> tuple[list[Survey], list[dict[str, str]]]:
    """Survey the files; name those that cannot be compared."""
    videos, left_out = [], []
    for path in paths:
        try:
            video = survey(path)
            _try_library(video, settings)
        except DataError as error:
            left_out.append({"path": str(path), "reason": str(error)})
            logger.warning("left out: %s", error)
        else:
            videos.append(video)
    if not videos:
        raise DataError("none of the videos can be decoded; see the lines above")
    return videos, left_out


def _try_library(video: Survey, settings: Settings) -> None:
    with quiet_process():
        bad = settings.dataset("test", [video.path])[(0, 0)]["bad"]
    if bad:
        raise DataError(bad[0][1])


def _measure(
    videos: Sequence[Survey], made: set[str], settings: Settings, args: argparse.Namespace
) -> dict[str, Any]:
    parts = args.only or PARTS
    how = {"repeats": args.repeats, "draws": args.draws}
    result: dict[str, Any] = {}
    for mode in MODES:
        if mode in parts:
            rows = _each(f"{mode} items", compare, videos, mode, settings, how)
            for row in rows:
                row["generated"] = row["path"] in made
                _warn_of_difference(mode, row)
            result[mode] = {"rows": rows, "summary": summarize(mode, rows)}
    if "stages" in parts:
        result["stages"] = {
            mode: _each(f"{mode} stages", time_stages, videos, mode, settings, how)
            for mode in MODES
        }
    if "loader" in parts:
        result["loader"] = {}
        for mode in MODES:
            logger.info("%s loader: 0 and %d workers", mode, args.workers)
            row = time_loader(
                videos, mode, settings, workers=args.workers, repeats=args.repeats,
                seconds=args.loader_seconds,
            )
            result["loader"][mode] = {
                **row, "target": LOADER_TARGET, "met": row["ratio"] >= LOADER_TARGET,
            }
    return result


def _each(
    what: str,
    function: Callable[..., dict[str, Any]],
    videos: Sequence[Survey],
    mode: str,
    settings: Settings,
    how: dict[str, int],
) -> list[dict[str, Any]]:
    progress = Progress(len(videos), what, "videos")
    rows = []
    for video in videos:
        rows.append(function(video, mode, settings, **how))
        progress.update(note=Path(video.path).name)
    return rows


def _warn_of_difference(mode: str, row: dict[str, Any]) -> None:
    if row["max_difference"] > TOLERANCE:
        logger.warning(
            "%s, %s mode: the library's clip and the straightforward one differ by up to %.3g",
            row["video"], mode, row["max_difference"],
        )


def _lines(result: dict[str, Any]) -> Iterable[str]:
    yield from text.machine_lines(result["machine"])
    for mode in MODES:
        if mode in result:
            yield from text.item_lines(mode, result[mode], result["settings"])
    for mode, rows in result.get("stages", {}).items():
        yield from text.stage_lines(mode, rows)
    if "loader" in result:
        yield from text.loader_lines(result["loader"])
