"""From raw folders to the paper's table: every script, on two classes of each dataset, on CPU."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest_integration import write_tiny_clip
from conftest_protocols import make_datasets

from openvclip.data.lists.protocols import PROTOCOLS

SCRIPT = Path(__file__).resolve().parents[2] / "script"
BACKBONES = ("b16", "b32", "l14")
DATA = {"ucf": "UCF-101", "hmdb": "hmdb51", "k400": "k400", "k600": "k600"}
# Scripts and their arguments.
TESTS = [f"testing/{kind}.sh {backbone} {dataset}" for kind in ("raw_clip", "zero_shot")
         for backbone in BACKBONES for dataset in DATA]
TRAININGS = [f"training/{kind}.sh {backbone}" for kind in ("train_openvclip", "train_plain")
             for backbone in BACKBONES]
# The recipe's numbers, shrunk to what a tiny CLIP and two classes can do.
SMALL = [
    "MODEL.ARCH", "auto", "DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "2",
    "DATA.TRAIN_JITTER_SCALES", "[32,36]", "DATA.TRAIN_CROP_SIZE", "32",
    "DATA.TEST_CROP_SIZE", "32", "DATA_LOADER.NUM_WORKERS", "0",
]


class World:
    """The small datasets, their lists and a tiny CLIP; runs scripts on them."""

    def __init__(self, root: Path, repo: Path, python: Path) -> None:
        self.root, self.repo, self.python = root, repo, str(python)
        make_datasets(root, repo)
        write_tiny_clip(root / "clip.pt")
        self.env = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHON": self.python, "NUM_GPUS": "0",
            "LISTS": str(root / "lists"), "CLIP": str(root / "clip.pt"),
        }

    def run(self, call: str, *args: str, **settings: object) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **{name: str(value) for name, value in settings.items()}}
        cache = ("MODEL.TEXT_CACHE_DIR", str(self.root / "text_cache"))
        script, *given = call.split()
        args = () if script.endswith("average.sh") else (*SMALL, *cache, *args)
        return subprocess.run(["bash", str(self.repo / "script" / script), *given, *args],
                              text=True, capture_output=True, timeout=300, env=env, cwd=self.root)

    def prepare(self, dataset: str, *args: object) -> str:
        (self.root / "lists").mkdir(exist_ok=True)
        command = [self.python, self.repo / "tools/prepare_labels.py", dataset, *args,
                   "--root", self.root / "lists"]
        finished = subprocess.run([str(x) for x in command], text=True, capture_output=True)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def train(self, call: str):
        script, backbone = call.split()
        kind = Path(script).stem
        return self.run(call, "SOLVER.WARMUP_EPOCHS", "0", DATA=self.root / "k400",
                        CKPT=self.root / "ckpt" / f"{backbone}_{kind}", BATCH_SIZE=4, EPOCHS=2)

    def test(self, call: str):
        script, backbone, dataset = call.split()
        return self.run(call, DATA=self.root / DATA[dataset],
                        OUT=self.root / "out" / f"{Path(script).stem}_{backbone}",
                        CKPT=self.root / "ckpt" / f"{backbone}_train_openvclip")


@pytest.fixture(scope="module")
def world(tmp_path_factory, repo, python) -> World:
    world = World(tmp_path_factory.mktemp("world"), repo, python)
    root = world.root
    world.prepare("ucf101", "--videos", root / "UCF-101", "--annotations",
                  root / "ucfTrainTestlist")
    world.prepare("hmdb51", "--videos", root / "hmdb51", "--annotations",
                  root / "testTrainMulti_7030_splits")
    world.prepare("kinetics400", "--videos", root / "k400")
    world.prepare("kinetics600", "--videos", root / "k600")
    return world


@pytest.fixture(scope="module")
def ran(world) -> dict[str, subprocess.CompletedProcess[str]]:
    """Every training, then their averages, then every test; two processes at a time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = dict(zip(TRAININGS, pool.map(world.train, TRAININGS), strict=True))
        folders = [f for f in (world.root / "ckpt").iterdir() if f.name.endswith("openvclip")]
        averages = pool.map(
            lambda folder: world.run(f"training/average.sh {folder.name[:3]}", CKPT=folder,
                                     START=1, END=2, OUTPUT=folder / "swa_2_22.pth"), folders)
        done |= {f"average {f.name}": result for f, result in zip(folders, averages, strict=True)}
        done |= dict(zip(TESTS, pool.map(world.test, TESTS), strict=True))
    return done


