"""Jobs by submitit: on this machine as a process of its own, and two nodes that meet."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_integration import INTERPOLATED, options

from openvclip.launch.slurm import Job, compute_port, submit
from openvclip.utils.errors import ConfigError

NODE = """
import sys
import submitit

class Node:
    global_rank, num_nodes, hostnames, raw_job_id = int(sys.argv[1]), 2, ["127.0.0.1"], sys.argv[2]

submitit.JobEnvironment = Node
from openvclip.launch.slurm import Job
Job(sys.argv[3], tuple(sys.argv[4:]))()
"""


def test_a_job_trains_and_tests_and_leaves_its_log(tool, tiny, tmp_path, empty_cfg):
    opts = options(tiny, tmp_path / "out", **INTERPOLATED, SOLVER__MAX_EPOCH=1)
    finished = tool(
        "run_with_submitit", "--cfg", empty_cfg, "--job_dir", tmp_path / "jobs", "--num_gpus", 0,
        "--cluster", "local", "--wait", "--opts", *opts,
    )
    assert "submitted job" in finished.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["videos"] == 9
    assert any("test_final" in log.read_text() for log in (tmp_path / "jobs").glob("*.out"))


def test_a_job_that_fails_names_its_log(tool, tiny, tmp_path, empty_cfg):
    opts = options(tiny, tmp_path / "out", DATA__PATH_PREFIX=tmp_path / "nowhere")
    finished = tool(
        "run_with_submitit", "--cfg", empty_cfg, "--job_dir", tmp_path / "jobs", "--num_gpus", 0,
        "--cluster", "local", "--wait", "--opts", *opts, check=2,
    )
    log = Path(finished.output.rsplit("see ", 1)[1].strip())
    assert "missing video folder" in log.read_text()


def test_a_wrong_config_is_refused_before_it_is_queued(tool, tmp_path, empty_cfg):
    finished = tool(
        "run_with_submitit", "--cfg", empty_cfg, "--job_dir", tmp_path / "jobs", "--num_gpus", 0,
        "--opts", "TRAIN.BATCHSIZE", "8", check=2,
    )
    assert "TRAIN.BATCH_SIZE" in finished.output
    assert not (tmp_path / "jobs").exists()


def test_several_nodes_need_slurm(tmp_path, empty_cfg):
    with pytest.raises(ConfigError, match="2 nodes need Slurm"):
        submit(str(empty_cfg), [], job_dir=tmp_path, cluster="local",
               gpus=0, nodes=2)


@pytest.mark.parametrize("cluster, slurm, asked", [
    ("slurm", {}, "--cluster slurm"), (None, {"partition": "gpu"}, "--partition"),
])
def test_what_asks_for_slurm_does_not_run_here(
    tmp_path, empty_cfg, monkeypatch, cluster, slurm, asked
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=f"^{asked} asks for Slurm, but srun and sbatch cannot"):
        submit(str(empty_cfg), [], job_dir=tmp_path / "jobs", cluster=cluster,
               gpus=0, slurm=slurm)
    assert not (tmp_path / "jobs").exists()


def test_two_nodes_meet_and_share_a_test(repo, tiny, tmp_path, empty_cfg):
    """The job's code on two nodes of this machine, which submitit itself cannot start here."""
    opts = options(tiny, tmp_path / "out", TRAIN__ENABLE=False, TEST__BATCH_SIZE=4)
    opts += ["NUM_SHARDS", "2"]
    number = str(hash(str(tmp_path)) % 10000)
    nodes = [
        subprocess.Popen([sys.executable, "-c", NODE, str(rank), number, str(empty_cfg), *opts],
                         cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in (0, 1)
    ]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["videos"] == 9


def test_a_stopped_job_is_queued_again_as_it_was():
    job = Job("some.yaml", ("NUM_GPUS", "8"))
    again = job.checkpoint()
    assert pickle.loads(pickle.dumps(job)) == job
    assert again.function == job and again.args == ()


def test_two_jobs_have_two_ports():
    assert compute_port("1234567") != compute_port("1234568")
    assert compute_port("12_3") == compute_port("123")
    assert all(20000 <= compute_port(str(n)) < 40000 for n in (0, 1, 99999999))
