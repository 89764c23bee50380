"""A small world in which the documentation's commands run: its folders, videos and weights."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

from conftest_captioners import write_tiny_models
from conftest_integration import write_tiny_clip
from conftest_protocols import Videos, make_datasets
from docs_commands import find_pages
from served_python import start_server

from openvclip.utils.torchvision_ops import import_torchvision

COPIED = ("tools", "script", "configs", "openvclip", "label_db", "zs_label_db")
ARCHIVES = ("ViT-B-32.pt", "ViT-B-16.pt", "ViT-L-14.pt", "ViT-L-14-336px.pt")
EPOCHS = 22
# A python that shows what it would have been given; of ``-c`` only the number of classes matters.
RECORDER = """#!/bin/bash
case "$1 ${2:-}" in -c*json*) echo 7 ;; -c*) ;; *) printf '%s\\n' "$@"; echo; esac
"""


class World:
    """A copy of the clone, /data, a home folder and what earlier commands would have left.

    Args:
        root: an empty folder.
        repo: the clone; nothing is written into it.
    """

    def __init__(self, root: Path, repo: Path) -> None:
        self.root, self.clone = root, root / "clone"
        copy_clone(repo, self.clone)
        make_datasets(root / "data", repo)
        make_other_datasets(root / "data", repo)
        add_novel_class(root / "data")
        make_msrvtt(root / "data/msrvtt")
        write_captioners(root / "models")
        (root / "record").mkdir()
        for name in ("python", "python3"):
            (root / "record" / name).write_text(RECORDER)
            (root / "record" / name).chmod(0o755)
        self.server = start_server(self.clone, root)
        self.done: set[str] = set()
        self.make_weights()
        self.make_quickstart()

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()

    def run(
        self, text: str, *, record: bool = False, **env: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of bash in the copy of the clone; ``record`` replaces python by RECORDER."""
        bin_folder = self.root / ("record" if record else "bin")
        settings = {
            "HOME": self.root / "home", "PATH": f"{bin_folder}:/usr/bin:/bin", "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": 1, "MPLBACKEND": "Agg", "NUM_GPUS": 0, "SKIP_INSTALL": 1, **env,
        }
        return subprocess.run(
            ["bash", "-c", text], cwd=self.clone, capture_output=True, text=True, timeout=120,
            env={name: str(value) for name, value in settings.items()}, stdin=subprocess.DEVNULL,
        )

    def need(self, text: str) -> None:
        """Run what the world itself is made by."""
        finished = self.run(text)
        assert finished.returncode == 0, f"{text}\n{finished.stdout}{finished.stderr}"

    def make_weights(self) -> None:
        """CLIP's archives, a training's checkpoints, averages: all of the same tiny model."""
        from openvclip.checkpoints import files as ckpt
        from openvclip.checkpoints.loading import load_original_clip

        archives = self.root / "home/.cache/clip"
        archives.mkdir(parents=True)
        write_tiny_clip(archives / ARCHIVES[0])
        for name in ARCHIVES[1:]:
            os.symlink(ARCHIVES[0], archives / name)
        run = self.clone / "output/b16"
        state = {name: tensor * 1.01 if ".visual." in name else tensor
                 for name, tensor in load_original_clip(archives / ARCHIVES[0]).items()}
        first = ckpt.save_file(ckpt.checkpoint_path(run, 1), {"model_state": state})
        for number in range(2, EPOCHS + 1):
            os.symlink(first.name, ckpt.checkpoint_path(run, number))
        zoo = [self.clone / f"zoo/openvclip-{backbone}" for backbone in ("b32", "b16", "l14")]
        for folder in (run, *zoo):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, folder / f"swa_2_{EPOCHS}.pth")
        ckpt.save_file(run / "checkpoints/nonfinite_epoch_00004_iter_0000121.pth", {
            "model_state": {}, "processes": [], "nonfinite_gradients": []})

    def make_captions(self) -> None:
        """Captions of the lists' training videos, in the authors' form and prepared."""
        import torch

        folder, lists = "blip_llama2_caption", "label_db/weng_compress_full_splits/train.csv"
        paths = [row.rpartition(",")[0]
                 for row in (self.clone / lists).read_text("utf-8").splitlines()]
        published = f"{folder}/refine_llama2_videocaption_noprioract.pt"
        torch.save({path: f"a coloured square moves in {path}" for path in paths},
                   self.clone / published)
        self.need(f"python tools/prepare_captions.py --captions {published} "
                  f"--output {folder}/k400.sqlite")

    def make_quickstart(self) -> None:
        """What script/quickstart.sh leaves, from a few steps of each of its stages."""
        out, data = "runs/quickstart", "runs/quickstart/data"
        self.need(f"python tools/make_demo.py data --output {data} --scale 0.001 --seed 2")
        self.need(f"python tools/make_demo.py clip --output {out}/clip.pt --steps 1 "
                  "--batch-size 2 --seed 2")
        common = (f"MODEL.CLIP_PATH {out}/clip.pt MODEL.TEXT_CACHE_DIR {out}/text_cache "
                  f"DATA.PATH_PREFIX {data}/videos DATA_LOADER.NUM_WORKERS 0")
        self.need(f"python tools/run_net.py --cfg configs/Synthetic/interpolated.yaml --opts "
                  f"{common} DATA.PATH_TO_DATA_DIR {data}/trained SOLVER.MAX_EPOCH 1 "
                  f"DATA.INDEX_LABEL_MAPPING_FILE {data}/trained-index2cls.json "
                  f"OUTPUT_DIR {out}/interpolated")
        folder = self.clone / out / "interpolated"
        for number in range(2, 9):
            os.symlink("checkpoint_epoch_00001.pyth",
                       folder / f"checkpoints/checkpoint_epoch_{number:05d}.pyth")
        self.need(f"python tools/weight_average.py --source {out}/interpolated --start 5 --end 8 "
                  f"--output {out}/interpolated/swa_5_8.pth")
        self.need(f"python tools/run_net.py --cfg configs/Synthetic/test.yaml --opts {common} "
                  f"DATA.PATH_TO_DATA_DIR {data}/unseen MODEL.NUM_CLASSES 144 "
                  f"DATA.INDEX_LABEL_MAPPING_FILE {data}/unseen-index2cls.json "
                  f"TEST.CUSTOM_LOAD True TEST.CUSTOM_LOAD_FILE {out}/interpolated/swa_5_8.pth "
                  "TEST.PATCHING_RATIOS [0.0,0.7,1.0] "
                  f"OUTPUT_DIR {out}/test/interpolated_swa/unseen")
        shutil.copytree(folder, self.clone / out / "plain", symlinks=True)
        tests = [f"{run}_swa/{name}" for run in ("interpolated", "plain")
                 for name in ("trained", "unseen", "knew")]
        for other in tests:
            if other != "interpolated_swa/unseen":
                shutil.copytree(self.clone / out / "test/interpolated_swa/unseen",
                                self.clone / out / "test" / other)
        clips = self.clone / data / "videos/unseen"
        shutil.copyfile(next(clips.glob("*.mp4")), clips / "00255.mp4")


