"""One test list on 1, 2, 3 and 4 processes of torchrun: the same floats, every view once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest_integration import CLASSES, COLOURS, options, write_clip

from openvclip.config import load_cfg
from openvclip.data.loader import build_loader

VIDEOS, VIEWS, DAMAGED = 101, 3, 37
CHANGES = {
    "TRAIN__ENABLE": False, "TEST__NUM_ENSEMBLE_VIEWS": VIEWS, "TEST__BATCH_SIZE": 12,
    "TEST__PATCHING_RATIOS": "[0.0,0.5]", "TEST__SAVE_RESULTS_PATH": "preds.pt",
    "TEST__CUSTOM_LOAD": True, "DATA__NUM_FRAMES": 2,
}


@pytest.fixture(scope="module")
def many(tiny, tmp_path_factory) -> Path:
    """101 rows over few distinct videos, one of them damaged, and a checkpoint to patch."""
    root = tmp_path_factory.mktemp("many")
    videos = root / "videos"
    for i in range(7):
        write_clip(videos / f"{i}.mp4", COLOURS[i % 3], seed=i, frames=8 + i, size=36 + 2 * i)
    rows = []
    for row in range(VIDEOS):
        if row >= 7:
            os.link(videos / f"{row % 7}.mp4", videos / f"{row}.mp4")
        rows.append(f"{row}.mp4,{row % len(CLASSES)}")
    (videos / f"{DAMAGED}.mp4").unlink()
    (videos / f"{DAMAGED}.mp4").write_bytes(b"damaged")
    (root / "test.csv").write_text("\n".join(rows) + "\n")
    for name in ("clip.pt", "tiny-index2cls.json"):
        os.link(tiny / name, root / name)
    state = torch.load(tiny / "clip.pt", weights_only=True)
    draws = torch.Generator().manual_seed(1)
    state = {f"model.{k}": v + 0.01 * torch.randn(v.shape, generator=draws)
             for k, v in state.items()}
    torch.save({"model_state": state}, root / "tuned.pyth")
    return root


def run_under_torchrun(repo, cfg, processes: int, opts: list[str], timeout: float = 240):
    """Start ``tools/run_net.py`` as users do, and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(processes), str(repo / "tools" / "run_net.py"), "--cfg", str(cfg), "--opts", *opts],
        capture_output=True, text=True, timeout=timeout, cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_same_floats_on_1_2_3_and_4_processes(many, tmp_path, empty_cfg, repo):
    results, files = {}, {}
    for processes in (1, 2, 3, 4):
        out = tmp_path / f"on{processes}"
        changes = {**CHANGES, "TEST__CUSTOM_LOAD_FILE": many / "tuned.pyth"}
        done = run_under_torchrun(repo, empty_cfg, processes, options(many, out, **changes))
        assert done.returncode == 0, done.stdout + done.stderr
        results[processes] = json.loads((out / "results.json").read_text())
        files[processes] = [(out / f"preds_ratio{r}.pt").read_bytes() for r in ("0.00", "0.50")]
    first = results[1]
    assert first["videos"] == VIDEOS
    assert [entry["row"] for entry in first["failed"]] == [DAMAGED]
    scores = [torch.load(tmp_path / "on1" / f"preds_ratio{r}.pt", weights_only=True)[0]
              for r in ("0.00", "0.50")]
    assert scores[0].shape == (VIDEOS, len(CLASSES)) and not torch.equal(*scores)
    # Rows of different videos differ, so that scores given to another row would be seen.
    assert len({tuple(row) for row in scores[0].tolist()}) >= 8
    for processes in (2, 3, 4):
        assert files[processes] == files[1]
        assert results[processes]["failed"] == first["failed"]
        assert results[processes]["results"] == first["results"]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_view_is_loaded_once(many, processes):
    cfg = load_cfg(None, options(many, many, **{
        **CHANGES, "TEST__CUSTOM_LOAD_FILE": many / "tuned.pyth"}))
    seen, bad, groups = [], [], []
    for rank in range(processes):
        for batch in build_loader(cfg, "test", rank=rank, world_size=processes):
            seen += zip(batch["index"].tolist(), batch["clip"].tolist(), strict=True)
            bad += [row for row, _ in batch["bad"]]
            groups += map(tuple, batch["groups"].tolist())
            assert len(batch["video"]) <= 12 // processes or len(batch["groups"]) == 1
    assert sorted(seen) == [(row, view) for row in range(VIDEOS) if row != DAMAGED
                            for view in range(VIEWS)]
    assert bad == [DAMAGED]
    assert sorted(groups) == [(row, min(row + 2, VIDEOS)) for row in range(0, VIDEOS, 2)]
