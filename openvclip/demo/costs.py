"""What a training step of each method takes: seconds and memory, one method at a time.

Runs side by side disturb each other, so this is a stage of its own. The batch is decoded before.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from openvclip.demo.bench import Job, build_run_config, check_same
from openvclip.demo.methods import Bench
from openvclip.report.writers import write_json
from openvclip.training.build import build_trainer
from openvclip.training.trainer import Trainer
from openvclip.utils.files import read_table, replacing
from openvclip.utils.logging import get_logger, setup_logging

logger = get_logger(__name__)

FILE, FOLDER = "costs.json", "costs"
ROUNDS, STEPS = 4, 5  # The methods take turns: a slow moment of the machine hits all of them.
WARM = 2
MEMORY_ROWS = 64  # Length of the list with which the memory is measured, two batches.


def measure_costs(number: int, bench: Bench) -> None:
    """Write ``root/costs.json``, unless it is there: seconds and peak memory of each method.

    Args:
        number: of the process, unused.
        bench: the comparison.
    """
    folder = bench.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    setup_logging(folder, terminal=__name__)
    settings = {name: _build_settings(bench, name) for name in bench.methods}
    check_same(folder / "settings.json", settings)
    if (bench.root / FILE).exists():
        return
    logger.info("measuring what a step takes: memory")
    memory = {name: _measure_memory(bench, name) for name in bench.methods}
    logger.info("measuring what a step takes: time")
    seconds, before = _measure_seconds(bench)
    write_json(bench.root / FILE, {"threads": torch.get_num_threads(), "methods": {
        name: {"seconds_per_step": seconds[name], "seconds_before": before[name],
               "peak_bytes": memory[name]} for name in bench.methods}})


def _build_settings(bench: Bench, name: str) -> dict[str, Any]:
    return build_run_config(bench, Job(name, bench.seeds[0]))[1]


def _build_trainer(bench: Bench, name: str, data: Path | None = None) -> Trainer:
    cfg, _ = build_run_config(bench, Job(name, bench.seeds[0]))
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.TRAIN.AUTO_RESUME = str(bench.root / FOLDER / name), False
    if data is not None:
        cfg.DATA.PATH_TO_DATA_DIR = str(data)
    cfg.freeze()
    trainer = build_trainer(cfg)
    trainer.model.train()
    return trainer


def _begin(trainer: Trainer) -> dict:
    """Do what comes before the first step; return its batch."""
    for objective in trainer.step.objectives:
        objective.prepare()
        objective.begin_epoch(0)
    return next(iter(trainer.train_loader))


def _measure_memory(bench: Bench, name: str) -> int:
    """Return the largest number of bytes that tensors take at a time, up to the second step.

    Model, optimizer, states and activations are in it; the optimizer's moments and what a method
    keeps are there from the second step on. Counted, not sampled: it is the same every time.
    """
    data = _write_short_list(bench)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer = _build_trainer(bench, name, data)
        batch = _begin(trainer)
        for step in range(2):
            trainer.train_iteration(batch, 0, step, step)
    events = [(x.start_ns(), x.nbytes()) for x in seen.profiler.kineto_results.events()
              if x.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def _write_short_list(bench: Bench) -> Path:
    """Write lists of videos of many classes; return their folder."""
    folder = bench.root / FOLDER / "list"
    rows = read_table(bench.root / "data/trained/train.csv").splitlines()
    chosen = rows[::max(1, len(rows) // MEMORY_ROWS)]
    for name in ("train.csv", "val.csv"):
        with replacing(folder / name) as file:
            file.write("".join(f"{row}\n" for row in chosen))
    return folder


def _measure_seconds(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """Return each method's median seconds per step, and the seconds before its first step."""
    runs: dict[str, tuple[Trainer, dict]] = {}
    before: dict[str, float] = {}
    taken: dict[str, list[float]] = {name: [] for name in bench.methods}
    for name in bench.methods:
        trainer = _build_trainer(bench, name)
        started = time.perf_counter()
        runs[name] = trainer, _begin(trainer)
        before[name] = time.perf_counter() - started
    for turn in range(ROUNDS):
        for name, (trainer, batch) in runs.items():
            for step in range(WARM + STEPS):
                started = time.perf_counter()
                trainer.train_iteration(batch, 0, step, turn * (WARM + STEPS) + step)
                if step >= WARM:
                    taken[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in taken.items()}, before
