from __future__ import annotations

import json

import numpy as np
import pytest

from openvclip.data.lists.labels import LabelSpace, check_videos_exist, read_list
from openvclip.utils.errors import DataError


def listed(tmp_path, text: str, **options):
    path = tmp_path / "train.csv"
    path.write_text(text, encoding="utf-8")
    return read_list(path, **{"num_classes": 5, **options})


def test_rows_are_split_at_the_last_separator(tmp_path):
    videos = listed(tmp_path, "a b/c d.mp4 3\nplain.mp4 0\n\n\n", prefix="/videos")
    assert videos.paths == ["/videos/a b/c d.mp4", "/videos/plain.mp4"]
    assert videos.labels.tolist() == [3, 0]
    assert videos.labels.dtype == np.int64
    videos = listed(tmp_path, "\ufeffone, two.mp4,4\r\nx.mp4, 1\r\n", separator=",")
    assert videos.paths == ["one, two.mp4", "x.mp4"]
    assert videos.labels.tolist() == [4, 1]


def test_duplicates_stay(tmp_path):
    assert len(listed(tmp_path, "a.mp4 1\na.mp4 1\n")) == 2


@pytest.mark.parametrize("separator", [" ", ","])
def test_several_labels(tmp_path, separator):
    text = f"a.mp4{separator}0;3\nb.mp4{separator}2\n"
    videos = listed(tmp_path, text, separator=separator, multi_label=True)
    assert videos.labels == [(0, 3), (2,)]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a.mp4 1\n\nb.mp4 1\n", 2, "the line is empty"),
        ("a.mp4 1\nb.mp4\n", 2, "no label in 'b.mp4'"),
        ("a.mp4,1\n", 1, "no label in 'a.mp4,1'; expected 'path label'"),
        ("a.mp4 1\nb c.mp4\n", 2, "the label 'c.mp4' is not an integer"),
        ("a.mp4 1.5\n", 1, "the label '1.5' is not an integer"),
        ("a.mp4 -1\n", 1, "the label -1 is outside the map of 5 classes"),
        ("a.mp4 4\nb.mp4 5\n", 2, "the label 5 is outside the map of 5 classes"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(tmp_path, text, line, reason):
    with pytest.raises(DataError) as error:
        listed(tmp_path, text)
    assert f"train.csv, line {line}: {reason}" in str(error.value)


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_empty_list(tmp_path, text):
    with pytest.raises(DataError, match="train.csv is empty"):
        listed(tmp_path, text)


def test_missing_list_names_what_is_there(tmp_path):
    (tmp_path / "test.csv").write_text("a.mp4 0")
    with pytest.raises(DataError, match=r"val.csv does not exist \(the folder has test.csv\)"):
        read_list(tmp_path / "val.csv", num_classes=1)
    with pytest.raises(DataError, match="that folder does not exist.*DATA.PATH_TO_DATA_DIR"):
        read_list(tmp_path / "no" / "val.csv", num_classes=1)


@pytest.mark.parametrize("path", ["/etc/a.mp4", "../a.mp4", "x/../../a.mp4"])
def test_rows_stay_below_a_prefix(tmp_path, path):
    with pytest.raises(DataError, match="line 1: the path .* leads out of DATA.PATH_PREFIX"):
        listed(tmp_path, f"{path} 0\n", prefix="/videos")
    assert listed(tmp_path, f"{path} 0\n").paths == [path]


def test_dots_inside_names_do_not_lead_out(tmp_path):
    text = "x/../a.mp4 0\n..a.mp4 0\nb..mp4 0\n"
    assert len(listed(tmp_path, text, prefix="/videos")) == 3


def test_a_quarter_of_a_million_rows(tmp_path):
    text = "".join(f"class name {i % 400}/video_{i:08d}.mp4 {i % 400}\n" for i in range(250_000))
    videos = listed(tmp_path, text, prefix="/videos", num_classes=400)
    assert len(videos) == 250_000
    assert videos.paths[401] == "/videos/class name 1/video_00000401.mp4"


def test_missing_videos_are_noticed(tmp_path):
    with pytest.raises(DataError, match="missing video folder: DATA.PATH_PREFIX .*nowhere"):
        check_videos_exist(["a"], prefix=str(tmp_path / "nowhere"))
    paths = [str(tmp_path / f"{i}.mp4") for i in range(20)]
    with pytest.raises(DataError, match="missing video folder: .*/0.mp4' of the list l.csv"):
        check_videos_exist(paths, prefix=str(tmp_path), source="l.csv")
    (tmp_path / "19.mp4").touch()
    check_videos_exist(paths, prefix=str(tmp_path))


def space(tmp_path, content: str) -> LabelSpace:
    path = tmp_path / "index2cls.json"
    path.write_text(content, encoding="utf-8")
    return LabelSpace.from_json(path)


def test_label_space(tmp_path):
    found = space(tmp_path, json.dumps({"1": "café", "0": "red circle"}))
    assert found.names == ("red circle", "café")
    assert len(found) == 2


def test_digest_depends_on_names_and_order():
    digests = {
        LabelSpace(names).digest() for names in [("a", "b"), ("b", "a"), ("ab",), ("a", "b", "c")]
    }
    assert len(digests) == 4
    assert LabelSpace(("a", "b")).digest() in digests


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ('["a", "b"]', "is not an object"),
        ("{}", "has no classes"),
        ('{"0": "a", "0": "b"}', "the index 0 appears twice"),
        ('{"0": "a", "00": "b"}', "the index 0 appears twice"),
        ('{"0": "a", "2": "b"}', "2 classes, but the index 1 is missing"),
        ('{"1": "a", "2": "b"}', "the index 0 is missing"),
        ('{"a": 0, "b": 1}', "the key 'a' is not an index"),
        ('{"-1": "a"}', "the key '-1' is not an index"),
        ('{"0": 7}', "class 0 has the name 7, not a text"),
        ('{"0": " "}', "class 0 has the name ' ', not a text"),
    ],
)
def test_label_maps_of_the_wrong_form(tmp_path, content, reason):
    with pytest.raises(DataError, match="index2cls.json") as error:
        space(tmp_path, content)
    assert reason in str(error.value)


def test_missing_label_map(tmp_path):
    with pytest.raises(DataError, match="cannot read the label map .*No such file"):
        LabelSpace.from_json(tmp_path / "index2cls.json")


def test_the_last_separator_counts_and_a_label_must_be_there(tmp_path):
    """Published code reads three columns as path, something unused and label; see the docs."""
    (tmp_path / "list.csv").write_text("a.mp4,300,1\n")
    found = read_list(tmp_path / "list.csv", separator=",", num_classes=3)
    assert found.paths == ["a.mp4,300"] and found.labels.tolist() == [1]
    (tmp_path / "list.csv").write_text("a.mp4\n")
    with pytest.raises(DataError, match="line 1: no label in 'a.mp4'"):
        read_list(tmp_path / "list.csv", separator=",", num_classes=3)
