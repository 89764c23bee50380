"""Training, averaging and testing the methods of :mod:`openvclip.demo.methods`, resumably.

``root/runs/seedN/METHOD`` has a run of training and its averaged weights,
``root/test/seedN/METHOD`` a folder of results per list. A run is done in a process of one thread,
so that its numbers do not depend on how many run side by side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.config import get_cfg, load_cfg
from openvclip.config.defaults import flatten
from openvclip.demo.dataset import label_maps
from openvclip.demo.methods import METHODS, Bench
from openvclip.demo.table import CHOOSE_ON, SETS
from openvclip.evaluation.build import build_runners
from openvclip.evaluation.runner import run_tests
from openvclip.models.resolve import build_resolved
from openvclip.report.writers import write_json
from openvclip.training.build import build_trainer
from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_bytes, read_text
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import format_seconds, get_logger, setup_logging
from openvclip.utils.signals import StopSignals

logger = get_logger(__name__)

AVERAGE, SETTINGS, RESULTS = "averaged.pth", "settings.json", "results.json"
CLIP = "clip"  # The run that only tests the original CLIP.
# Settings that say where things are and what is logged, not what is computed.
ELSEWHERE = ("OUTPUT_DIR", "LOG_PERIOD", "MODEL.CLIP_PATH", "MODEL.TEXT_CACHE_DIR",
             "DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX", "DATA.INDEX_LABEL_MAPPING_FILE",
             "DATA_LOADER.NUM_WORKERS")


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed, or CLIP itself, which is only tested.

    Attributes:
        method: a name of :data:`METHODS`, or :data:`CLIP`.
        seed: of training; None for CLIP.
    """

    method: str
    seed: int | None = None

    @property
    def place(self) -> str:
        """Its folder, below ``runs`` and ``test``."""
        return self.method if self.seed is None else f"seed{self.seed}/{self.method}"


def list_jobs(bench: Bench) -> list[Job]:
    """Return the runs, seed by seed, of each the longest first."""
    order = sorted(bench.methods, key=lambda name: -METHODS[name].cost)
    return [Job(name, seed) for seed in bench.seeds for name in order] + [Job(CLIP)]


def build_run_config(bench: Bench, job: Job) -> tuple[Any, dict[str, Any]]:
    """Return a run's resolved config, and those of its settings that are not defaults.

    Raises:
        ConfigError: the config file or ``bench.opts`` are wrong.
    """
    data, folder = bench.root / "data", bench.root / "runs" / job.place
    cfg = build_resolved(load_cfg(str(bench.configs / f"{job.method}.yaml"), [
        *bench.opts, *_common(bench), "OUTPUT_DIR", str(folder), "RNG_SEED", str(job.seed),
        "DATA.PATH_TO_DATA_DIR", str(data / "trained"), "TEST.ENABLE", "False",
        "DATA.INDEX_LABEL_MAPPING_FILE", str(data / "trained-index2cls.json"),
    ]))
    usual = flatten(get_cfg())  # keys of a later version leave the results as they are
    kept = {key: value for key, value in flatten(cfg).items()
            if key not in ELSEWHERE and value != usual[key]}
    return cfg, kept


def _common(bench: Bench) -> list[str]:
    root = bench.root
    return ["MODEL.CLIP_PATH", str(root / "clip.pt"), "DATA.PATH_PREFIX", str(root / "data/videos"),
            "MODEL.TEXT_CACHE_DIR", str(root / "text_cache")]


def build_average_range(bench: Bench, cfg: Any) -> tuple[int, int]:
    """Return the first and the last epoch that are averaged, counted from 1."""
    last = cfg.SOLVER.MAX_EPOCH
    return max(1, last - bench.averaged + 1), last


def check_settings(bench: Bench, jobs: Sequence[Job]) -> None:
    """Store what each run depends on; refuse to go on in the folder of other settings.

    Raises:
        DataError: a run or its tests were made with other settings, weights or videos.
    """
    world = {"clip": _hash(bench.root / "clip.pt"),
             "data": parse_json(read_text(bench.root / "data/dataset.json"))}
    for job in jobs:
        wanted: dict[str, Any] = {**world, "ratios": list(bench.ratios)}
        if job.seed is not None:
            cfg, kept = build_run_config(bench, job)
            first, last = build_average_range(bench, cfg)
            method = METHODS[job.method]
            wanted |= {"averaged": [first, last], "weights": method.weights,
                       "test": list(method.test), **kept}
        for folder in (bench.root / "runs" / job.place, bench.root / "test" / job.place):
            check_same(folder / SETTINGS, wanted)


