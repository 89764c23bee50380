"""Communication between a run's processes; a process that is alone talks to itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from openvclip.utils.errors import ConfigError, OpenVCLIPError
from openvclip.utils.logging import get_logger

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this process writes files and the log."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()


def all_gather_object(value: Any) -> list[Any]:
    """Return every process's ``value``, in order of rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Sum numbers over all processes, in float64."""
    if not is_distributed():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Let tensors hold their means over all processes."""
    if not is_distributed():
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= world_size()


def run_together(work: Callable[[], T]) -> T:
    """Call ``work`` in every process; an error of one is raised in all, so that none waits.

    Raises:
        OpenVCLIPError: what ``work`` raised here, or else the first error of another process.
    """
    error: OpenVCLIPError | None = None
    try:
        result = work()
    except OpenVCLIPError as caught:
        error = caught
    errors = all_gather_object(None if error is None else (type(error), str(error)))
    if error is not None:
        raise error
    for number, other in enumerate(errors):
        if other is not None:
            raise other[0](f"process {number}: {other[1]}")
    return result


def select_device(num_gpus: int) -> torch.device:
    """Return the device of this process: its own GPU, or the CPU when ``num_gpus`` is 0.

    The default ``NUM_GPUS 1`` also runs on a machine without a GPU, with a line in the log; more
    are refused there.

    Raises:
        ConfigError: more GPUs asked for than there are.
    """
    present = torch.cuda.device_count()
    if num_gpus == 0:
        return torch.device("cpu")
    if present == 0 and num_gpus == 1:
        get_logger(__name__).info("no GPU here: running on the CPU (NUM_GPUS 0 says so too)")
        return torch.device("cpu")
    if num_gpus > present:
        raise ConfigError(
            f"NUM_GPUS is {num_gpus} and this machine has {present}; set NUM_GPUS to {present}"
        )
    index = int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
