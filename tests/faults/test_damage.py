"""Damaged checkpoints are found, whatever the damage; failed writes leave the last one whole."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
import torch

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.utils.errors import CheckpointError


def flip(data: bytes, place: int, bit: int = 0) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1:]


def zeroed(data: bytes, start: int, size: int) -> bytes:
    start %= len(data)
    return (data[:start] + bytes(size) + data[start + size:])[:len(data)]


COMMENT = len(ckpt.MARK) + 32
rng = random.Random(6)
DAMAGES = {
    "empty": lambda d: b"",
    "one byte": lambda d: d[:1],
    "half": lambda d: d[:len(d) // 2],
    "last byte missing": lambda d: d[:-1],
    "checksum missing": lambda d: d[:-COMMENT],
    "last block missing": lambda d: d[:len(d) // 4096 * 4096],
    "one byte more": lambda d: d + b"\0",
    "first byte": lambda d: flip(d, 0),
    "first bytes zeroed": lambda d: zeroed(d, 0, 16),
    "a weight": lambda d: flip(d, len(d) // 2, 7),
    "a random bit": lambda d: flip(d, rng.randrange(len(d)), rng.randrange(8)),
    "another random bit": lambda d: flip(d, rng.randrange(len(d)), rng.randrange(8)),
    "zip directory": lambda d: flip(d, d.rindex(b"PK\x01\x02") + 40),
    "size of the comment": lambda d: flip(d, -COMMENT - 2),
    "mark of the checksum": lambda d: flip(d, -COMMENT),
    "checksum": lambda d: flip(d, -1),
    "middle block zeroed": lambda d: zeroed(d, len(d) // 8192 * 4096, 4096),
    "last block zeroed": lambda d: zeroed(d, -4096, 4096),
    "all zeros": lambda d: bytes(len(d)),
    "noise": lambda d: rng.randbytes(len(d)),
    "written over from the start": lambda d: d[:4096] + d[:-4096],
    "text": lambda d: b"<html>502 Bad Gateway</html>",
}


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in (1, 2):
        ckpt.save_file(ckpt.checkpoint_path(tmp_path, number), {
            "epoch": number - 1,
            "model_state": {"w": torch.randn(5000, generator=generator), "b": torch.randn(3)},
        })
    return tmp_path


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_the_one_before_is_used(folder, kind, caplog):
    last = ckpt.checkpoint_path(folder, 2)
    whole = last.read_bytes()
    last.write_bytes(DAMAGES[kind](whole))
    assert last.read_bytes() != whole
    path, content = ckpt.load_last_checkpoint(folder)
    assert path == ckpt.checkpoint_path(folder, 1) and content["epoch"] == 0
    assert "checkpoint_epoch_00002.pyth" in caplog.text
    with pytest.raises(CheckpointError, match="checkpoint_epoch_00002.pyth"):
        ckpt.load_file(last)


def test_every_bit_that_is_flipped_is_found(folder):
    """Each byte of the file's start and end, and every 97th between."""
    path = ckpt.checkpoint_path(folder, 2)
    data = path.read_bytes()
    places = {*range(200), *range(len(data) - 600, len(data)), *range(0, len(data), 97)}
    for place in sorted(places):
        path.write_bytes(flip(data, place, place % 8))
        with pytest.raises(CheckpointError):
            ckpt.load_file(path)


@pytest.mark.parametrize("damaged", [False, True])
def test_files_of_earlier_versions_carry_sha256(folder, monkeypatch, damaged):
    monkeypatch.setattr(ckpt, "MARK", b"openvclip-sha256:")
    path = ckpt.save_file(folder / "older.pth", {"epoch": 0})
    monkeypatch.undo()
    assert hashlib.sha256(path.read_bytes()[:-83] + b"\0\0").hexdigest().encode() in (
        path.read_bytes()[-64:])
    if damaged:
        path.write_bytes(flip(path.read_bytes(), 40))
        with pytest.raises(CheckpointError, match="do not match the checksum"):
            ckpt.load_file(path)
    else:
        assert ckpt.verify_file(path) and ckpt.load_file(path) == {"epoch": 0}


