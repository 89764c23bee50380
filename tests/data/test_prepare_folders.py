"""Kinetics and other trees of class folders, and the subsets drawn from lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.prepare.folders import plan_folders
from openvclip.data.prepare.kinetics_lists import plan_kinetics400, plan_kinetics600
from openvclip.data.prepare.scan import scan_videos
from openvclip.data.prepare.subsets import draw_shots, plan_base_to_novel, plan_few_shot
from openvclip.data.prepare.writer import write_preparation
from openvclip.utils.errors import ConfigError, DataError
from tests.data.conftest_prepare import read_map, read_rows, touch

LISTS = "label_db/weng_compress_full_splits"
FOOTBALL = "passing_American_football_(in_game)"


def write_csv(path: Path, rows: list[str], header: str) -> Path:
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def test_kinetics400_by_class_folders(tmp_path):
    videos = touch(tmp_path / "k400", [
        "train/zumba/b.mp4", "train/zumba/a.MKV", "train/abseiling/0347ZoDXyP0.mp4",
        "train/Air Drumming/--x.mp4", "train/air_drumming.txt",
        f"val_256/{FOOTBALL}/x.mp4", "val_256/massaging_person's_head/y.mp4", "test/zumba/no.mp4",
    ])
    preparation = plan_kinetics400(videos, [], tmp_path)
    write_preparation(preparation)
    assert read_rows(tmp_path / LISTS / "train.csv") == [
        ("train/abseiling/0347ZoDXyP0.mp4", 0), ("train/Air Drumming/--x.mp4", 1),
        ("train/zumba/a.MKV", 399), ("train/zumba/b.mp4", 399),
    ]
    # Capital letters sort before small ones on disk, but labels go before names.
    expected = [("val_256/massaging_person's_head/y.mp4", 196), (f"val_256/{FOOTBALL}/x.mp4", 208)]
    assert read_rows(tmp_path / LISTS / "val.csv") == expected
    assert read_rows(tmp_path / LISTS / "test.csv") == expected
    assert not preparation.extra and not preparation.unplaced


def test_kinetics400_folders_of_no_class_are_named(tmp_path):
    videos = touch(tmp_path / "k400", [
        "val/abseiling/a.mp4", "val/abseilin/b.mp4", "val/abseilin/c.mp4", "val/loose.mp4"
    ])
    preparation = plan_kinetics400(videos, [], tmp_path / "root")
    assert preparation.unplaced == [
        "val/loose.mp4: not in a class folder",
        "val/abseilin: 2 videos of none of the 400 classes; the nearest is 'abseiling'",
    ]
    assert preparation.extra == ["val/abseilin/b.mp4", "val/abseilin/c.mp4", "val/loose.mp4"]
    assert [found.path.name for found in preparation.lists] == ["val.csv", "test.csv"]
    touch(videos, ["val/Abseiling/d.mp4"])
    with pytest.raises(DataError, match="'Abseiling' and 'abseiling' are both of the class"):
        plan_kinetics400(videos, [], tmp_path / "root")


def test_kinetics400_by_annotations_keeps_their_order(tmp_path):
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    train = write_csv(tmp_path / "a.csv", [
        "zumba,--c8enCfzqw,0,10,train,0",
        '"passing American football (in game)",-_,x1234567,7,17,train,0'.replace("_,x", "_x"),
        "abseiling,gone0000000,63,73,train,1",
        "abseiling,misplaced00,1,11,train,1",
        "zumba,testtest000,1,11,test,0",
    ], header)
    val = write_csv(tmp_path / "kinetics-400_val.csv",
                    ["zumba,AbCdEfGhIjK,1000,1010", "abseiling,plain000000,5,15"],
                    "label,youtube_id,time_start,time_end")
    videos = touch(tmp_path / "k400", [
        "train/zumba/--c8enCfzqw_000000_000010.mp4", "train/-_x1234567_000007_000017.mp4",
        "train/zumba/misplaced00_000001_000011.mp4",
        "train/abseiling/more0000000_000001_000011.mp4",
        "val/AbCdEfGhIjK_001000_001010.MP4", "val/abseiling/plain000000.webm",
    ])
    preparation = plan_kinetics400(videos, [train, val], tmp_path)
    write_preparation(preparation)
    assert read_rows(tmp_path / LISTS / "train.csv") == [
        ("train/zumba/--c8enCfzqw_000000_000010.mp4", 399),
        ("train/-_x1234567_000007_000017.mp4", 208),
    ]
    assert read_rows(tmp_path / LISTS / "test.csv") == [
        ("val/AbCdEfGhIjK_001000_001010.MP4", 399), ("val/abseiling/plain000000.webm", 0)
    ]
    assert preparation.missing == ["train/abseiling/gone0000000_000063_000073",
                                   "train/abseiling/misplaced00_000001_000011"]
    assert preparation.extra == ["train/abseiling/more0000000_000001_000011.mp4",
                                 "train/zumba/misplaced00_000001_000011.mp4"]
    assert preparation.unplaced == [
        "train/zumba/misplaced00_000001_000011.mp4: of 'abseiling' by the annotations"
    ]


@pytest.mark.parametrize(
    ("name", "header", "row", "reason"),
    [
        ("val.csv", "label,id", "a,b", "val.csv has no column youtube_id, time_start, time_end"),
        ("val.csv", "label,youtube_id,time_start,time_end", "zumba,x,a,b",
         "val.csv, line 2: the times 'a' and 'b' are not numbers"),
        ("val.csv", "label,youtube_id,time_start,time_end", "zumba,x", "line 2: only 2 columns"),
        ("list.csv", "label,youtube_id,time_start,time_end", "zumba,x,0,10",
         "line 2: neither the column 'split' nor the file's name"),
    ],
)
def test_kinetics_annotations_of_the_wrong_form(tmp_path, name, header, row, reason):
    videos = touch(tmp_path / "k", ["val/zumba/x.mp4"])
    path = write_csv(tmp_path / name, [row], header)
    with pytest.raises(DataError, match=reason):
        plan_kinetics400(videos, [path], tmp_path)


def test_which_folder_is_which_split(tmp_path):
    videos = touch(tmp_path / "k", ["val/zumba/x.mp4", "val_256/zumba/y.mp4"])
    with pytest.raises(DataError, match="the folders val and val_256; say by --val-folder"):
        plan_kinetics400(videos, [], tmp_path)
    write_preparation(plan_kinetics400(videos, [], tmp_path, val_folder="val_256"))
    assert read_rows(tmp_path / LISTS / "val.csv") == [("val_256/zumba/y.mp4", 399)]
    with pytest.raises(DataError, match="no folder 'other'; it has val, val_256"):
        plan_kinetics400(videos, [], tmp_path, val_folder="other")
    with pytest.raises(DataError, match="no folder val or .*it has zumba. Set --videos to the "):
        plan_kinetics600(videos / "val", [], tmp_path)


@pytest.mark.parametrize("by_csv", [False, True])
def test_kinetics600_three_draws_and_their_union(tmp_path, by_csv):
    clips = {
        "val/wood_burning_(art)/d4567890123_000004_000014.mp4": "wood burning (art)",
        "val/backflip_(human)/b2345678901_000002_000012.mp4": "backflip (human)",
        "val/acting in play/a1234567890_000001_000011.mp4": "acting in play",
        "val/adjusting_glasses/c3456789012_000003_000013.mp4": "adjusting glasses",
        "val/abseiling/e5678901234_000005_000015.mp4": "abseiling",
    }
    videos = touch(tmp_path / "k600", clips)
    annotations = []
    if by_csv:
        rows = [f"{name},{path.split('/')[2][:11]},{i},{i + 10},val"
                for i, (path, name) in zip((4, 2, 1, 3, 5), clips.items(), strict=True)]
        annotations = [write_csv(tmp_path / "val.csv", rows,
                                 "label,youtube_id,time_start,time_end,split")]
    preparation = plan_kinetics600(videos, annotations, tmp_path)
    write_preparation(preparation)
    ordered = list(clips) if by_csv else sorted(clips, key=clips.get)
    for protocol in ("k600_union", "k600_split1", "k600_split2", "k600_split3"):
        folder = tmp_path / "zs_label_db" / protocol
        names = list(read_map(folder / "k600-openset-index2cls.json").values())
        expected = [(p, names.index(clips[p])) for p in ordered if clips[p] in names]
        assert 2 <= len(expected) < 5
        assert read_rows(folder / "test.csv") == expected
    assert "1 videos of 1 other classes: left out" in preparation.notes
    assert not preparation.extra and not preparation.missing and not preparation.unplaced


def test_class_folders_become_sorted_names(tmp_path):
    videos = touch(tmp_path / "v", [
        "red_ball/x.mp4", "Blue ball/deep/er/y.AVI", "Blue ball/a, b.mp4", "ötzi/1.mp4", "top.mp4",
        "red_ball/line\nbreak.mp4", "empty/readme.txt",
    ])
    preparation = plan_folders(videos, "mine", tmp_path)
    write_preparation(preparation)
    lists = tmp_path / "zs_label_db"
    assert read_map(lists / "mine-index2cls.json") == {
        "0": "Blue ball", "1": "red ball", "2": "ötzi"
    }
    assert read_map(lists / "mine-cls2index.json")["ötzi"] == 2
    assert read_rows(lists / "mine/test.csv") == [
        ("Blue ball/a, b.mp4", 0), ("Blue ball/deep/er/y.AVI", 0), ("red_ball/x.mp4", 1),
        ("ötzi/1.mp4", 2),
    ]
    assert preparation.unplaced == [
        "top.mp4: not in a class folder",
        "'red_ball/line\\nbreak.mp4': a list cannot hold this name",
    ]
    assert preparation.extra == ["top.mp4"]


def test_trees_of_splits(tmp_path):
    videos = touch(tmp_path / "v", [
        "training/b/1.mp4", "training/a/2.mp4", "validation/a/3.mp4", "training/new/4.mp4"
    ])
    preparation = plan_folders(videos, "mine", tmp_path)
    assert {found.path.name: found.rows for found in preparation.lists} == {
        "train.csv": [("training/a/2.mp4", 0), ("training/b/1.mp4", 1), ("training/new/4.mp4", 2)],
        "val.csv": [("validation/a/3.mp4", 0)],
        "test.csv": [("validation/a/3.mp4", 0)],
    }
    touch(videos, ["other/a/5.mp4"])
    with pytest.raises(DataError, match="training, validation, like a tree of splits, and other"):
        plan_folders(videos, "mine", tmp_path)
    forced = plan_folders(videos, "mine", tmp_path, layout="splits")
    assert forced.unplaced == ["other: 1 videos outside of training, validation"]
    assert len(plan_folders(videos, "mine", tmp_path, layout="classes").lists[0].space) == 3
    with pytest.raises(ConfigError, match="--val-share is for a tree without splits"):
        plan_folders(videos, "mine", tmp_path, layout="splits", val_share=0.5)


def test_a_class_may_be_called_train(tmp_path):
    videos = touch(tmp_path / "v", ["train/1.mp4", "bus/2.mp4"])
    assert plan_folders(videos, "mine", tmp_path).lists[0].space.names == ("bus", "train")


def test_classes_of_a_given_map(tmp_path, repo):
    videos = touch(tmp_path / "v", ["Red_Ball/1.mp4", "green/2.mp4"])
    path = tmp_path / "map.json"
    path.write_text('{"0": "blue ball", "1": "red ball"}')
    preparation = plan_folders(videos, "mine", tmp_path, label_map=path)
    assert preparation.lists[0].rows == [("Red_Ball/1.mp4", 1)]
    assert preparation.unplaced == ["green: 1 videos of none of the 2 classes"]
    with pytest.raises(DataError, match="comes with the project and has different classes"):
        plan_folders(videos, "ucf101", tmp_path, label_map=path)
    path.write_text('{"0": "red ball", "1": "Red_ball"}')
    with pytest.raises(DataError, match="0 .'red ball'. and 1 .'Red_ball'. have the same name"):
        plan_folders(videos, "mine", tmp_path, label_map=path)


def test_a_share_of_each_class_for_validation(tmp_path):
    videos = touch(tmp_path / "v", [f"{c}/{i}.mp4" for c in "abc" for i in range(10)] + ["d/1.mp4"])

    def draw(seed: int) -> dict[str, list]:
        plan = plan_folders(videos, "mine", tmp_path, val_share=0.2, seed=seed)
        assert any("test.csv is the validation set" in note for note in plan.notes)
        return {found.path.name: found.rows for found in plan.lists}

    first = draw(1)
    everything = plan_folders(videos, "mine", tmp_path).lists[0].rows
    assert [label for _, label in first["val.csv"]] == [0, 0, 1, 1, 2, 2]
    assert sorted(first["train.csv"] + first["val.csv"]) == sorted(everything)
    assert first["test.csv"] == first["val.csv"] and not set(first["test.csv"]) & set(
        first["train.csv"])
    assert draw(1) == first and draw(2) != first


def test_draws_of_lists_that_share_videos_are_refused(tmp_path):
    source, label_map = make_source(tmp_path / "s", {0: 5, 1: 5, 2: 5})
    with open(source / "test.csv", "a") as file:
        file.write("./0/3, x.mp4,0\n")
    for plan in (plan_few_shot, plan_base_to_novel):
        with pytest.raises(DataError, match=r"1 of the 4 videos of .*test.csv are in its train.csv "
                                            r"too, the first ./0/3, x.mp4"):
            plan(source, label_map, tmp_path / "out", **(
                {"shots": [2]} if plan is plan_few_shot else {"shots": 2}))


def test_draws_of_a_validation_share_test_no_training_video(tmp_path):
    videos = touch(tmp_path / "v", [f"{c}/{i}.mp4" for c in "ab" for i in range(8)])
    write_preparation(plan_folders(videos, "mine", tmp_path, val_share=0.5))
    source, label_map = tmp_path / "zs_label_db/mine", tmp_path / "zs_label_db/mine-index2cls.json"
    write_preparation(plan_few_shot(source, label_map, tmp_path / "few", shots=[2]))
    write_preparation(plan_base_to_novel(source, label_map, tmp_path / "half", shots=2))
    for folder in (tmp_path / "few/shots_2", tmp_path / "half/base", source):
        trained, tested = ({path for path, _ in read_rows(folder / name)}
                           for name in ("train.csv", "test.csv"))
        assert trained and tested and not trained & tested


@pytest.mark.parametrize("options", [{"name": "a/b"}, {"name": ""}, {"val_share": 1.0}])
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(ConfigError, match="--name|--val-share"):
        plan_folders(tmp_path, **{"name": "mine", "root": tmp_path, **options})


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "real", ["a/1.mp4"])
    videos = touch(tmp_path / "v", ["b/2.mp4"])
    os.symlink(tmp_path / "real/a", videos / "a")
    os.symlink(videos, videos / "b" / "up")
    os.symlink(videos, tmp_path / "real" / "a" / "back")
    os.symlink(tmp_path / "nowhere", videos / "b" / "dead.mp4")
    os.symlink(tmp_path / "real/a/1.mp4", videos / "b" / "linked.mp4")
    found = scan_videos(videos).paths
    assert found == ["a/1.mp4", "a/back/b/2.mp4", "a/back/b/linked.mp4", "b/2.mp4", "b/linked.mp4"]


SPACE = LabelSpace(("a", "b", "c"))


def make_source(root: Path, counts: dict[int, int], classes: int = 3) -> tuple[Path, Path]:
    root.mkdir(exist_ok=True)
    rows = [(f"{label}/{i}, x.mp4", label) for i in range(30) for label, n in counts.items()
            if i < n]
    for name, kept in (("train", rows), ("test", [(f"t{n}.mp4", n) for n in range(classes)])):
        (root / f"{name}.csv").write_text("".join(f"{p},{n}\n" for p, n in kept))
    path = root / "my-index2cls.json"
    path.write_text("{" + ", ".join(f'"{i}": "{chr(97 + i)}"' for i in range(classes)) + "}")
    return root, path


def test_few_shot_draws_contain_each_other(tmp_path):
    source, label_map = make_source(tmp_path / "s", {0: 20, 1: 17, 2: 16})
    write_preparation(plan_few_shot(source, label_map, tmp_path / "out"))
    before: set = set()
    train = read_rows(source / "train.csv")
    for shots in (2, 4, 8, 16):
        folder = tmp_path / "out" / f"shots_{shots}"
        rows = read_rows(folder / "train.csv")
        assert [sum(label == n for _, label in rows) for n in range(3)] == [shots] * 3
        assert before < set(rows) and rows == [row for row in train if row in set(rows)]
        before = set(rows)
        test = (source / "test.csv").read_bytes()
        assert (folder / "test.csv").read_bytes() == (folder / "val.csv").read_bytes() == test
    other = plan_few_shot(source, label_map, tmp_path / "out", seed=2)
    assert set(other.lists[0].rows) != set(read_rows(tmp_path / "out/shots_2/train.csv"))


def test_few_shot_needs_enough_videos(tmp_path):
    source, label_map = make_source(tmp_path / "s", {0: 4, 2: 3})
    with pytest.raises(DataError, match=r"fewer than 4 training videos of 'c' \(3\); lower --shot"):
        plan_few_shot(source, label_map, tmp_path, shots=[2, 4])
    preparation = plan_few_shot(source, label_map, tmp_path, shots=[4], allow_fewer=True)
    assert len(preparation.lists[0].rows) == 7
    assert preparation.notes == ["1 classes have no training videos, the first 'b'"]
    with pytest.raises(ConfigError, match="--shots is 0"):
        plan_few_shot(source, label_map, tmp_path, shots=[0])


def test_a_class_is_drawn_alike_whatever_other_classes_there_are():
    rows = [(f"{label}{i}", label) for label in (0, 1) for i in range(9)]
    assert draw_shots(rows, SPACE, 3, 7)[3:] == draw_shots(rows[9:], SPACE, 3, 7)


def test_base_classes_are_the_most_frequent(tmp_path):
    source, label_map = make_source(tmp_path / "s", {0: 2, 1: 5, 2: 5, 3: 7, 4: 5}, classes=5)
    out = tmp_path / "out"
    write_preparation(plan_base_to_novel(source, label_map, out, shots=2))
    # 3 has most; of 1, 2 and 4 the smaller labels.
    assert read_map(out / "base/my-index2cls.json") == {"0": "b", "1": "c", "2": "d"}
    assert read_map(out / "novel/my-index2cls.json") == {"0": "a", "1": "e"}
    assert read_rows(out / "base/test.csv") == [("t1.mp4", 0), ("t2.mp4", 1), ("t3.mp4", 2)]
    assert read_rows(out / "base/val.csv") == read_rows(out / "base/test.csv")
    assert read_rows(out / "novel/test.csv") == [("t0.mp4", 0), ("t4.mp4", 1)]
    few = plan_few_shot(source, label_map, out, shots=[2]).lists[0].rows
    drawn = [(path, label - 1) for path, label in few if label in (1, 2, 3)]
    assert read_rows(out / "base/train.csv") == drawn
    assert not (out / "novel/train.csv").exists()
