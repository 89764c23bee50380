"""Small trees with the datasets' real file names, and their official files in the exact formats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

# Folder, number in classInd.txt and label; the last is called otherwise in its file names.
UCF_CLASSES = {
    "ApplyEyeMakeup": (1, 0), "Hammering": (35, 34), "HammerThrow": (36, 35),
    "HandstandPushups": (37, 36), "YoYo": (101, 100),
}
UCF_STEMS = {"HandstandPushups": "HandStandPushups"}
# Real names of HMDB-51, and one each of what else its names hold.
HMDB_FILES = {
    "brush_hair": [
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "Brushing_my_Hair_[_NEW_AUDIO_]_UPDATED!!!!_brush_hair_h_cm_np1_le_goo_0.avi",
        "brush my hair & (more), again; it's #2_brush_hair_u_cm_np2_le_goo_1.avi",
        "Haarebürsten_brush_hair_u_cm_np1_fr_med_3.avi",
    ],
    "climb": ["#122_Cleaning_Up_The_Beach_climb_f_cm_np1_ba_med_0.avi", "b_climb_0.avi"],
    "climb_stairs": ["A_Beautiful_Mind_1_climb_stairs_f_nm_np1_ri_med_4.avi"],
}


def touch(root: Path, names: Iterable[str]) -> Path:
    """Make empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read_rows(path: Path) -> list[tuple[str, int]]:
    """Read a list as (path, label)."""
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n") and "\r" not in text
    return [(video, int(label)) for video, _, label in
            (line.rpartition(",") for line in text.split("\n")[:-1])]


def read_map(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def ucf_video(folder: str, group: int, clip: int = 1) -> str:
    return f"{folder}/v_{UCF_STEMS.get(folder, folder)}_g{group:02d}_c{clip:02d}.avi"


def make_ucf(root: Path, classes: Iterable[str] = tuple(UCF_CLASSES)) -> tuple[Path, Path]:
    """Write a dataset of three groups; group N is the test set of split N. Return both folders."""
    official, videos = root / "ucfTrainTestlist", root / "UCF-101"
    official.mkdir(parents=True)
    classes = list(classes)
    touch(videos, (ucf_video(c, group) for c in classes for group in (1, 2, 3)))
    index = "".join(f"{UCF_CLASSES[c][0]} {c}\r\n" for c in UCF_CLASSES)
    (official / "classInd.txt").write_bytes(index.encode())
    for split in (1, 2, 3):
        test = [ucf_video(c, split) for c in classes]
        train = [f"{ucf_video(c, group)} {UCF_CLASSES[c][0]}"
                 for c in classes for group in (1, 2, 3) if group != split]
        (official / f"testlist0{split}.txt").write_bytes("\r\n".join([*test, ""]).encode())
        (official / f"trainlist0{split}.txt").write_bytes("\r\n".join([*train, ""]).encode())
    return videos, official


def make_hmdb(root: Path, encoding: str = "utf-8") -> tuple[Path, Path]:
    """Write three classes; the mark of video i in split N is (i + N) % 3. Return both folders."""
    official, videos = root / "testTrainMulti_7030_splits", root / "hmdb51"
    official.mkdir(parents=True)
    for folder, names in HMDB_FILES.items():
        touch(videos / folder, names)
        for split in (1, 2, 3):
            text = "".join(f"{name} {(i + split) % 3} \n" for i, name in enumerate(names))
            path = official / f"{folder}_test_split{split}.txt"
            path.write_bytes(text.encode(encoding))
    return videos, official
