"""One test list on 1, 2, 3 and 4 processes of torchrun: the same floats, every view once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest_integration import CLASSES, COLOURS, hold_at, options, write_clip

from openvclip.config import load_cfg
from openvclip.data.loader import build_loader
from openvclip.evaluation import build as tester
from openvclip.evaluation.resume_log import FRAME, read_records
from openvclip.report.run.predictions_file import load_predictions
from openvclip.utils.errors import DataError

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
    rng = torch.Generator().manual_seed(1)
    state = {f"model.{k}": v + 0.01 * torch.randn(v.shape, generator=rng)
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
        files[processes] = read_floats(out)
    first = results[1]
    assert first["videos"] == VIDEOS
    assert [entry["row"] for entry in first["failed"]] == [DAMAGED]
    scores = [load_predictions(tmp_path / "on1" / f"preds_ratio{r}.pt")[0]
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


def read_floats(out: Path) -> list[bytes]:
    """Scores and labels of both ratios, bit by bit; the files number their tensors by address."""
    found = [load_predictions(out / f"preds_ratio{r}.pt") for r in ("0.00", "0.50")]
    return [tensor.numpy().tobytes() for pair in found for tensor in pair]


def read_digest(journal: Path) -> str:
    data = journal.read_bytes()
    return json.loads(data[FRAME.size:FRAME.size + FRAME.unpack_from(data)[1]])["digest"]


def start_until_scored(repo, cfg, opts: list[str], out: Path, least: int) -> list[Path]:
    """Start two processes, kill them all once ``least`` groups are in the journals."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(repo / "tools" / "run_net.py"), "--cfg", str(cfg), "--opts", *opts],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=repo, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    launcher = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < deadline:
            found = list((out / "resume").glob("*.journal"))
            if sum(path.stat().st_size for path in found) > least * 100:
                break
            time.sleep(0.002)
        for child in launcher.children(recursive=True):
            child.kill()
    finally:
        process.kill()
        process.communicate()
    return list((out / "resume").glob("*.journal"))


def test_a_killed_test_goes_on_where_it_was(
    many, tmp_path, empty_cfg, repo, in_process, monkeypatch
):
    """Killed on two processes and resumed on one: same results, nothing decoded twice."""
    root, out = tmp_path / "many", tmp_path / "run"
    shutil.copytree(many, root)
    opts = options(root, out, **{**CHANGES, "TEST__CUSTOM_LOAD_FILE": root / "tuned.pyth",
                                 "TEST__RESUME": True})
    in_process(empty_cfg, opts)
    assert not (out / "resume").exists()
    wanted = json.loads((out / "results.json").read_text())
    files = read_floats(out)
    shutil.rmtree(out)

    # The process that comes to this video waits there, and the run cannot end.
    with monkeypatch.context() as changed:
        hold_at(changed, root / "videos" / "60.mp4")
        journals = start_until_scored(repo, empty_cfg, opts, out, least=12)
    assert len(journals) == 2 and not (out / "results.json").exists()
    digest = read_digest(journals[0])
    done = [record for path in journals for record in read_records(path, digest, (2, 3))]
    assert 5 < len(done) < 51
    # Whoever decodes one of these again fails.
    for record in done:
        for row in record.rows:
            (root / "videos" / f"{row}.mp4").unlink()
            (root / "videos" / f"{row}.mp4").write_bytes(b"gone")
    in_process(empty_cfg, opts)
    found = json.loads((out / "results.json").read_text())
    del wanted["seconds"], found["seconds"]
    assert found == wanted
    assert read_floats(out) == files
    assert not (out / "resume").exists()


def test_numbers_of_views_go_on_together(tiny, tmp_path, empty_cfg, in_process, monkeypatch):
    """What the first number of views scored is kept until the last one is done."""
    out = tmp_path / "run"
    opts = options(tiny, out, TRAIN__ENABLE=False, TEST__RESUME=True,
                   TEST__NUM_TEMPORAL_CLIPS="[1,2]")
    build = tester.build_runner

    def fail_at_the_second(cfg, output_dir):
        if output_dir.name == "views_2":
            raise DataError("cut off here")
        return build(cfg, output_dir)

    monkeypatch.setattr(tester, "build_runner", fail_at_the_second)
    in_process(empty_cfg, opts, check=2)
    wanted = json.loads((out / "views_1" / "results.json").read_text())
    assert list((out / "views_1" / "resume").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(tester, "build_runner", build)
    videos = tiny / "videos" / "test"
    hidden = videos.rename(tiny / "videos" / "hidden")
    try:
        shutil.copytree(hidden, videos, copy_function=lambda a, b: Path(b).write_bytes(b"gone"))
        in_process(empty_cfg, opts)
    finally:
        shutil.rmtree(videos)
        hidden.rename(videos)
    found = json.loads((out / "views_1" / "results.json").read_text())
    assert {**found, "seconds": 0} == {**wanted, "seconds": 0}
    second = json.loads((out / "views_2" / "results.json").read_text())
    assert len(second["failed"]) == 9
    assert not list(out.rglob("*.journal"))


def test_weights_that_are_not_finite_are_not_tested(tiny, tmp_path, empty_cfg, in_process, capfd):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    state["visual.proj"][0, 0] = torch.inf
    torch.save({"model_state": state}, tmp_path / "inf.pyth")
    in_process(empty_cfg, options(
        tiny, tmp_path / "run", TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True,
        TEST__CUSTOM_LOAD_FILE=tmp_path / "inf.pyth"), check=2)
    output = capfd.readouterr().out
    assert "inf.pyth holds NaN or infinity in 1 tensors: visual.proj" in output
    assert "CheckpointError: " in output and "test an earlier checkpoint" in output
