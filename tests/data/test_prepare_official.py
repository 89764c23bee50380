"""UCF-101, HMDB-51 and Something-Something V2 by their official files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from openvclip.data.lists.labels import read_list
from openvclip.data.lists.protocols import draw_halves
from openvclip.data.prepare.hmdb51 import plan_hmdb51
from openvclip.data.prepare.ssv2 import plan_ssv2
from openvclip.data.prepare.ucf101 import plan_ucf101
from openvclip.data.prepare.writer import write_preparation
from openvclip.utils.errors import DataError
from tests.data.conftest_prepare import (
    HMDB_FILES,
    UCF_CLASSES,
    make_hmdb,
    make_ucf,
    read_map,
    read_rows,
    touch,
    ucf_video,
)


def replace_in(path: Path, old: str, new: str) -> None:
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))


def prepare(plan, tmp_path: Path, folders: tuple[Path, Path]):
    preparation = plan(*folders, tmp_path / "root")
    write_preparation(preparation)
    return preparation, tmp_path / "root" / "zs_label_db"


def test_ucf101_full_is_testlist01_then_trainlist01(tmp_path):
    preparation, lists = prepare(plan_ucf101, tmp_path, make_ucf(tmp_path))
    groups = {split: [(ucf_video(c, g), label) for c, (_, label) in UCF_CLASSES.items()
                      for g in (1, 2, 3) if (g == split)] for split in (1, 2, 3)}
    rest = {split: [(ucf_video(c, g), label) for c, (_, label) in UCF_CLASSES.items()
                    for g in (1, 2, 3) if (g != split)] for split in (1, 2, 3)}
    assert read_rows(lists / "ucf101_full/test.csv") == groups[1] + rest[1]
    assert ("HandstandPushups/v_HandStandPushups_g01_c01.avi", 36) in groups[1]
    for split in (1, 2, 3):
        folder = lists / f"ucf101_split{split}"
        assert read_rows(folder / "test.csv") == read_rows(folder / "val.csv") == groups[split]
        assert read_rows(folder / "train.csv") == rest[split]
    assert not preparation.missing and not preparation.extra and not preparation.unplaced


def test_ucf101_halves_are_renumbered_in_the_original_order(tmp_path, repo):
    _, lists = prepare(plan_ucf101, tmp_path, make_ucf(tmp_path))
    names = list(read_map(repo / "zs_label_db/ucf101-index2cls.json").values())
    full = read_rows(lists / "ucf101_full/test.csv")
    for draw, labels in enumerate(draw_halves(101, 50)):
        folder = lists / f"ucf101_half_test/{draw}"
        expected = [(video, labels.index(label)) for video, label in full if label in labels]
        assert expected and read_rows(folder / "test.csv") == expected
        classes = read_map(folder / "ucf101-index2cls.json")
        assert list(classes.values()) == [names[label] for label in labels]
        assert read_map(folder / "ucf101-cls2index.json") == {
            name: int(index) for index, name in classes.items()
        }
    assert read_map(lists / "ucf101-cls2index.json")["Hammer Throw"] == 35
    assert (lists / "ucf101-index2cls.json").read_bytes() == (
        repo / "zs_label_db/ucf101-index2cls.json"
    ).read_bytes()


def test_ucf101_by_a_subset_and_other_spellings(tmp_path):
    videos, official = make_ucf(tmp_path, ["ApplyEyeMakeup", "YoYo"])
    (official / "classInd.txt").rename(official / "classInd01.txt")
    (videos / "YoYo/v_YoYo_g01_c01.avi").rename(videos / "YoYo/v_yoyo_g01_c01.AVI")
    (videos / "ApplyEyeMakeup").rename(videos / "applyeyemakeup")
    preparation, lists = prepare(plan_ucf101, tmp_path, (videos, official))
    assert read_rows(lists / "ucf101_split1/test.csv") == [
        ("applyeyemakeup/v_ApplyEyeMakeup_g01_c01.avi", 0), ("YoYo/v_yoyo_g01_c01.AVI", 100)
    ]
    assert not preparation.missing and not preparation.extra
    assert any("4 files are spelt differently on disk" in note for note in preparation.notes)
    # No half without a video gets a list that nothing could read.
    for draw, labels in enumerate(draw_halves(101, 50)):
        path = lists / f"ucf101_half_test/{draw}/test.csv"
        assert path.exists() is bool({0, 100} & set(labels))
        assert path.with_name("ucf101-index2cls.json").exists()


def test_mismatches_of_split_file_and_folder_are_named(tmp_path):
    videos, official = make_ucf(tmp_path)
    gone = ucf_video("Hammering", 2)
    (videos / gone).rename(videos / "HammerThrow/v_Hammering_g02_c01.avi")
    touch(videos, ["Diving/v_Diving_g01_c01.avi", "._x.avi", "notes.txt", ".cache/x.avi"])
    preparation, lists = prepare(plan_ucf101, tmp_path, (videos, official))
    assert preparation.missing == [gone]
    assert preparation.extra == [
        "Diving/v_Diving_g01_c01.avi", "HammerThrow/v_Hammering_g02_c01.avi"
    ]
    assert (lists / "ucf101_full/missing_files.txt").read_text() == gone + "\n"
    assert (lists / "ucf101_full/extra_files.txt").read_text().splitlines() == preparation.extra
    assert gone not in dict(read_rows(lists / "ucf101_full/test.csv"))
    # Once all is in place, so are the reports.
    (videos / "HammerThrow/v_Hammering_g02_c01.avi").rename(videos / gone)
    (videos / "Diving/v_Diving_g01_c01.avi").unlink()
    write_preparation(plan_ucf101(videos, official, tmp_path / "root"), overwrite=True)
    assert not list((lists / "ucf101_full").glob("*.txt"))


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("trainlist02.txt", "g01_c01.avi 35", "g01_c01.avi 36",
         "trainlist02.txt, line 3: the class Hammering has the number 36, but 35 in .*classInd"),
        ("testlist01.txt", "YoYo/", "Juggle/", "line 5: 'Juggle' is not one of the 101 classes"),
        ("testlist01.txt", "Hammering/", "Zumba/", "line 2: 'Zumba' is not one of the 101 classes"),
        ("testlist01.txt", "HammerThrow/v_HammerThrow", "ApplyEyeMakeup/v_ApplyEyeMakeup",
         "line 3: 'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi' appears twice"),
        ("testlist01.txt", "Hammering/v", "WritingOnBoard/v",
         "'Hammer Throw' .label 35. first appears after 'Writing On Board' .label 99."),
        ("testlist03.txt", "YoYo/", "YoYo_", "line 5: 'YoYo_v.* is not 'Class/file.avi'"),
        ("classInd.txt", "35 ", "x ", "classInd.txt, line 2: 'x Hammering' is not 'number Class"),
    ],
)
def test_ucf101_files_that_contradict_are_errors(tmp_path, file, old, new, reason):
    videos, official = make_ucf(tmp_path)
    replace_in(official / file, old, new)
    with pytest.raises(DataError, match=reason):
        plan_ucf101(videos, official, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_ucf101_files_and_folders_that_are_not_there(tmp_path):
    videos, official = make_ucf(tmp_path)
    with pytest.raises(DataError, match="no video of UCF-101 was found: .*UCF-101/Apply.*--videos"):
        plan_ucf101(tmp_path, official, tmp_path / "root")
    with pytest.raises(DataError, match="annotations .*nowhere: No such file.*--annotations"):
        plan_ucf101(videos, tmp_path / "nowhere", tmp_path / "root")
    for name in ("testlist02.txt", "trainlist02.txt"):
        (official / name).unlink()
    preparation = plan_ucf101(videos, official, tmp_path / "root")
    assert any("no split 2" in note for note in preparation.notes)
    (official / "testlist03.txt").unlink()
    with pytest.raises(DataError, match="has no testlist03.txt"):
        plan_ucf101(videos, official, tmp_path / "root")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_hmdb51_marks_order_and_names(tmp_path, encoding, form):
    videos, official = make_hmdb(tmp_path, encoding)
    for path in sorted(videos.rglob("*.avi")):
        path.rename(path.with_name(unicodedata.normalize(form, path.name)))
    preparation, lists = prepare(plan_hmdb51, tmp_path, (videos, official))
    labels = {"brush_hair": 0, "climb": 5, "climb_stairs": 6}

    def marked(split: int, *marks: int) -> list[tuple[str, int]]:
        return [
            (unicodedata.normalize(form, f"{folder}/{name}"), labels[folder])
            for folder, names in HMDB_FILES.items() for i, name in enumerate(names)
            if (i + split) % 3 in marks
        ]

    full = marked(1, 1, 2)
    assert read_rows(lists / "hmdb_full/test.csv") == full
    rest = [row for split in (2, 3) for row in marked(split, 2) if row not in full]
    assert rest and read_rows(lists / "hmdb_union/test.csv") == full + rest
    for split in (1, 2, 3):
        folder = lists / f"hmdb_split{split}"
        assert read_rows(folder / "train.csv") == marked(split, 1)
        expected = marked(split, 2)
        assert read_rows(folder / "test.csv") == read_rows(folder / "val.csv") == expected
    assert not preparation.missing and not preparation.extra and not preparation.unplaced
    loaded = read_list(lists / "hmdb_full/test.csv", separator=",", num_classes=51,
                       prefix=str(videos))
    assert all(Path(path).is_file() for path in loaded.paths)
    halves = [read_map(lists / f"hmdb_half_test/{i}/hmdb-index2cls.json") for i in range(10)]
    assert [len(half) for half in halves] == [25] * 10


def test_hmdb51_unused_videos_are_told_apart_from_unknown_ones(tmp_path):
    videos, official = make_hmdb(tmp_path)
    for split in (1, 2, 3):
        path = official / f"climb_test_split{split}.txt"
        path.write_text("b_climb_0.avi 0 \n#122_Cleaning_Up_The_Beach_climb_f_cm_np1_ba_med_0"
                        ".avi 1 \n")
    touch(videos, ["climb/c_climb_0.avi"])
    preparation = plan_hmdb51(videos, official, tmp_path / "root")
    assert preparation.extra == ["climb/c_climb_0.avi"]
    assert "1 videos on disk that no official split uses: left out" in preparation.notes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: (d / "climb_test_split1.txt").write_text("a.avi 3 \n"),
         "climb_test_split1.txt, line 1: 'a.avi 3' is not 'name.avi mark'"),
        (lambda d: (d / "climb_test_split2.txt").write_text("a.avi 1\n\na.avi 1\n"),
         "climb_test_split2.txt, line 3: 'a.avi' appears twice"),
        (lambda d: (d / "climb_test_split2.txt").unlink(), "'climb' in only one of the splits 1"),
        (lambda d: (d / "fly_test_split1.txt").touch(), "'fly' is not one of the 51 classes"),
        (lambda d: [p.unlink() for p in d.glob("*split1.txt")], "no files such as brush_hair"),
    ],
)
def test_hmdb51_files_of_the_wrong_form(tmp_path, change, reason):
    videos, official = make_hmdb(tmp_path)
    change(official)
    with pytest.raises(DataError, match=reason):
        plan_hmdb51(videos, official, tmp_path / "root")


def make_ssv2(root: Path, repo: Path, prefix: str = "") -> tuple[Path, Path]:
    official, videos = root / "labels", root / "20bn-something-something-v2"
    official.mkdir(parents=True)
    names = list(read_map(repo / "zs_label_db/ssv2-index2cls.json").values())
    (official / f"{prefix}labels.json").write_text(json.dumps(
        {name: str(label) for label, name in enumerate(names)}
    ))

    def entry(number: int, template: str) -> dict:
        return {"id": str(number), "label": "holding potato next to vicks vaporub bottle",
                "template": template, "placeholders": ["potato", "vicks vaporub bottle"]}

    train = [entry(78687, "Bending [something] until it breaks"),
             entry(42326, "Approaching [something] with your camera")]
    val = [entry(74225, "Pretending to pour [something] out of [something], but [something] "
                        "is empty"),
           entry(9, "Putting [something], [something] and [something] on the table")]
    for name, entries in (("train", train), ("validation", val), ("test", [{"id": "5"}])):
        (official / f"{prefix}{name}.json").write_text(json.dumps(entries))
    touch(videos, ["78687.webm", "42326.webm", "74225.MP4", "9.mp4", "9.webm", "5.webm"])
    return videos, official


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2_labels_by_template(tmp_path, repo, prefix):
    folders = make_ssv2(tmp_path, repo, prefix)
    preparation, lists = prepare(plan_ssv2, tmp_path, folders)
    names = list(read_map(repo / "zs_label_db/ssv2-index2cls.json").values())
    assert read_rows(lists / "ssv2/train.csv") == [("78687.webm", 3), ("42326.webm", 0)]
    empty = names.index("Pretending to pour something out of something, but something is empty")
    table = names.index("Putting something, something and something on the table")
    expected = [("74225.MP4", empty), ("9.webm", table)]
    assert read_rows(lists / "ssv2/val.csv") == read_rows(lists / "ssv2/test.csv") == expected
    # The second file of a video and nothing else; test videos have no labels.
    assert preparation.extra == ["9.mp4"]
    assert any(note.startswith("1 videos of") for note in preparation.notes)


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("labels.json", '"Burying', '"Hiding', "label 4 is 'Hiding something in something', but "
                                               "'Burying something in something'"),
        ("labels.json", '"3"', '"3.5"', "labels.json is not"),
        ("labels.json", '"173"', '"174"', "label 173 is 'Wiping something off of something'"),
        ("train.json", "Bending [", "Breaking [",
         "video 78687: the template 'Breaking .something. until it breaks' is not one of the 174"),
        ("train.json", "42326", "78687", "the video 78687 appears twice"),
        ("train.json", '"template"', '"sentence"', "entry 0: no 'id' with a 'template'"),
        ("train.json", "[{", "{", "train.json is not JSON"),
    ],
)
def test_ssv2_files_that_contradict_are_errors(tmp_path, repo, file, old, new, reason):
    folders = make_ssv2(tmp_path, repo)
    replace_in(folders[1] / file, old, new)
    with pytest.raises(DataError, match=reason):
        plan_ssv2(*folders, tmp_path / "root")


def test_ssv2_missing_videos(tmp_path, repo):
    videos, official = make_ssv2(tmp_path, repo)
    (videos / "42326.webm").unlink()
    preparation = plan_ssv2(videos, official, tmp_path / "root")
    assert preparation.missing == ["42326.webm"]
