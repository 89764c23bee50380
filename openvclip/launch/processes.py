"""A run in all its processes: a single one, torchrun's, or those that are started here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from openvclip.launch.group import process_group
from openvclip.launch.lock import training_lock
from openvclip.launch.spawn import spawn
from openvclip.utils.distributed import select_device
from openvclip.utils.errors import ConfigError, describe_os_error
from openvclip.utils.files import advise_on_space, explain_refusal
from openvclip.utils.logging import setup_logging


@dataclass(frozen=True)
class Launch:
    """How a run is spread over processes.

    Attributes:
        here: number of processes to start here; 0: this process is one of the run's.
        first: number of the first of them, or of this one.
        total: total number of processes.
        meeting: where they meet; see ``torch.distributed``.
        backend: backend of their exchanges.
        gpus: GPUs of this machine that the run uses.
        output_dir: OUTPUT_DIR.
        trains: whether OUTPUT_DIR is claimed for training.
    """

    here: int
    first: int
    total: int
    meeting: str
    backend: str
    gpus: int
    output_dir: str
    trains: bool


def build_launch(cfg: Any, init_method: str) -> Launch:
    """Build it from the config, or from torchrun's environment (``RANK`` and ``WORLD_SIZE``).

    The processes of several shards meet at ``init_method``, such as ``tcp://host:9999``.
    """
    processes = max(cfg.NUM_GPUS, 1)
    here, first, total = processes, cfg.SHARD_ID * processes, processes * cfg.NUM_SHARDS
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        here, first, total = 0, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        init_method = "env://"
    return Launch(
        here=here if total > 1 else 0,
        first=first if total > 1 else 0,
        total=total,
        meeting=init_method,
        # NCCL moves only GPU tensors: a run on CPUs uses gloo whatever the default says.
        backend=cfg.DIST_BACKEND if cfg.NUM_GPUS and torch.cuda.is_available() else "gloo",
        gpus=cfg.NUM_GPUS,
        output_dir=cfg.OUTPUT_DIR,
        trains=cfg.TRAIN.ENABLE and not cfg.VAL_MODE,
    )


def launch(function: Callable[[Any], None], cfg: Any, init_method: str) -> None:
    """Run ``function(cfg)``, importable by name, in every process of the run on this machine."""
    # The console only: the file is opened once the run's settings are known to be possible.
    setup_logging(rank=int(os.environ.get("RANK", 0)))
    run = build_launch(cfg, init_method)
    if not run.here:
        _run_process(run, run.first, function, cfg)
        return
    if run.gpus > torch.cuda.device_count():
        select_device(run.gpus)  # reports if there are fewer
    if run.first == 0 and run.trains:  # before starting processes that would be stopped again
        try:
            with training_lock(run.output_dir):
                pass
        except OSError as error:
            raise _explain_output(run.output_dir, error) from error
    spawn(_enter, (run, function, cfg), run.here, run.first)


def _enter(local_rank: int, run: Launch, function: Callable[[Any], None], cfg: Any) -> None:
    os.environ["LOCAL_RANK"] = str(local_rank)
    _run_process(run, run.first + local_rank, function, cfg)


def _run_process(run: Launch, number: int, function: Callable[[Any], None], cfg: Any) -> None:
    """Open OUTPUT_DIR, join the group, run, and leave it."""
    with ExitStack() as stack:
        refused = _open_output(run, number, stack)
        if run.total > 1:
            stack.enter_context(process_group(run.meeting, run.backend, run.total, number))
        if refused is not None:
            raise refused
        function(cfg)


def _open_output(run: Launch, number: int, stack: ExitStack) -> ConfigError | None:
    """Claim OUTPUT_DIR for training, and start the log in it; return why this is impossible.

    It is returned, not raised, because the other processes wait for it.
    """
    setup_logging(rank=number)
    try:
        if number == 0 and run.trains:
            stack.enter_context(training_lock(run.output_dir))
        setup_logging(run.output_dir, rank=number)
    except OSError as error:
        return _explain_output(run.output_dir, error)
    except ConfigError as error:
        return error
    return None


def _explain_output(folder: str, error: OSError) -> ConfigError:
    why = describe_os_error(error) if os.path.isdir(folder) else explain_refusal(error, folder)
    return ConfigError(f"OUTPUT_DIR {folder} cannot be written to: {why}; "
                       f"{advise_on_space(error)}give another")
