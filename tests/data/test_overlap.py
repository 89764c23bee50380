"""Which tested videos were trained on, by hashed names."""

from __future__ import annotations

import numpy as np
import pytest

from openvclip.data.lists.overlap import find_shared, hash_videos, read_paths
from openvclip.utils.errors import DataError


def test_the_whole_path_or_the_path_below_a_folder_of_that_name_counts():
    known = hash_videos(["/data/ucf/a/1.avi", "/data/ucf/a/2.avi"], "/data/ucf")
    assert known.dtype == np.int64 and len(known) == 4 and (np.diff(known) > 0).all()
    # The same file, listed from elsewhere.
    assert find_shared(["/data/x.avi", "/data/ucf/a/2.avi"], known, "/data") == [1]
    assert find_shared(["/data/ucf/./a//2.avi", "/data/ucf/b/../a/1.avi"], known) == [0, 1]
    # The data set on another machine.
    assert find_shared(["/mnt/ucf/a/3.avi", "/mnt/ucf/a/1.avi"], known, "/mnt/ucf/") == [1]
    # Files of another folder that are called alike.
    assert find_shared(["/data/val/a/1.avi", "a/1.avi"], known, "/data/val") == []
    assert find_shared([], known) == [] and find_shared(["/data/ucf/a/1.avi"], known[:0]) == []


def test_relative_paths_are_those_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = hash_videos(["v/a.mp4"], "v")
    assert find_shared([f"{tmp_path}/v/a.mp4"], known) == [0]


def test_names_that_are_no_text_are_hashed_too():
    odd = "/v/\udcff.mp4"
    assert find_shared(["/v/é.mp4", odd], hash_videos([odd])) == [1]


def test_lists_are_read_as_far_as_they_can_be(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a, b.mp4,3\n\nc.mp4,x\n")
    assert read_paths(path, ",", "/d") == ["/d/a, b.mp4", "/d/c.mp4"]
    assert read_paths(tmp_path / "nowhere.csv", ",", "") is None
    with pytest.raises(DataError, match=r"train.csv with the separator ''"):
        read_paths(path, "", "")
