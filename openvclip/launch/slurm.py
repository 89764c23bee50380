"""Jobs on a Slurm cluster, through submitit: what a node runs, and how it is requested."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvclip.config import load_cfg
from openvclip.utils.errors import ConfigError, TrainingError
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import is_address

logger = get_logger(__name__)

FIRST_PORT = 20000
PORTS = 20000


@dataclass(frozen=True)
class Job:
    """The work of one node: its processes in a run of ``tools/run_net.py``.

    The nodes meet at the first one; the port is derived from the job's number, so that two jobs on
    a node do not meet each other. When the job is preempted or out of time, submitit calls
    :meth:`checkpoint` and queues it again; ``TRAIN.AUTO_RESUME`` then resumes from the last
    checkpoint.
    """

    cfg_file: str
    opts: tuple[str, ...]

    def __call__(self) -> None:
        """Run on a node, in the job's environment."""
        import submitit

        from openvclip.launch.processes import launch
        from openvclip.launch.run import run

        node = submitit.JobEnvironment()
        cfg = load_cfg(self.cfg_file, [*self.opts, "SHARD_ID", str(node.global_rank)])
        host = node.hostnames[0] if node.num_nodes > 1 else "127.0.0.1"
        launch(run, cfg, f"tcp://{host}:{compute_port(node.raw_job_id)}")

    def checkpoint(self) -> Any:
        """Return what submitit queues when the job is stopped: the same work again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def compute_port(job: str) -> int:
    """Return the port of a job, from its number in the queue."""
    digits = "".join(c for c in job if c.isdigit()) or "0"
    return FIRST_PORT + int(digits) % PORTS


def submit(
    cfg_file: str,
    opts: Sequence[str],
    *,
    job_dir: str | Path,
    gpus: int,
    nodes: int = 1,
    timeout: int = 48 * 60,
    cpus_per_gpu: int = 10,
    memory_per_gpu: int = 60,
    name: str = "openvclip",
    cluster: str | None = None,
    slurm: Mapping[str, str] | None = None,
) -> Any:
    """Check the config here, then queue the run.

    Args:
        cfg_file: as ``--cfg`` of ``tools/run_net.py``.
        opts: as its ``--opts``; NUM_GPUS and NUM_SHARDS become ``gpus`` and ``nodes``.
        job_dir: folder that all nodes can write to; ``%j`` becomes the job's number.
        gpus: GPUs of each node; 0 runs on CPUs.
        timeout: minutes after which the job is stopped and requeued.
        cpus_per_gpu: CPU cores for each GPU: its loader workers and itself.
        memory_per_gpu: GB of memory for each GPU.
        cluster: ``slurm``, ``local`` or ``debug`` (both on this machine); None: what is available.
        slurm: other Slurm settings, such as ``partition`` or ``account``.

    Returns:
        submitit's job.

    Raises:
        ConfigError: the config cannot be used, submitit is not installed, or Slurm is requested
            (``cluster`` or its settings) but not available.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("submitit is not installed; pip install -e .[slurm]") from error
    slurm = slurm or {}
    opts = (*opts, "NUM_GPUS", str(gpus), "NUM_SHARDS", str(nodes))
    load_cfg(cfg_file, opts)
    if cluster == "slurm" or (cluster is None and slurm):  # a partition also asks for Slurm
        _require_slurm("--cluster slurm" if cluster else f"--{next(iter(slurm))}")
    executor = submitit.AutoExecutor(folder=str(Path(job_dir)), cluster=cluster)
    if executor.cluster != "slurm" and nodes > 1:
        raise ConfigError(f"{nodes} nodes need Slurm, but sbatch cannot be found")
    units = max(gpus, 1)
    executor.update_parameters(
        name=name, nodes=nodes, tasks_per_node=1, gpus_per_node=gpus,
        cpus_per_task=cpus_per_gpu * units, mem_gb=memory_per_gpu * units,
        timeout_min=timeout, slurm_signal_delay_s=120,
        **{f"slurm_{key}": value for key, value in slurm.items()},
    )
    named = cfg_file if is_address(cfg_file) else str(Path(cfg_file).resolve())
    job = executor.submit(Job(named, opts))
    logger.info("submitted job %s on %s; its log: %s", job.job_id, executor.cluster,
                job.paths.stdout)
    return job


def _require_slurm(asked: str) -> None:
    missing = [name for name in ("srun", "sbatch") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"{asked} asks for Slurm, but {' and '.join(missing)} cannot be found; submit from "
            "a node of the cluster, or give --cluster local to run on this machine"
        )


def wait_for(job: Any) -> None:
    """Wait until a submitted job has ended.

    Raises:
        TrainingError: it failed; names the log that says why.
    """
    from submitit.core.utils import UncompletedJobError

    try:
        job.result()
    except UncompletedJobError as error:  # its message holds the whole log
        raise TrainingError(f"job {job.job_id} failed; see {job.paths.stderr}") from error
