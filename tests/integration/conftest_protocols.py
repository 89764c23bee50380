"""Two classes of every dataset, with real videos under the datasets' own names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest_integration import COLOURS, write_clip

UCF = ("ApplyEyeMakeup", "YoYo")
HMDB = ("brush_hair", "wave")
K400 = ("abseiling", "zumba")


def k600_classes(repo: Path) -> list[str]:
    """Two classes that all three splits have."""
    splits = [
        set(json.loads((repo / f"zs_label_db/k600_split{n}/k600-openset-index2cls.json")
                       .read_text("utf-8")).values())
        for n in (1, 2, 3)
    ]
    return sorted(set.intersection(*splits))[:2]


class Videos:
    """Copies a few clips to wherever a dataset wants a video."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for suffix, codec in ((".mp4", "libx264"), (".avi", "mpeg4")):
            for place, colour in enumerate(COLOURS):
                write_clip(folder / f"{place}{suffix}", colour, place, frames=12, codec=codec)
        self.count = 0

    def put(self, path: Path) -> None:
        self.count += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower()
        shutil.copy(self.folder / f"{self.count % len(COLOURS)}{suffix}", path)


def make_ucf(videos: Videos, root: Path) -> None:
    """Three groups of each class; group N is the test set of split N."""
    official = root / "ucfTrainTestlist"
    official.mkdir(parents=True)
    names = {g: [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in UCF] for g in (1, 2, 3)}
    for group in names.values():
        for name in group:
            videos.put(root / "UCF-101" / name)
    numbers = {"ApplyEyeMakeup": 1, "YoYo": 101}
    (official / "classInd.txt").write_text("".join(f"{n} {c}\n" for c, n in numbers.items()))
    for split in (1, 2, 3):
        (official / f"testlist0{split}.txt").write_text("\n".join(names[split]) + "\n")
        rows = [f"{name} {numbers[name.split('/')[0]]}" for g, group in names.items() if g != split
                for name in group]
        (official / f"trainlist0{split}.txt").write_text("\n".join(rows) + "\n")


def make_hmdb(videos: Videos, root: Path) -> None:
    """Three videos of each class, of which video N is the test set of split N, and a fourth.

    As of the real files, split 1 leaves some out that the others test.
    """
    official = root / "testTrainMulti_7030_splits"
    official.mkdir(parents=True)
    for name in HMDB:
        files = [f"My Video! [#{n}] & more_{name}_u_cm_np1_fr_med_{n}.avi" for n in (1, 2, 3, 4)]
        for file in files:
            videos.put(root / "hmdb51" / name / file)
        for split in (1, 2, 3):
            marks = {split: 2, 4: {1: 0, 2: 2, 3: 1}[split]}
            rows = [f"{file} {marks.get(n, 1)} \n" for n, file in enumerate(files, 1)]
            (official / f"{name}_test_split{split}.txt").write_text("".join(rows))


def make_kinetics(videos: Videos, root: Path, repo: Path) -> None:
    for name in K400:
        for number in range(4):
            videos.put(root / "k400" / "train" / name / f"{name[:4]}_{number}.mp4")
        for number in range(2):
            videos.put(root / "k400" / "val" / name / f"{name[:4]}-{number}.mp4")
    for name in k600_classes(repo):
        for number in range(2):
            file = f"-{name[:3]}{number}_000001_000011.mp4"
            videos.put(root / "k600" / "val" / name.replace(" ", "_") / file)


def make_datasets(root: Path, repo: Path) -> None:
    """Make UCF-101, HMDB-51, Kinetics-400 and Kinetics-600, small, below ``root``."""
    videos = Videos(root / "clips")
    make_ucf(videos, root)
    make_hmdb(videos, root)
    make_kinetics(videos, root, repo)
