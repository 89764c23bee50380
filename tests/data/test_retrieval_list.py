"""Lists of videos and captions: every form that they are distributed in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvclip.data.lists.retrieval import read_retrieval_list
from openvclip.utils.errors import DataError

# The first rows of MSR-VTT's 1k-A, in the forms that it is passed on in.
JSFUSION = """key,vid_key,video_id,sentence
ret0,msr9770,video9770,a person is connecting something to system
ret1,msr9771,video9771,"a little girl, aged six, does gymnastics"
"""
OWN = 'video,caption\nvideo9770.mp4,one\nsub/video9772.webm,"two, three"\nvideo9770.mp4,four\n'
RECORDS = [
    {"video": "video9770.mp4", "caption": "a person is connecting something to system",
     "duration": 10.8},
    {"video": "video9771.avi", "caption": "a little girl does gymnastics", "video_id": "video9771"},
]
SEVERAL = [{"video_id": "video9770", "caption": ["one", "two"]},
           {"video_id": "video9771", "caption": "three"}]
OFFICIAL = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": "video0", "split": "train", "category": 9, "start time": 1.0, "id": 0},
        {"video_id": "video9771", "split": "test", "category": 9, "id": 9771},
        {"video_id": "video9770", "split": "test", "category": 9, "id": 9770},
    ],
    "sentences": [
        {"caption": "two", "video_id": "video9770", "sen_id": 0},
        {"caption": "one", "video_id": "video9771", "sen_id": 1},
        {"caption": "left out", "video_id": "video0", "sen_id": 2},
        {"caption": "two", "video_id": "video9770", "sen_id": 3},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("video9770.mp4", "video9771.avi", "sub/video9772.webm", "00.01-00.02.mkv",
                 "video0.mp4", "both.webm", "both.avi"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture
def read(folder, tmp_path):
    """Write a list and read it; gives names of the videos, captions and owners."""
    def start(name: str, content, **options):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        found = read_retrieval_list(tmp_path / name, prefix=str(folder), **options)
        names = [str(Path(path).relative_to(folder)) for path in found.videos]
        return names, found.captions, found.owner.tolist(), found
    return start


@pytest.mark.parametrize(("name", "content", "videos", "captions", "owner"), [
    ("MSRVTT_JSFUSION_test.csv", JSFUSION, ["video9770.mp4", "video9771.avi"],
     ["a person is connecting something to system", "a little girl, aged six, does gymnastics"],
     [0, 1]),
    ("own.csv", OWN, ["video9770.mp4", "sub/video9772.webm"], ["one", "two, three", "four"],
     [0, 1, 0]),
    ("windows.csv", "\ufeff" + OWN.replace("\n", "\r\n"), ["video9770.mp4", "sub/video9772.webm"],
     ["one", "two, three", "four"], [0, 1, 0]),
    ("msrvtt_ret_test1k.json", RECORDS, ["video9770.mp4", "video9771.avi"],
     ["a person is connecting something to system", "a little girl does gymnastics"], [0, 1]),
    ("several.json", SEVERAL, ["video9770.mp4", "video9771.avi"], ["one", "two", "three"],
     [0, 0, 1]),
    ("pairs.jsonl", "\n".join(map(json.dumps, SEVERAL)) + "\n\n",
     ["video9770.mp4", "video9771.avi"], ["one", "two", "three"], [0, 0, 1]),
    ("clips.jsonl", '{"clip_name": "00.01-00.02", "caption": " dots "}', ["00.01-00.02.mkv"],
     ["dots"], [0]),
    ("object.json", {"both": "first ending", "video0.mp4": ["a", "b"]}, ["both.avi", "video0.mp4"],
     ["first ending", "a", "b"], [0, 1, 1]),
    ("MSRVTT_data.json", OFFICIAL, ["video9771.avi", "video9770.mp4"], ["one", "two", "two"],
     [0, 1, 1]),
])
def test_each_form_is_read(read, name, content, videos, captions, owner):
    assert read(name, content)[:3] == (videos, captions, owner)


def test_the_split_is_taken_where_videos_name_one(read):
    *_, found = read("a.json", OFFICIAL)
    assert found.split == "test"
    videos, captions, owner, found = read("a.json", OFFICIAL, split="")
    assert (len(videos), captions, found.split) == (3, ["left out", "one", "two", "two"], "")
    assert read("a.json", OFFICIAL, split="train")[0] == ["video0.mp4"]
    with pytest.raises(DataError, match=r"split 'val' \(TEST.RETRIEVAL_SPLIT\), only of test, tr"):
        read("a.json", OFFICIAL, split="val")
    bare = {**OFFICIAL, "videos": [{"video_id": v["video_id"]} for v in OFFICIAL["videos"]]}
    assert len(read("b.json", bare, split="val")[0]) == 3


def test_what_stands_there_twice_is_kept_and_counted(read):
    rows = [("video0", "a"), ("video0", "a"), ("video9770", "a"), ("video0", "b")]
    *_, found = read("a.json", [{"video": v, "caption": c} for v, c in rows])
    assert len(found.captions) == 4
    assert (found.count_repeated(), found.count_shared()) == (1, 1)


def test_the_digest_is_of_the_pairs_not_of_the_form(read):
    digests = {
        read("a.csv", "video,caption\nvideo0,x\nvideo9770,y\n")[3].digest(),
        read("b.json", {"video0.mp4": "x", "video9770": "y"})[3].digest(),
    }
    assert len(digests) == 1
    assert read("c.json", {"video0.mp4": "y", "video9770": "x"})[3].digest() not in digests


def official(**changes) -> dict:
    return {**OFFICIAL, **changes}


@pytest.mark.parametrize(("name", "content", "parts"), [
    ("a.txt", "x", ["a.txt ends in '.txt'", "expected a .csv"]),
    ("a.json", "{", ["a.json is not JSON"]),
    ("a.json", "3", ["neither a list nor an object"]),
    ("a.json", [], ["a.json is empty"]),
    ("a.json", ["x"], ["a.json, entry 1: 'x' is not an object"]),
    ("a.json", [{"video": "video0"}], ["entry 1: no caption", "caption or sentence", "only video"]),
    ("a.json", [{"caption": "x", "vid": 3}], ["entry 1: no video", "video_id or clip_name"]),
    ("a.json", [{"video": 9770, "caption": "x"}], ["entry 1: the video is 9770"]),
    ("a.json", [{"video": "video0", "caption": []}], ["'video0' has no caption"]),
    ("a.json", [{"video": "video0", "caption": ["a", " "]}], ["'video0' is ' ', not a text"]),
    ("a.json", {"video0": None}, ["entry 'video0'", "is None, not a text"]),
    ("a.json", [{"video": "video0", "caption": "\ud800"}], ["not a text"]),
    ("a.json", [{"video": "video0", "caption": "x"}, {"video": "none", "caption": "x"}],
     ["entry 2: the video 'none' is not in DATA.PATH_PREFIX", ".mp4, .avi, .webm, .mkv",
      "1 of the list's 2 videos"]),
    ("a.json", [{"video": "../x.mp4", "caption": "x"}], ["entry 1", "leads out of"]),
    ("a.json", {"video0": "x", "video0.mp4": "y"}, ["calls one video 'video0' and 'video0.mp4'"]),
    ("a.json", official(videos=3), ["'videos' is 3, not a list"]),
    ("a.json", {"sentences": []}, ["'videos' is None"]),
    ("a.json", official(videos=OFFICIAL["videos"] * 2), ["video 4: the video 'video0' appears"]),
    ("a.json", official(sentences=OFFICIAL["sentences"][1:3]), ["'video9770' has no sentence"]),
    ("a.json", official(sentences=[{"video_id": "x", "caption": "y"}]), ["sentence 1", "'x'"]),
    ("a.json", official(sentences=[{"video_id": "video9770", "caption": ""},
                                   *OFFICIAL["sentences"]]), ["sentence 1: a caption of", "''"]),
    ("a.csv", "", ["line 1: the header '' names no video"]),
    ("a.csv", "video9770.mp4,0\n", ["a.csv, line 1", "names no video or no caption"]),
    ("a.csv", "video,caption\nvideo0,a, b\n", ["line 2: more columns"]),
    ("a.csv", "video,caption\nvideo0,a\nvideo0\n", ["line 3: a caption", "None"]),
    ("a.csv", 'video,caption\nvideo0,"a\n', ["a.csv, after line 1: unexpected end"]),
    ("a.jsonl", '{"video": "video0", "caption": "x"}\n{', ["a.jsonl, line 2: not JSON"]),
])
def test_each_fault_is_named_in_one_line(read, name, content, parts):
    with pytest.raises(DataError) as caught:
        read(name, content)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_list_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the list .*; set TEST.RETRIEVAL_FILE"):
        read_retrieval_list(tmp_path / "none.json")
    (tmp_path / "a.json").write_text('{"v": "x"}')
    with pytest.raises(DataError, match="missing video folder: DATA.PATH_PREFIX '/no/such'"):
        read_retrieval_list(tmp_path / "a.json", prefix="/no/such")


def test_all_of_msrvtt_is_read(tmp_path):
    """10,000 videos and 200,000 sentences, each folder listed once."""
    for i in range(10000):
        (tmp_path / f"video{i}.mp4").touch()
    videos = [{"video_id": f"video{i}", "split": "test"} for i in range(10000)]
    sentences = [{"video_id": f"video{i % 10000}", "caption": f"text {i}"} for i in range(200000)]
    (tmp_path / "all.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    found = read_retrieval_list(tmp_path / "all.json", prefix=str(tmp_path))
    assert (len(found.videos), len(found.captions)) == (10000, 200000)
    assert found.owner[:3].tolist() == [0, 0, 0] and found.captions[1] == "text 10000"