@pytest.mark.parametrize("call", TRAININGS)
def test_training_scripts_run_to_their_end(call, ran, world):
    finished = ran[call]
    assert finished.returncode == 0, finished.stdout + finished.stderr
    script, backbone = call.split()
    kind = Path(script).stem
    output = world.root / "ckpt" / f"{backbone}_{kind}"
    assert len(list((output / "checkpoints").glob("*.pyth"))) == 2
    assert json.loads((output / "results.json").read_text())["videos"] == 4
    stats = [json.loads(line) for line in (output / "json_stats.jsonl").read_text().splitlines()]
    connected = any("loss_connect" in key or "connect" in key for line in stats for key in line)
    assert connected == (kind == "train_openvclip")


def test_averages_are_made(ran):
    averages = [result for name, result in ran.items() if name.startswith("average")]
    assert len(averages) == 3
    for finished in averages:
        assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("call", TESTS)
def test_testing_scripts_run_to_their_end(call, ran, world):
    finished = ran[call]
    assert finished.returncode == 0, finished.stdout + finished.stderr
    script, backbone, name = call.split()
    model, raw = f"{Path(script).stem}_{backbone}", "raw_clip" in script
    names = {"ucf": ["ucf101_full"], "hmdb": ["hmdb_full"], "k400": ["kinetics400"],
             "k600": ["k600_split1", "k600_split2", "k600_split3"]}[name]
    for protocol in names:
        results = json.loads((world.root / "out" / model / protocol / "results.json").read_text())
        assert results["videos"] == {"ucf": 6, "hmdb": 6, "k400": 4, "k600": 4}[name]
        assert results["failed"] == []
        assert results["label_set"]["classes"] == PROTOCOLS[protocol].classes
        assert bool(results["checkpoint"]) is not raw
        ratio = results["results"][0]["patching_ratio"]
        assert ratio == (None if raw else 0.6 if backbone == "l14" else 0.5)


def test_the_suite_ends_in_the_table(ran, world):
    """With the results of the scripts as a check: what is derived equals what was tested."""
    out = world.root / "suite"
    ckpt = world.root / "ckpt" / "b16_train_openvclip"
    finished = world.run("testing/zero_shot_suite.sh", DATA=world.root, CKPT=ckpt, OUT=out)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    table = (out / "summary.md").read_text()
    for column in ("UCF-101 full", "HMDB-51 half x 10", "K600 3 splits", "K400 val"):
        assert column in table
    assert "Open-VCLIP" in table and "published" in table.lower()
    ran_itself = world.run("testing/zero_shot.sh b16 ucf", DATA=world.root / "UCF-101", CKPT=ckpt,
                           OUT=world.root / "itself", SPLIT="split2 half3")
    assert ran_itself.returncode == 0, ran_itself.stdout + ran_itself.stderr
    ran_itself = world.run("testing/zero_shot.sh b16 hmdb", DATA=world.root / "hmdb51", CKPT=ckpt,
                           OUT=world.root / "itself", SPLIT="split2")
    assert ran_itself.returncode == 0, ran_itself.stdout + ran_itself.stderr
    pairs = [(world.root / "itself", "ucf101_split2"), (world.root / "itself", "ucf101_half3"),
             (world.root / "itself", "hmdb_split2"),
             (world.root / "out" / "zero_shot_b16", "hmdb_full"),
             (world.root / "out" / "zero_shot_b16", "k600_split3")]
    for folder, protocol in pairs:
        tested = json.loads((folder / protocol / "results.json").read_text())
        derived = json.loads((out / protocol / "results.json").read_text())
        assert derived["derived_from"] and "derived_from" not in tested
        assert derived["results"] == tested["results"]
        assert derived["videos"] == tested["videos"]
    again = world.run("testing/zero_shot_suite.sh", DATA=world.root, CKPT=ckpt, OUT=out)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("already tested") == 4
