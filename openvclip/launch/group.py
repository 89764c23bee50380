"""The group formed by a run's processes: how they meet, and what they say when one is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from openvclip.launch.peers import PeerWatch
from openvclip.utils.distributed import barrier, is_distributed, rank, world_size
from openvclip.utils.errors import ConfigError, TrainingError, first_line
from openvclip.utils.signals import Interrupted

# Process groups, until the process ends. Were the last reference dropped right after an exchange,
# gloo's destructor would wait, holding the interpreter, for a thread that waits for it to let the
# exchange's tensors go.
_KEPT: list[Any] = []

# How long a process waits in an exchange for one that is alive: rank 0 may be writing or computing
# alone meanwhile. One that died is noticed much sooner, see PeerWatch.
TIMEOUT = timedelta(hours=2)
JOIN_TIMEOUT = timedelta(minutes=10)  # For all processes to arrive, at the start.
# gloo's messages, in errors without a type of their own, when another process is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error",
        "Write error", "Timed out waiting", "Connection refused")


@contextmanager
def process_group(meeting: str, backend: str, total: int, number: int) -> Iterator[None]:
    """Be process ``number`` of ``total`` inside the block; all learn how each leaves it.

    Args:
        meeting: where they meet, such as ``env://`` or ``tcp://host:9999``.
        backend: the backend of their exchanges, ``nccl`` or ``gloo``.
        total: number of processes.
        number: number of this process.

    Raises:
        ConfigError: they did not all come.
        TrainingError: another process was lost.
    """
    store = _join(meeting, total, number)
    watch = PeerWatch(store, number, total)
    try:
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), world_size=total, rank=number,
            timeout=TIMEOUT,
        )
        _KEPT.append(dist.group.WORLD)
        yield
        watch.finish()
        barrier()  # no process leaves, taking the store along, before all are done
    except BaseException as error:
        if isinstance(error, Interrupted):  # a signal, which the others had as well
            watch.finish()
        else:
            watch.fail(error)
        explained = explain_lost_process(error)
        if backend == "gloo" and is_distributed():  # NCCL would wait for those that are gone
            dist.destroy_process_group()
        if explained is None:
            raise
        raise explained from error
    dist.destroy_process_group()


def _join(init_method: str, total: int, number: int) -> dist.Store:
    """Meet the other processes, and return the store through which they communicate.

    Raises:
        ConfigError: they did not all come.
    """
    try:
        store, _, _ = next(rendezvous(init_method, number, total, timeout=JOIN_TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {number} of {total} could not meet the others at {init_method} "
            f"({first_line(error)}); start all {total}, with the same --init_method, and see "
            "that the port is free and reachable"
        ) from error
    return store


def explain_lost_process(error: BaseException) -> TrainingError | None:
    """Say what a failed exchange between processes means, or return None for other errors."""
    text = str(error)
    lost = isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError))
    if not isinstance(error, RuntimeError) or not (lost or any(s in text for s in LOST)):
        return None
    return TrainingError(
        f"a process of this run died or stopped, so that this one, {rank()} of {world_size()}, "
        f"cannot go on; the log of that process says why ({first_line(error)}). Start the same "
        "command again to go on from the last checkpoint"
    )
