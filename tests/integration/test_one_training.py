"""OUTPUT_DIR of a training: one at a time, and one line where it cannot be used."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from conftest_integration import options

from openvclip.launch.lock import FILE, training_lock

ONCE = {"SOLVER__MAX_EPOCH": 1, "TRAIN__EVAL_PERIOD": 9, "TEST__NUM_ENSEMBLE_VIEWS": 1}


def test_a_second_training_is_refused_and_a_test_is_not(
    tiny, tmp_path, empty_cfg, in_process, capfd
):
    with training_lock(tmp_path / "out"):
        for many in ({}, {"NUM_SHARDS": 2}):  # this process trains; or starts one that would
            in_process(empty_cfg, options(tiny, tmp_path / "out", **ONCE, **many), check=2)
            out = capfd.readouterr().out
            assert out.count("Error") == 1
            assert f"process {os.getpid()} on" in out and str(tmp_path / "out") in out
        assert os.listdir(tmp_path / "out") == [FILE], "nothing was written beside the other"
        in_process(empty_cfg, options(tiny, tmp_path / "out", **ONCE, TRAIN__ENABLE=False))
    in_process(empty_cfg, options(tiny, tmp_path / "out", **ONCE))


@pytest.mark.parametrize("train", [True, False])
def test_an_output_dir_that_cannot_be_is_one_line(
    tiny, tmp_path, empty_cfg, in_process, capfd, train
):
    (tmp_path / "file").touch()
    file = f"{tmp_path / 'file'} is not a folder; give another"
    for place, why in (("file", file), ("file/below", file),
                       ("n" * 300, "it cannot be made (File name too long); give another")):
        in_process(empty_cfg, options(tiny, tmp_path / place, **ONCE, TRAIN__ENABLE=train), check=2)
        out, err = capfd.readouterr()
        assert out.count("ConfigError: OUTPUT_DIR") == 1 and f"cannot be written to: {why}" in out
        assert "free space" not in out
        assert "Traceback" not in out + err


def test_a_disk_that_is_full_is_one_line(tiny, tmp_path, empty_cfg, repo):
    """A limit on the files' size stands in for the disk; the results do not fit."""
    def bounded():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    found = subprocess.run(
        [sys.executable, str(repo / "tools/run_net.py"), "--cfg", str(empty_cfg), "--opts",
         *options(tiny, tmp_path / "out", **ONCE, TRAIN__ENABLE=False,
                  MODEL__TEXT_CACHE_DIR=tmp_path / "texts")],
        capture_output=True, text=True, cwd=repo, preexec_fn=bounded, timeout=120,
        stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 2 and "Traceback" not in found.stdout + found.stderr
    assert found.stdout.count("File too large") >= 1 and found.stdout.count("Error: ") == 1
    assert not list(tmp_path.rglob("*.tmp")), "nothing half-written stays"


def test_ctrl_c_saves_the_training_and_the_same_command_goes_on(
    tiny, tmp_path, empty_cfg, repo, in_process
):
    opts = options(tiny, tmp_path / "out", **{**ONCE, "SOLVER__MAX_EPOCH": 50},
                   DATA_LOADER__NUM_WORKERS=2, TEST__ENABLE=False)
    process = subprocess.Popen(
        [sys.executable, str(repo / "tools/run_net.py"), "--cfg", str(empty_cfg), "--opts", *opts],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=repo,
        stdin=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "train_iter" in line:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: loader workers too
                break
        lines += process.stdout.readlines()
        assert process.wait(120) == 130, "".join(lines)
    finally:
        process.kill()
        process.stdout.close()
    text = "".join(lines)
    assert "SIGINT: the state is saved" in lines[-1] and "Traceback" not in text
    assert list((tmp_path / "out/checkpoints").glob("partial_*.pyth"))
    in_process(empty_cfg, [*opts, "SOLVER.MAX_EPOCH", "3"], check=None)
    stats = (tmp_path / "out/json_stats.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in stats)
    assert "resuming after epoch" in (tmp_path / "out/stdout.log").read_text()
