"""The demo's comparison of methods: its stages, one after another, of which each can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from openvclip.demo import bench_table
from openvclip.demo.bench import check_settings, list_jobs, run_lane
from openvclip.demo.costs import measure_costs
from openvclip.demo.dataset import DatasetSize, write_dataset
from openvclip.demo.methods import Bench
from openvclip.demo.pretrain import PretrainOptions, pretrain
from openvclip.launch.lock import training_lock
from openvclip.launch.spawn import spawn
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


def compare(
    bench: Bench, *, seed: int, size: DatasetSize, options: PretrainOptions | None = None,
    lanes: int = 2,
) -> str:
    """Make the world and its CLIP, train and test every method, measure costs, write the report.

    What is done is skipped, and what was cut off is resumed.

    Args:
        bench: the comparison.
        seed: of data and CLIP.
        size: of the data.
        options: how CLIP is pretrained; None: as in the demo.
        lanes: runs side by side, of one thread each; results do not depend on it.

    Returns:
        The tables as text.

    Raises:
        ConfigError: another process writes to ``bench.root``.
        DataError, CheckpointError: something there was made with other settings.
    """
    with training_lock(bench.root):
        write_dataset(bench.root / "data", seed, size)
        pretrain(bench.root / "clip.pt", seed, options=options)
        jobs = list_jobs(bench)
        check_settings(bench, jobs)
        logger.info("%d runs, %d at a time; each writes its log to %s/runs", len(jobs), lanes,
                    bench.root)
        _run_lanes(bench, jobs, lanes)
        spawn(measure_costs, (bench,), 1)
        return bench_table.write_report(bench)


def _run_lanes(bench: Bench, jobs: Sequence[Any], lanes: int) -> None:
    taken = torch.multiprocessing.get_context("spawn").Value("i", 0)
    spawn(run_lane, (bench, jobs, taken), lanes)