def copy_clone(repo: Path, clone: Path) -> None:
    """Copy what comes with the project, without lists that somebody made."""
    for name in COPIED:
        maps_only = shutil.ignore_patterns("*.csv", "*.pth", "__pycache__")
        shutil.copytree(repo / name, clone / name, ignore=maps_only)
    for name in ("setup.py", "pyproject.toml", "constraints.txt", *find_pages(repo)):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repo / name, clone / name)


def make_msrvtt(root: Path) -> None:
    """Three videos and their captions in the form of MSR-VTT's test list 1k-A."""
    videos = Videos(root / "clips")
    rows = ["key,vid_key,video_id,sentence"]
    for number in range(3):
        videos.put(root / f"videos/video{number}.mp4")
        rows.append(f"ret{number},msr{number},video{number},a square of colour {number} moves")
    (root / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(rows) + "\n")


def add_novel_class(data: Path) -> None:
    """A class of UCF-101 that split 1 only tests: base-to-novel counts it among the novel ones."""
    videos, name = Videos(data / "novel_clips"), "WritingOnBoard"
    official = data / "ucfTrainTestlist"
    video = f"{name}/v_{name}_g01_c01.avi"
    videos.put(data / "UCF-101" / video)
    rows = {"classInd": f"100 {name}", "testlist01": video,
            "trainlist02": f"{video} 100", "trainlist03": f"{video} 100"}
    for file, row in rows.items():
        path = official / f"{file}.txt"
        lines = [*path.read_text().splitlines(), row]
        path.write_text("\n".join(sorted(lines)) + "\n")  # The order is that of the labels.


def write_captioners(root: Path) -> None:
    """Tiny models under the names of the large ones; none where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return
    import_torchvision()
    root.mkdir()
    write_tiny_models(root)
    for name, tiny in (("blip2-opt-2.7b", "blip2"), ("Llama-2-7b-chat-hf", "gpt2")):
        (root / tiny).rename(root / name)


def make_other_datasets(data: Path, repo: Path) -> None:
    """Something-Something V2 with two labels, and twelve classes of somebody's own."""
    videos = Videos(data / "more_clips")
    official = data / "ssv2_labels"
    official.mkdir()
    labels = json.loads((repo / "zs_label_db/ssv2-index2cls.json").read_text("utf-8"))
    (official / "labels.json").write_text(json.dumps({name: i for i, name in labels.items()}))
    for split, numbers in (("train", (1, 2)), ("validation", (3, 4))):
        entries = [{"id": str(n), "template": labels[str(n % 2)]} for n in numbers]
        (official / f"{split}.json").write_text(json.dumps(entries))
        for number in numbers:
            videos.put(data / "20bn-something-something-v2" / f"{number}.mp4")
    for label in range(12):
        for number in range(2):
            videos.put(data / "mine" / f"thing_{label}" / f"{number}.mp4")
