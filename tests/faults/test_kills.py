"""SIGKILL at random moments, each followed by the same command again."""

from __future__ import annotations

import random
import signal
import time

import pytest
from runs import assert_same_end, kill, read_stats

from openvclip.checkpoints import files as ckpt

INTERVAL = 2  # TRAIN.CHECKPOINT_ITERS
ITERATIONS = 3  # of an epoch on the tiny dataset


def last_iteration(output) -> int:
    """Iterations of the whole run before and with the last one in the log."""
    if not (output / "json_stats.jsonl").exists():
        return 0
    rows = [row for row in read_stats(output) if row["_type"] == "train_iter"]
    if not rows:
        return 0
    epoch, iteration = (int(rows[-1][key].split("/")[0]) for key in ("epoch", "iter"))
    return (epoch - 1) * ITERATIONS + iteration


def saved_iteration(output) -> int:
    """Iterations in the newest checkpoint; every file there must be whole."""
    folder = output / "checkpoints"
    files = {(n, 0): path for n, path in ckpt.list_checkpoints(folder).items()}
    files.update(ckpt.list_partials(folder))
    assert all(ckpt.verify_file(path) for path in files.values())
    return max((n * ITERATIONS + i for n, i in files), default=0)


def campaign(runs, folder, kills: int, epochs: int, seed: int) -> dict[str, int]:
    """Kill runs until ``kills`` have hit, finish the last, and compare all with an undisturbed one.

    A run that ends before it is killed is compared, and a new one begun.
    """
    rng = random.Random(seed)
    changes = {"SOLVER__MAX_EPOCH": epochs, "TRAIN__CHECKPOINT_ITERS": INTERVAL,
               "TRAIN__CHECKPOINT_KEEP_LAST": 2, "TRAIN__CHECKPOINT_KEEP_RANGE": "[0,0]"}
    whole = folder / "whole"
    started = time.monotonic()
    runs.finish(whole, **changes)
    length = time.monotonic() - started
    seen = {"kills": 0, "runs": 1, "inside epochs": 0, "while writing": 0, "at the beginning": 0}
    out = folder / "run1"
    while True:
        before = last_iteration(out)
        workers = rng.choice([0, 0, 0, 1, 2])
        pids = runs.start(out, **changes, DATA_LOADER__NUM_WORKERS=workers)
        if seen["kills"] < kills:
            time.sleep(rng.uniform(0.0, 0.7 * length))
            kill(pids)
        (code,) = runs.wait(pids)
        log = (folder / f"{out.name}.0.log").read_text()
        # Loader workers may print a traceback when their process is killed; the run must not.
        assert not any(x in log for x in ("[ERROR]", "trying the checkpoint", "damaged")), log
        if code == 0:
            assert_same_end(whole, out, epochs)
            if seen["kills"] >= kills:
                return seen
            seen["runs"] += 1
            out = folder / f"run{seen['runs']}"
            continue
        assert code == -signal.SIGKILL, log
        seen["kills"] += 1
        logged, saved = last_iteration(out), saved_iteration(out)
        assert logged - saved <= INTERVAL
        seen["inside epochs"] += saved % ITERATIONS != 0
        seen["while writing"] += any((out / "checkpoints").glob(".*.tmp"))
        seen["at the beginning"] += logged == before


def test_killed_four_times(runs, tmp_path):
    seen = campaign(runs, tmp_path, kills=4, epochs=6, seed=4)
    assert seen["kills"] == 4


@pytest.mark.campaign
def test_killed_fifty_times(runs, tmp_path):
    seen = campaign(runs, tmp_path, kills=50, epochs=20, seed=50)
    print(seen)
    assert seen["kills"] == 50 and seen["inside epochs"] and seen["while writing"]