def check_same(path: Path, wanted: dict[str, Any]) -> None:
    """Store settings in ``path``, or check that those in it are the same.

    Raises:
        DataError: they are not; it names the first that differs.
    """
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        before = dict(parse_json(read_text(path, most=MOST_JSON_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}; delete its folder") from error
    missing = object()
    now = dict(parse_json(json.dumps(wanted)))
    for key in dict.fromkeys([*now, *before]):
        old, new = before.get(key, missing), now.get(key, missing)
        if old != new:
            raise DataError(
                f"{path.parent} was made with {key} {_show(old, missing)}, now it is "
                f"{_show(new, missing)}; delete that folder to make it anew, or give another one")


def _show(value: Any, missing: object) -> str:
    text = "not set" if value is missing else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hash(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def run_lane(number: int, bench: Bench, jobs: Sequence[Job], taken: Any) -> None:
    """Do the jobs that no other lane has taken, one after another, on one thread.

    Args:
        number: of the lane.
        bench: the comparison.
        jobs: all jobs, the same in every lane.
        taken: a shared counter of jobs that are taken, with a lock.

    Raises:
        Interrupted: a signal came; training saves its state first.
    """
    torch.set_num_threads(1)
    while True:
        with taken.get_lock():
            place, taken.value = taken.value, taken.value + 1
        if place >= len(jobs):
            return
        job = jobs[place]
        setup_logging(bench.root / "runs" / job.place, terminal=__name__)
        started = time.monotonic()
        if run_job(bench, job):
            logger.info("%s: done in %s (%d of %d)", job.place,
                        format_seconds(time.monotonic() - started), place + 1, len(jobs))


def run_job(bench: Bench, job: Job) -> bool:
    """Train, average and test, as far as that is not done; return whether anything was."""
    with StopSignals() as stop:
        trained = job.seed is not None and train(bench, job, stop)
        stop.leave_at_once()
        tested = [run_test(bench, job, name) for name in (*CHOOSE_ON, *SETS)]
    return trained or any(tested)


def train(bench: Bench, job: Job, stop: StopSignals) -> bool:
    """Train and average, unless the average is there; the epochs' checkpoints are then deleted."""
    folder = bench.root / "runs" / job.place
    if (folder / AVERAGE).exists():
        return False
    cfg, _ = build_run_config(bench, job)
    build_trainer(cfg).run(stop)
    first, last = build_average_range(bench, cfg)
    average_checkpoints(folder, start=first, end=last, output=folder / AVERAGE,
                        which=METHODS[job.method].weights)
    shutil.rmtree(folder / ckpt.FOLDER)
    return True


def run_test(bench: Bench, job: Job, name: str) -> bool:
    """Test the averaged weights on a list at all ratios, unless the results are there."""
    output = bench.root / "test" / job.place / name
    if (output / RESULTS).exists():
        return False
    data, labels = bench.root / "data", name.removeprefix("val_")
    opts = [
        *_common(bench), "DATA.PATH_TO_DATA_DIR", str(data / name),
        "DATA.INDEX_LABEL_MAPPING_FILE", str(data / f"{labels}-index2cls.json"),
        "MODEL.NUM_CLASSES", str(len(label_maps()[labels])), "OUTPUT_DIR", str(output),
    ]
    if job.seed is not None:
        own = METHODS[job.method].test
        opts += [*own, "TEST.CUSTOM_LOAD", "True", "TEST.CUSTOM_LOAD_FILE",
                 str(bench.root / "runs" / job.place / AVERAGE),
                 "TEST.PATCHING_RATIOS", str([*bench.ratios, *([1.0] if own else [])])]
    cfg = build_resolved(load_cfg(str(bench.configs / "test.yaml"), opts))
    run_tests(build_runners(cfg))
    return True

