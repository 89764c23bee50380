"""Process groups: one process, torchrun, or PySlowFast's own spawn reach the same code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing import connection
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from openvclip.utils import interrupts
from openvclip.utils.command_line import run_tool
from openvclip.utils.errors import (
    ConfigError,
    OpenVCLIPError,
    TrainingError,
    describe_os_error,
    first_line,
)
from openvclip.utils.files import advise_on_space, explain_refusal
from openvclip.utils.lock import training_lock
from openvclip.utils.logging import get_logger, setup_logging
from openvclip.utils.peers import FAILED, PeerWatch
from openvclip.utils.signals import EXIT_CODE, Interrupted, forwarding

T = TypeVar("T")
# Process groups, until the process ends. Were the last reference dropped right after an exchange,
# gloo's destructor would wait, holding the interpreter, for a thread that waits for it to let the
# exchange's tensors go.
_KEPT: list[Any] = []

# How long a process waits in an exchange for one that lives: rank 0 may be writing or computing
# alone meanwhile. One that died is noticed much sooner, see PeerWatch.
TIMEOUT = timedelta(hours=2)
GRACE = 30.0  # Seconds that each process has to save its state after Ctrl-C.
JOIN_TIMEOUT = timedelta(minutes=10)  # For all processes to come, at the start.
# What gloo says, in errors of no type of its own, when another process is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error",
        "Write error", "Timed out waiting", "Connection refused")


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


def run_together(work: Callable[[], T]) -> T:
    """Call ``work`` in every process; an error of one is raised in all, so that none waits.

    Raises:
        OpenVCLIPError: what ``work`` raised here, or else the first error of another process.
    """
    result, error = None, None
    try:
        result = work()
    except OpenVCLIPError as caught:
        error = caught
    found = all_gather_object(None if error is None else (type(error), str(error)))
    if error is not None:
        raise error
    for number, other in enumerate(found):
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


def launch(function: Callable[[Any], None], cfg: Any, init_method: str) -> None:
    """Run ``function(cfg)`` in every process that the run has on this machine.

    Under torchrun (``RANK`` and ``WORLD_SIZE`` are set) this process is one of them. Otherwise
    ``NUM_GPUS`` processes are started here, of ``NUM_GPUS * NUM_SHARDS`` in all, when that is
    more than one.

    Args:
        function: the work, importable by name.
        cfg: the run's config, handed to it.
        init_method: where the processes of several shards meet, such as ``tcp://host:9999``.
    """
    # The console only: the file is opened once the run's settings are known to be possible.
    setup_logging(rank=int(os.environ.get("RANK", 0)))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) == 1:
            _run(0, function, cfg, None, 1, 0)
        else:
            _run(
                int(os.environ.get("LOCAL_RANK", 0)),
                function,
                cfg,
                "env://",
                int(os.environ["WORLD_SIZE"]),
                int(os.environ["RANK"]),
            )
        return
    processes = max(cfg.NUM_GPUS, 1)
    total = processes * cfg.NUM_SHARDS
    if total == 1:
        _run(0, function, cfg, None, 1, 0)
        return
    if cfg.NUM_GPUS > torch.cuda.device_count():
        select_device(cfg.NUM_GPUS)
    first = cfg.SHARD_ID * processes
    if first == 0 and _trains(cfg):  # before processes are started that would be stopped again
        try:
            with training_lock(cfg.OUTPUT_DIR):
                pass
        except OSError as error:
            raise _explain_output(cfg, error) from error
    spawn(_spawned, (function, cfg, init_method, total, first), processes, first)


def spawn(function: Callable, args: tuple, processes: int, first: int = 0) -> None:
    """Run ``function(number, *args)`` in as many processes and wait for them.

    SIGTERM, SIGUSR1 and Ctrl-C are handed on to them.

    Args:
        function: importable by name.
        args: of the function, after the number of the process on this machine.
        processes: how many.
        first: number of the first of them in the run, for messages.

    Raises:
        Interrupted: one of them left with its exit code.
        TrainingError: one of them was killed or failed; the others were stopped.
    """
    shared = torch.multiprocessing.get_context("spawn")
    stopping, begun = (shared.Value("b", 0, lock=False) for _ in range(2))
    # Importing torch takes them seconds, in which Ctrl-C would end them with a traceback each.
    with interrupts.held_back() as possible:
        context = torch.multiprocessing.spawn(
            _begin, args=(function, args, (stopping, begun, possible)), nprocs=processes,
            join=False,
        )
    with forwarding(context.pids(), stopping):
        try:
            _wait(context, stopping)
        except torch.multiprocessing.ProcessExitedException as error:
            if stopping.value:  # one of them says so, if any came that far
                code = interrupts.EXIT_CODE
                raise SystemExit(code) if begun.value else KeyboardInterrupt from error
            raise _explain_exit(error, first) from error


def _wait(context: Any, stopping: Any) -> None:
    """Wait for the started processes; the first that fails has the others stopped.

    After Ctrl-C, which all of them have had, they are left the time to end by themselves.
    """
    running = {process.sentinel for process in context.processes}
    while running:
        running -= set(connection.wait(list(running)))
        if stopping.value:
            for process in context.processes:
                process.join(GRACE)
        if context.join(timeout=0):
            return


def _begin(number: int, function: Callable, args: tuple, shared: tuple) -> None:
    """What a started process does first: take Ctrl-C as the one that started it does."""
    stopping, begun, possible = shared

    def work() -> None:
        if stopping.value:
            raise SystemExit(interrupts.EXIT_CODE)
        begun.value = 1
        function(number, *args)

    kept = "what was saved is kept, and the same command goes on from there"
    code = run_tool(work, kept, log=False, always=possible)
    if code:
        raise SystemExit(code)  # the end of this process: its line is in the log


def _spawned(
    local_rank: int, function: Callable, cfg: Any, init_method: str, total: int, first: int
) -> None:
    os.environ["LOCAL_RANK"] = str(local_rank)
    _run(local_rank, function, cfg, init_method, total, first + local_rank)


def _explain_exit(
    error: torch.multiprocessing.ProcessExitedException, first: int
) -> BaseException:
    """Say what a started process ended with; a code with a meaning of its own is passed on."""
    number = first + error.error_index
    if error.signal_name is not None:
        return TrainingError(
            f"process {number} of the run was killed by {error.signal_name} (out of memory is the "
            "usual reason for SIGKILL); the others of this machine were stopped. Start the same "
            "command again to go on from the last checkpoint"
        )
    if error.exit_code in (1, FAILED):
        return TrainingError(
            f"process {number} of the run failed: its own line in the log above says why; the "
            "others of this machine were stopped"
        )
    return Interrupted() if error.exit_code == EXIT_CODE else SystemExit(error.exit_code)


def _run(
    local_rank: int,
    function: Callable[[Any], None],
    cfg: Any,
    init_method: str | None,
    total: int,
    number: int,
) -> None:
    """Open OUTPUT_DIR, join the group, run, and leave it."""
    with ExitStack() as stack:
        refused = _open_output(cfg, number, stack)
        if init_method is not None:
            _run_in_group(function, cfg, init_method, total, number, refused)
            return
        if refused is not None:
            raise refused
        function(cfg)


def _open_output(cfg: Any, number: int, stack: ExitStack) -> ConfigError | None:
    """Claim OUTPUT_DIR for a training, and begin the log in it; return why that cannot be.

    It is returned, not raised, as the other processes wait to be told.
    """
    setup_logging(rank=number)
    try:
        if number == 0 and _trains(cfg):
            stack.enter_context(training_lock(cfg.OUTPUT_DIR))
        setup_logging(cfg.OUTPUT_DIR, rank=number)
    except OSError as error:
        return _explain_output(cfg, error)
    except ConfigError as error:
        return error
    return None


def _trains(cfg: Any) -> bool:
    return cfg.TRAIN.ENABLE and not cfg.VAL_MODE


def _explain_output(cfg: Any, error: OSError) -> ConfigError:
    why = (describe_os_error(error) if os.path.isdir(cfg.OUTPUT_DIR)
           else explain_refusal(error, cfg.OUTPUT_DIR))
    return ConfigError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written to: {why}; "
                       f"{advise_on_space(error)}give another")


def _run_in_group(
    function: Callable[[Any], None], cfg: Any, init_method: str, total: int, number: int,
    refused: ConfigError | None,
) -> None:
    # NCCL moves GPU tensors only: a run on CPUs takes gloo whatever the default says.
    backend = cfg.DIST_BACKEND if cfg.NUM_GPUS and torch.cuda.is_available() else "gloo"
    store = _join(init_method, total, number)
    watch = PeerWatch(store, number, total)
    try:
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), world_size=total, rank=number,
            timeout=TIMEOUT,
        )
        _KEPT.append(dist.group.WORLD)
        if refused is not None:
            raise refused
        function(cfg)
        watch.finish()
        barrier()  # nobody leaves, and takes the store along, before all are done
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
    """Meet the other processes, and return where they keep what they tell each other.

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
    """Say what a failed exchange between processes means, or return None for another error."""
    text = str(error)
    lost = isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError))
    if not isinstance(error, RuntimeError) or not (lost or any(s in text for s in LOST)):
        return None
    return TrainingError(
        f"a process of this run died or stopped, so that this one, {rank()} of {world_size()}, "
        f"cannot go on; the log of that process says why ({first_line(error)}). Start the same "
        "command again to go on from the last checkpoint"
    )
