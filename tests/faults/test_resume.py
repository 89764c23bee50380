"""A run that was stopped, however and wherever, ends like one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_integration import options
from runs import CHANGES, assert_same_end, kill, read_stats, wait_for_file

from openvclip.checkpoints import files as ckpt
from openvclip.data.captions.index import write_captions
from openvclip.utils.signals import EXIT_CODE


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_inside_an_epoch(runs, whole, tmp_path, workers):
    out = tmp_path / "run"
    pids = runs.start(out, TRAIN__CHECKPOINT_ITERS=1, DATA_LOADER__NUM_WORKERS=workers)
    wait_for_file(out / "checkpoints", "partial_epoch_00002_iter_0000001.pyth")
    kill(pids)
    assert runs.wait(pids) == [-signal.SIGKILL]
    log = runs.finish(out, TRAIN__CHECKPOINT_ITERS=1, DATA_LOADER__NUM_WORKERS=workers)
    assert "resuming after epoch 1, iteration" in log or "resuming after epoch 2" in log
    assert_same_end(whole, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_saves_the_state_and_leaves(runs, whole, tmp_path, number, workers):
    out = tmp_path / "run"
    pids = runs.start(out, DATA_LOADER__NUM_WORKERS=workers)
    wait_for_file(out, "json_stats.jsonl")
    kill(pids, number)
    assert runs.wait(pids) == [EXIT_CODE]
    log = Path(f"{out}.0.log").read_text()
    assert f"{number.name}: the state is saved" in log
    found = ckpt.load_last_checkpoint(out)
    last = [row for row in read_stats(out) if row["_type"] == "train_iter"][-1]
    done = (int(last["epoch"].split("/")[0]) - 1) * 3 + int(last["iter"].split("/")[0])
    assert (found[1]["epoch"] + 1) * 3 + found[1].get("iteration", 0) == done
    runs.finish(out, DATA_LOADER__NUM_WORKERS=workers)
    assert_same_end(whole, out)


def test_two_processes_agree_to_leave_and_go_on(runs, tmp_path):
    """The signal reaches one of them only."""
    alone, out = tmp_path / "alone", tmp_path / "run"
    runs.finish(alone, processes=2)
    pids = runs.start(out, processes=2)
    wait_for_file(out, "json_stats.jsonl")
    kill(pids[1:], signal.SIGUSR1)
    assert runs.wait(pids) == [EXIT_CODE, EXIT_CODE]
    assert list(ckpt.list_partials(out / "checkpoints")) or ckpt.list_checkpoints(
        out / "checkpoints")
    runs.finish(out, processes=2)
    assert_same_end(alone, out)


def test_two_processes_killed_inside_an_epoch(runs, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "run"
    runs.finish(alone, processes=2)
    pids = runs.start(out, processes=2, TRAIN__CHECKPOINT_ITERS=1)
    wait_for_file(out / "checkpoints", "partial_epoch_00002_iter_0000002.pyth")
    kill(pids)
    runs.wait(pids)
    runs.finish(out, processes=2, TRAIN__CHECKPOINT_ITERS=1)
    assert_same_end(alone, out)


def test_torchrun_hands_sigterm_on_with_loader_workers(tiny, whole, runs, tmp_path, repo):
    """torchrun signals the whole group of each process, loader workers included."""
    out = tmp_path / "run"
    changes = {**CHANGES, "DATA_LOADER__NUM_WORKERS": 1}
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1",
         str(repo / "tools" / "run_net.py"), "--cfg", str(runs.config), "--opts",
         *options(tiny, out, **changes)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for_file(out, "json_stats.jsonl")
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "SIGTERM: the state is saved" in output, output
    assert "DataLoader worker" not in output
    runs.finish(out)
    assert_same_end(whole, out)


def test_patched_validation_changes_nothing_of_a_training_that_is_resumed(runs, whole, tmp_path):
    out, patched = tmp_path / "run", {"TRAIN__EVAL_PATCHING_RATIO": 0.7}
    pids = runs.start(out, **patched)
    wait_for_file(out / "checkpoints", "checkpoint_epoch_00001.pyth")
    kill(pids, signal.SIGTERM)
    assert runs.wait(pids) == [EXIT_CODE]
    runs.finish(out, **patched)
    assert_same_end(whole, out)
    rows = [row for row in read_stats(out) if row["_type"] == "val_epoch"]
    assert {row["epoch"] for row in rows} == {"1/3", "2/3", "3/3"}
    assert all("top1_acc_patched" in row for row in rows)
    assert len(rows) == 3
    assert (out / "curves.png").is_file()


def test_a_text_tower_that_trains_goes_on_inside_an_epoch(runs, tmp_path):
    """Its class embeddings are those of the epoch's beginning, not of the place of the kill."""
    file = tmp_path / "captions.sqlite"
    write_captions(file, {str(n): [f"clip number {n}", f"a clip {n}"] for n in range(4)})
    captions = {"TRAIN__CAPTION__ENABLE": True, "TRAIN__CAPTION__FILE": file,
                "TRAIN__CAPTION__TEXT_TOWER": "trainable", "TRAIN__CHECKPOINT_ITERS": 1}
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    runs.finish(undisturbed, **captions)
    pids = runs.start(out, **captions)
    wait_for_file(out / "checkpoints", "partial_epoch_00002_iter_0000002.pyth")
    kill(pids)
    assert runs.wait(pids) == [-signal.SIGKILL]
    log = runs.finish(out, **captions)
    assert "resuming after epoch" in log
    assert_same_end(undisturbed, out)


def test_a_validation_that_was_cut_off_is_done_again(runs, tmp_path):
    out = tmp_path / "run"
    runs.finish(out, SOLVER__MAX_EPOCH=1)
    lines = (out / "json_stats.jsonl").read_text().splitlines(keepends=True)
    assert '"val_epoch"' in lines[-1]
    (out / "json_stats.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20] + "\n")
    log = runs.finish(out, SOLVER__MAX_EPOCH=1)
    assert log.count("val_epoch: epoch 1/1") == 1
    assert "val_epoch" not in runs.finish(out, SOLVER__MAX_EPOCH=1)


def test_a_signal_ends_testing_at_once(runs, tiny, tmp_path):
    out = tmp_path / "run"
    video = (tiny / "test.csv").read_text().splitlines()[4].rpartition(",")[0]
    pids = runs.start(out, held=tiny / "videos" / video, TRAIN__ENABLE=False, TEST__ENABLE=True)
    wait_for_file(out, "config.yaml")
    kill(pids, signal.SIGTERM)
    assert runs.wait(pids) == [EXIT_CODE], Path(f"{out}.0.log").read_text()
    assert not (out / "results.json").exists()


def test_another_epoch_length_is_refused_by_name(runs, tmp_path):
    out = tmp_path / "run"
    pids = runs.start(out)
    wait_for_file(out, "json_stats.jsonl")
    kill(pids, signal.SIGTERM)
    runs.wait(pids)
    if not ckpt.list_partials(out / "checkpoints"):  # it came between two epochs
        pytest.skip("the signal came after the epoch's last step")
    assert runs.wait(runs.start(out, TRAIN__BATCH_SIZE=2)) == [2]
    assert "an epoch of 3 iterations, and this run's have 6" in Path(f"{out}.0.log").read_text()