def test_swapped_files_are_found(folder, caplog):
    first, second = (ckpt.checkpoint_path(folder, n) for n in (1, 2))
    shutil.copy(first, folder / "kept")
    second.replace(first)
    (folder / "kept").replace(second)
    assert ckpt.load_last_checkpoint(folder) is None
    for number in (1, 2):
        line = f"checkpoint_epoch_0000{number}.pyth holds the state after {3 - number} epochs"
        assert line in caplog.text
    assert "none of the 2 checkpoints" in caplog.text


def test_a_damaged_partial_gives_way_to_the_epoch_before(folder, caplog):
    path = ckpt.partial_path(folder, 3, 7)
    ckpt.save_file(path, {"epoch": 1, "iteration": 7})
    assert ckpt.load_last_checkpoint(folder)[0] == path
    path.write_bytes(path.read_bytes()[:-5])
    assert ckpt.load_last_checkpoint(folder)[0] == ckpt.checkpoint_path(folder, 2)
    assert path.name in caplog.text


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_clear_line_and_the_last_checkpoint_stays(runs, tmp_path, processes):
    out = tmp_path / "run"
    runs.finish(out, processes, SOLVER__MAX_EPOCH=1)
    before = ckpt.checkpoint_path(out, 1).read_bytes()
    codes = runs.wait(runs.start(out, processes, file_limit=1 << 20, SOLVER__MAX_EPOCH=2))
    assert codes == [2] * processes
    for rank in range(processes):
        log = Path(f"{out}.{rank}.log").read_text()
        assert "CheckpointError" in log and "free space" in log and "Traceback" not in log
    assert ckpt.checkpoint_path(out, 1).read_bytes() == before
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    runs.finish(out, processes, SOLVER__MAX_EPOCH=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_nonfinite_step_leaves_its_state_and_stops_all(runs, tiny, tmp_path, processes):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    state["visual.proj"][0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    out = tmp_path / "run"
    codes = runs.wait(runs.start(
        out, processes, TRAIN__CUSTOM_LOAD=True, TRAIN__CUSTOM_LOAD_FILE=tmp_path / "nan.pt"))
    assert codes == [2] * processes
    for rank in range(processes):
        log = Path(f"{out}.{rank}.log").read_text()
        assert "TrainingError: epoch 1, iteration 1: loss nan" in log and "Traceback" not in log
    (found,) = (out / "checkpoints").iterdir()
    assert found.name == "nonfinite_epoch_00001_iter_0000001.pth"
    kept = torch.load(found, weights_only=True)
    assert kept["model_state"]["model.visual.proj"][0, 0].isnan()
    assert len(kept["processes"]) == processes and kept["nonfinite_gradients"]
    rows = [row for part in kept["processes"] for row in part["rows"]]
    assert len(rows) == len(set(rows)) == 4
    assert all(part["videos"][0] in log for part in kept["processes"])
    assert ckpt.load_last_checkpoint(out) is None




def test_a_damaged_checkpoint_is_neither_tested_nor_averaged(runs, whole, tmp_path):
    shutil.copytree(whole / "checkpoints", tmp_path / "run" / "checkpoints")
    path = ckpt.checkpoint_path(tmp_path / "run", 2)
    data = path.read_bytes()
    path.write_bytes(flip(data, len(data) // 2))
    with pytest.raises(CheckpointError, match="checkpoint_epoch_00002.pyth.* is damaged"):
        average_checkpoints(tmp_path / "run", start=1, end=3, output=tmp_path / "mean.pth")
    out = tmp_path / "test"
    assert runs.wait(runs.start(out, TRAIN__ENABLE=False, TEST__ENABLE=True,
                                TEST__CHECKPOINT_FILE_PATH=path)) == [2]
    assert "is damaged" in Path(f"{out}.0.log").read_text()
