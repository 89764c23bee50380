"""Jobs on a Slurm cluster, through submitit: what a node runs, and how it is requested."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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
class Resources:
    """What is requested from the cluster.

    Attributes:
        gpus: GPUs of each node; 0 runs on CPUs.
        nodes: number of nodes.
        timeout: minutes after which the job is stopped and requeued.
        cpus_per_gpu: CPU cores for each GPU: its loader workers and itself.
        memory_per_gpu: GB of memory for each GPU.
        name: name of the job in the queue.
        slurm: other Slurm settings, such as ``partition`` or ``account``.
    """

    gpus: int
    nodes: int = 1
    timeout: int = 48 * 60
    cpus_per_gpu: int = 10
    memory_per_gpu: int = 60
    name: str = "openvclip"
    slurm: tuple[tuple[str, str], ...] = ()


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
    resources: Resources,
    cluster: str | None = None,
) -> Any:
    """Check the config here, then queue the run.

    Args:
        cfg_file: as ``--cfg`` of ``tools/run_net.py``.
        opts: as its ``--opts``; NUM_GPUS and NUM_SHARDS are set from ``resources``.
        job_dir: folder that all nodes can write to; ``%j`` becomes the job's number.
        resources: what is requested from the cluster.
        cluster: ``slurm``, ``local`` or ``debug`` (both on this machine); None: what is available.

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
    run = ("NUM_GPUS", str(resources.gpus), "NUM_SHARDS", str(resources.nodes))
    opts = (*opts, *run)
    load_cfg(cfg_file, opts)
    # Naming a partition also asks for Slurm; this machine has none.
    missing = [name for name in ("srun", "sbatch") if shutil.which(name) is None]
    if missing and (cluster == "slurm" or (cluster is None and resources.slurm)):
        asked = "--cluster slurm" if cluster else f"--{resources.slurm[0][0]}"
        raise ConfigError(
            f"{asked} asks for Slurm, but {' and '.join(missing)} cannot be found; submit from "
            "a node of the cluster, or give --cluster local to run on this machine"
        )
    executor = submitit.AutoExecutor(folder=str(Path(job_dir)), cluster=cluster)
    if executor.cluster != "slurm" and resources.nodes > 1:
        raise ConfigError(f"{resources.nodes} nodes need Slurm, but sbatch cannot be found")
    units = max(resources.gpus, 1)
    executor.update_parameters(
        name=resources.name,
        nodes=resources.nodes,
        tasks_per_node=1,
        gpus_per_node=resources.gpus,
        cpus_per_task=resources.cpus_per_gpu * units,
        mem_gb=resources.memory_per_gpu * units,
        timeout_min=resources.timeout,
        slurm_signal_delay_s=120,
        **{f"slurm_{name}": value for name, value in resources.slurm},
    )
    named = cfg_file if is_address(cfg_file) else str(Path(cfg_file).resolve())
    job = executor.submit(Job(named, opts))
    logger.info("submitted job %s on %s; its log: %s", job.job_id, executor.cluster,
                job.paths.stdout)
    return job


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
