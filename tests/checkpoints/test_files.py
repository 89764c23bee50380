"""Checkpoints: atomic, checked, never unpickled."""

from __future__ import annotations

import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from openvclip.checkpoints import files as ckpt
from openvclip.utils.errors import CheckpointError


def test_round_trip_and_names(tmp_path):
    path = ckpt.checkpoint_path(tmp_path, 3)
    assert path.name == "checkpoint_epoch_00003.pyth"
    ckpt.save_file(path, {"epoch": 2, "model_state": {"w": torch.arange(3)}})
    assert ckpt.list_checkpoints(path.parent) == {3: path}
    content = ckpt.load_file(path)
    assert content["epoch"] == 2
    assert content["model_state"]["w"].tolist() == [0, 1, 2]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.pyth"
    ckpt.save_file(path, {"w": torch.zeros(2)})

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        ckpt.save_file(path, {"w": torch.ones(2)})
    assert os.listdir(tmp_path) == ["a.pyth"]
    assert ckpt.load_file(path)["w"].tolist() == [0, 0]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["OPENVCLIP_TEST_BOMB"],))


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "garbage", "pickle", "list"])
def test_unusable_files_are_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("OPENVCLIP_TEST_BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "bad.pyth"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        torch.save({"w": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "garbage":
        path.write_bytes(b"\x93NUMPY" * 99)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"w": Bomb()}))
    elif kind == "list":
        torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="bad.pyth"):
        ckpt.load_file(path)
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    for number in (1, 2):
        ckpt.save_file(ckpt.checkpoint_path(tmp_path, number), {"epoch": number - 1})
    last = ckpt.checkpoint_path(tmp_path, 2)
    last.write_bytes(last.read_bytes()[:100])
    path, content = ckpt.load_last_checkpoint(tmp_path)
    assert content["epoch"] == 0
    assert path == ckpt.checkpoint_path(tmp_path, 1)
    assert "checkpoint_epoch_00002.pyth" in caplog.text
    assert ckpt.load_last_checkpoint(tmp_path / "nowhere") is None


def test_random_state_comes_back_through_a_file(tmp_path):
    ckpt.save_file(tmp_path / "s.pyth", ckpt.get_random_state())
    first = (random.random(), np.random.rand(), torch.rand(2).tolist())
    ckpt.set_random_state(ckpt.load_file(tmp_path / "s.pyth"))
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == first


def test_a_checksum_is_carried_and_files_without_one_are_read(tmp_path):
    ours, foreign, old = (tmp_path / f"{name}.pyth" for name in ("ours", "foreign", "old"))
    content = {"model_state": {"w": torch.arange(3)}}
    ckpt.save_file(ours, content)
    torch.save(content, foreign)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    assert [ckpt.verify_file(p) for p in (ours, foreign, old)] == [True, False, False]
    for path in (ours, foreign, old):
        for content in (torch.load(path, weights_only=True), ckpt.load_file(path)):
            assert content["model_state"]["w"].tolist() == [0, 1, 2]
    with zipfile.ZipFile(ours) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("keep, kept", [
    (ckpt.Keep(), [1, 2, 3, 4, 5, 6, 9]),
    (ckpt.Keep(last=1), [6, 9]),
    (ckpt.Keep(last=2, every=2), [2, 4, 5, 6, 9]),
    (ckpt.Keep(last=1, first=2, end=4), [2, 3, 4, 6, 9]),
    (ckpt.Keep(last=7), [1, 2, 3, 4, 5, 6, 9]),
])
def test_what_is_deleted_is_neither_recent_nor_averaged_nor_newer(tmp_path, keep, kept):
    for number in (1, 2, 3, 4, 5, 6, 9):  # 9 was left by an earlier run
        ckpt.save_file(ckpt.checkpoint_path(tmp_path, number), {"epoch": number - 1})
    ckpt.remove_outdated(tmp_path, (6, 0), keep)
    assert list(ckpt.list_checkpoints(tmp_path / "checkpoints")) == kept


def test_states_inside_epochs_go_once_a_newer_one_is_there(tmp_path):
    for number, iteration in ((3, 5), (3, 9), (4, 2)):
        ckpt.save_file(ckpt.partial_path(tmp_path, number, iteration),
                       {"epoch": number - 2, "iteration": iteration})
    ckpt.save_file(ckpt.checkpoint_path(tmp_path, 2), {"epoch": 1})
    folder = tmp_path / "checkpoints"
    ckpt.remove_outdated(tmp_path, (2, 9), ckpt.Keep(last=1))
    assert list(ckpt.list_partials(folder)) == [(2, 9), (3, 2)]
    ckpt.remove_outdated(tmp_path, (3, 0), ckpt.Keep())
    assert list(ckpt.list_partials(folder)) == [(3, 2)]
    assert list(ckpt.list_checkpoints(folder)) == [2]


def test_unfinished_files_of_killed_runs_are_removed_and_others_are_not(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".checkpoint_epoch_00001.pyth.123.tmp", ".mine.tmp", "notes.tmp",
                 ".partial_epoch_00001_iter_0000002.pyth.9.tmp"):
        (folder / name).write_text("x")
    ckpt.remove_leftovers(tmp_path)
    assert sorted(os.listdir(folder)) == [".mine.tmp", "notes.tmp"]
