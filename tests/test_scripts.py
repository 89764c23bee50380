"""The shell scripts: what they check before anything starts, and that they agree with the code."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from openvclip.commands.demo import build_parser
from openvclip.config import load_cfg
from openvclip.data.lists.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "script"
BACKBONES = {"b32": "0.5", "b16": "0.5", "l14": "0.6"}  # with the paper's patching ratios
DATASETS = ("ucf", "hmdb", "k400", "k600")
# Scripts and their arguments.
TESTS = [f"testing/{kind}.sh {backbone} {dataset}" for kind in ("raw_clip", "zero_shot")
         for backbone in BACKBONES for dataset in DATASETS]
TRAININGS = [f"training/{kind}.sh {backbone}" for kind in ("train_openvclip", "train_plain")
             for backbone in BACKBONES]


def bash(script: str | Path, *args: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a script (or a line of bash) with the settings and nothing else in its environment."""
    command = ["bash", str(script), *args] if isinstance(script, Path) else ["bash", "-c", script]
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env = {**kept, "HOME": "/nonexistent", **{k: str(v) for k, v in settings.items()}}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def start(script: str, *args: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a script that is named with its arguments, such as those of TESTS."""
    name, *given = script.split()
    return bash(SCRIPT / name, *given, *args, **settings)


def refusal(script: str, **settings: object) -> str:
    """What a script says when it refuses to start."""
    finished = start(script, **settings)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert finished.stdout == ""
    return finished.stderr


@pytest.fixture
def fake(tmp_path) -> dict[str, object]:
    """Settings that pass the checks, with a python that shows its arguments instead of running."""
    python = tmp_path / "python"
    python.write_text(
        '#!/usr/bin/env bash\n'
        'case "$1 ${2:-}" in -c*json*) echo 7 ;; -c*) ;; *) printf "%s\\n" "$@" ;; esac\n'
    )
    python.chmod(0o755)
    for protocol in PROTOCOLS.values():
        folder = tmp_path / protocol.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train", "val", "test"):
            (folder / f"{name}.csv").touch()
        (tmp_path / protocol.label_map).touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "clip.pt").touch()
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "swa_2_22.pth").touch()
    return {
        "PYTHON": python, "LISTS": tmp_path, "DATA": tmp_path / "videos",
        "CLIP": tmp_path / "clip.pt", "CKPT": tmp_path / "ckpt", "OUT": tmp_path / "out",
    }


def config_of(shown: str) -> object:
    """Load the config that a script hands to run_net, from the shown arguments."""
    lines = shown.splitlines()
    config, opts = lines[lines.index("--cfg") + 1], lines[lines.index("--opts") + 1:]
    return load_cfg(config, opts)


@pytest.mark.parametrize("name, options", [
    ("training/train_openvclip.sh", {"BACKBONE": "b32, b16 or l14"}),
    ("training/train_plain.sh", {"BACKBONE": "b32, b16 or l14"}),
    ("training/average.sh", {"BACKBONE": "b32, b16 or l14"}),
    ("testing/zero_shot.sh", {"BACKBONE": "b32, b16 or l14", "DATASET": "ucf, hmdb, k400 or k600"}),
    ("testing/raw_clip.sh", {"BACKBONE": "b32, b16 or l14", "DATASET": "ucf, hmdb, k400 or k600"}),
])
def test_backbones_and_datasets_that_do_not_exist_are_refused_with_those_that_do(
    name, options, fake
):
    good = {"BACKBONE": "b16", "DATASET": "ucf"}
    for option, choices in options.items():
        for wrong in ("b61", "DATA.NUM_FRAMES"):
            args = [{**good, option: wrong}[other] for other in options]
            said = refusal(" ".join([name, *args]), **fake)
            assert f"{option} is {wrong}; give {choices}" in said
    args = list(good.values())[:len(options) - 1]
    assert f"{list(options)[-1]} is not given; give " in refusal(" ".join([name, *args]), **fake)


@pytest.mark.parametrize("name", [
    "training/train_plain.sh b16", "training/average.sh b16", "testing/raw_clip.sh b16 ucf",
])
def test_the_command_that_runs_is_printed_and_can_be_copied(name, fake, tmp_path):
    folder = tmp_path / "a folder of mine's"
    folder.mkdir()
    fake["CKPT"] = fake["DATA"] = folder
    finished = start(name, **fake)
    printed = [line for line in finished.stderr.splitlines() if line.startswith("+ ")]
    assert len(printed) == 1
    copied = bash(printed[0].removeprefix("+ "))
    assert copied.stdout == finished.stdout and str(folder) in copied.stdout


def test_the_average_is_of_the_backbone_that_was_trained(fake):
    (fake["CKPT"] / "config.yaml").write_text("MODEL:\n  ARCH: vitb32\n")
    assert "a training run of b32, not of b16" in refusal("training/average.sh b16", **fake)
    assert start("training/average.sh b32", **fake).returncode == 0


def test_the_average_that_is_made_is_the_one_that_is_tested(fake, tmp_path):
    """average.sh and the tests name it by one function, whatever is averaged."""
    test, average = "testing/zero_shot.sh b16 ucf", "training/average.sh b16"
    folder = Path(str(fake["CKPT"]))

    def made(**settings):
        lines = start(average, PYTHON=fake["PYTHON"], CKPT=folder, **settings).stdout.splitlines()
        return lines[lines.index("--output") + 1]

    def tested(**settings):
        return config_of(start(test, **fake, **settings).stdout).TEST.CUSTOM_LOAD_FILE

    for settings in ({}, {"END": 3}, {"START": 1, "END": 7}):
        Path(made(**settings)).touch()
        assert tested(**settings) == made(**settings)
    assert tested() == str(folder / "swa_2_22.pth")
    (folder / "swa_2_22.pth").unlink()
    assert "2 averages, swa_1_7.pth swa_2_3.pth; set START and END" in refusal(test, **fake)
    assert "swa_2_4.pth, which is not a file" in refusal(test, **fake, END=4)
    (folder / "swa_1_7.pth").unlink()
    assert tested() == str(folder / "swa_2_3.pth"), "the only one"


@pytest.mark.parametrize("script", TRAININGS)
def test_training_is_the_published_recipe(script, fake):
    cfg = config_of(start(script, **fake).stdout)
    name, backbone = script.split()
    interpolated = name == "training/train_openvclip.sh"
    assert cfg.MODEL.ARCH == f"vit{backbone}" and cfg.MODEL.NUM_CLASSES == 400
    assert cfg.MODEL.TEMPORAL_MODELING_TYPE == "expand_temporal_view"
    assert interpolated == cfg.TRAIN.LINEAR_CONNECT_CLIMB
    if interpolated:
        train = cfg.TRAIN
        assert (train.LINEAR_CONNECT_LOSS_RATIO, train.LINEAR_CONNECT_SAMPLE_L) == (0.5, 0.0)
        assert train.LINEAR_CONNECT_SAMPLE_R == 0.6
    assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.GRAD_ACCUM_STEPS) == (8, 64, 1)
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WARMUP_EPOCHS) == (22, 2)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.COSINE_END_LR) == (3.33e-6, 3.33e-8)
    assert cfg.SOLVER.WARMUP_START_LR == 3.33e-8 and cfg.SOLVER.WEIGHT_DECAY == 0.01
    assert cfg.SOLVER.OPTIMIZING_METHOD == "adamw" and cfg.SOLVER.CLIP_GRAD_L2NORM == 1.0
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE) == (8, 16)
    assert cfg.TRAIN.MIXED_PRECISION and cfg.MODEL.USE_CHECKPOINT == (backbone == "l14")
    assert (cfg.TRAIN.EVAL_PERIOD, cfg.TRAIN.CHECKPOINT_PERIOD) == (1, 1)
    assert not cfg.AUG.ENABLE and not cfg.MIXUP.ENABLE
    assert cfg.OUTPUT_DIR == str(fake["CKPT"])


@pytest.mark.parametrize("script", TESTS)
def test_testing_has_the_papers_ratio_and_views(script, fake):
    name, backbone, dataset = script.split()
    split = {"SPLIT": "split1"} if dataset == "k600" else {}
    cfg = config_of(start(script, **split, **fake).stdout)
    raw = name == "testing/raw_clip.sh"
    assert cfg.MODEL.ARCH == f"vit{backbone}" and not cfg.TRAIN.ENABLE
    assert cfg.MODEL.MODEL_NAME == ("BasicClipVideo" if raw else "TemporalClipVideo")
    assert cfg.MODEL.TEMPORAL_MODELING_TYPE == (None if raw else "expand_temporal_view")
    assert cfg.TEST.CUSTOM_LOAD is not raw and cfg.TEST.PATCHING_MODEL is not raw
    if not raw:
        assert cfg.TEST.PATCHING_RATIO == float(BACKBONES[backbone])
        assert cfg.TEST.CUSTOM_LOAD_FILE == str(fake["CKPT"] / "swa_2_22.pth")
    assert (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) == (3, 1)
    assert cfg.MODEL.NUM_CLASSES == 7  # what the python said of the label map
    assert cfg.DATA.PATH_PREFIX == str(fake["DATA"])
    clips = cfg.TEST.BATCH_SIZE / cfg.NUM_GPUS
    assert clips % 3 == 0, "a process's share of a batch holds whole videos"


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n != "ssv2"])
def test_scripts_and_code_agree_where_a_protocols_files_are(name):
    line = f'source "{SCRIPT}/testing/common.sh"; protocol_files {name}; echo "$FOLDER $MAP"'
    assert bash(line).stdout.split() == [PROTOCOLS[name].folder, PROTOCOLS[name].label_map]


def test_several_splits_are_tested_one_after_another(fake):
    shown = start("testing/zero_shot.sh b16 hmdb", **fake, SPLIT="split2 half9").stdout
    assert [str(Path(line).relative_to(fake["OUT"])) for line in
            re.findall(r"OUTPUT_DIR\n(.+)", shown)] == ["hmdb_split2", "hmdb_half9"]


def test_arguments_come_last_and_the_cpu_gets_its_own_settings(fake):
    script = "testing/zero_shot.sh l14 ucf"
    cfg = config_of(start(script, "DATA.NUM_FRAMES", "4", **fake, NUM_GPUS=0).stdout)
    assert cfg.DATA.NUM_FRAMES == 4 and cfg.NUM_GPUS == 0
    assert not cfg.TRAIN.MIXED_PRECISION and cfg.TEST.BATCH_SIZE == 6


def test_fewer_gpus_compute_the_same_batch_in_parts(fake):
    script = "training/train_openvclip.sh b16"
    for gpus, parts in ((0, 8), (1, 8), (2, 4), (4, 2)):
        cfg = config_of(start(script, **fake, NUM_GPUS=gpus).stdout)
        assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.GRAD_ACCUM_STEPS) == (64, parts)


def add_slurm(fake) -> dict[str, object]:
    """Settings with which a Slurm that does nothing is found."""
    for name in ("sbatch", "srun"):
        (fake["LISTS"] / name).write_text("#!/usr/bin/env bash\n")
        (fake["LISTS"] / name).chmod(0o755)
    return {"PATH": f"{fake['LISTS']}{os.pathsep}{os.environ['PATH']}"}


def test_slurm_gets_the_same_run(fake):
    fake.update(add_slurm(fake))
    script = "training/train_openvclip.sh b16"
    shown = start(script, **fake, LAUNCHER="slurm", NODES=2, SLURM_OPTIONS="--partition gpu").stdout
    assert f"{ROOT}/tools/run_with_submitit.py" in shown
    assert "--num_shards\n2\n" in shown and "--partition\ngpu\n" in shown
    cfg = config_of(shown)
    assert cfg.TRAIN.BATCH_SIZE == 64 and cfg.TRAIN.LINEAR_CONNECT_CLIMB
    assert "--wait" not in shown and "--cluster\nslurm\n" in shown
    test = start("testing/raw_clip.sh b16 ucf", **fake, LAUNCHER="slurm").stdout
    assert "--wait" in test


def test_what_was_tested_is_not_tested_again(fake):
    script = "testing/raw_clip.sh b16 ucf"
    done = fake["OUT"] / "ucf101_full" / "results.json"
    done.parent.mkdir(parents=True)
    done.touch()
    assert "already tested" in start(script, **fake).stdout
    assert "--opts" in start(script, **fake, FORCE=1).stdout


def test_results_of_two_ratios_are_kept_apart(fake):
    del fake["OUT"]
    script = "testing/zero_shot.sh b16 ucf"
    assert config_of(start(script, **fake).stdout).OUTPUT_DIR == str(
        fake["CKPT"] / "testing" / "swa_2_22_patched_0.5" / "ucf101_full")
    assert "swa_2_22_patched_0.3/" in config_of(
        start(script, **fake, PATCHING_RATIO=0.3).stdout).OUTPUT_DIR


BAD = [
    ({"DATA": ""}, "set DATA to"),
    ({"DATA": "/nonexistent/videos"}, "DATA is /nonexistent/videos, which is not a folder"),
    ({"CLIP": "/nonexistent/clip.pt"}, "CLIP is /nonexistent/clip.pt, which is not a file"),
    ({"CKPT": ""}, "set CKPT to"),
    ({"LISTS": "/nonexistent"}, "tools/prepare_labels.py"),
    ({"PYTHON": "/nonexistent/python"}, "PYTHON is /nonexistent/python"),
    ({"NUM_GPUS": "many"}, "NUM_GPUS is many"),
    ({"ROOT": "/"}, "ROOT is /, which is not a clone"),
]


@pytest.mark.parametrize("name", ["testing/zero_shot.sh b16 ucf",
                                  "training/train_openvclip.sh b32"])
@pytest.mark.parametrize("change, message", BAD, ids=[message for _, message in BAD])
def test_bad_settings_are_refused_before_anything_starts(name, change, message, fake):
    assert message in refusal(name, **{**fake, **change})


def test_further_refusals(fake):
    train = "training/train_openvclip.sh b16"
    assert "BATCH_SIZE is 60, which 8 processes cannot" in refusal(train, **fake, BATCH_SIZE=60)
    test = "testing/zero_shot.sh b16 ucf"
    (fake["CKPT"] / "swa_2_22.pth").unlink()
    assert "average.sh makes it" in refusal(test, **fake)
    assert "set CKPT" in refusal("training/average.sh b16", PYTHON=fake["PYTHON"])
    # Without Slurm nothing runs here in its stead.
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep)
        if not any(os.path.exists(os.path.join(folder, name)) for name in ("sbatch", "srun")))
    (fake["CKPT"] / "swa_2_22.pth").touch()
    for script in (train, test, "testing/zero_shot_suite.sh"):
        said = refusal(script, **fake, LAUNCHER="slurm", PATH=path)
        assert "LAUNCHER=slurm, but there is no sbatch/srun here; " in said
    assert "LAUNCHER is pbs" in refusal("testing/raw_clip.sh b16 ucf", **fake, LAUNCHER="pbs")


def test_the_suite_names_what_it_lacks(fake):
    suite = "testing/zero_shot_suite.sh"
    found = start(suite, **fake)
    assert "no dataset found" in found.stderr
    assert "skipping UCF-101: UCF is not set, and DATA " in found.stdout + found.stderr
    nowhere = fake["LISTS"] / "nowhere"
    assert f"HMDB is {nowhere}, which is not a folder" in start(suite, **fake, HMDB=nowhere).stderr
    assert "BACKBONE is b8" in refusal(suite, **fake, BACKBONE="b8")
    assert "KIND is new" in refusal(suite, **fake, KIND="new")


def test_the_suite_tests_a_dataset_once_and_derives_the_rest(fake):
    suite = "testing/zero_shot_suite.sh"
    fake["UCF"] = fake["HMDB"] = fake["K600"] = fake["DATA"]
    shown = start(suite, **fake).stdout
    ran = [Path(line).name for line in re.findall(r"OUTPUT_DIR\n(.+)", shown)]
    assert ran == ["ucf101_full", "hmdb_union", "k600_union"]
    # The lists are compared before anything is tested.
    assert re.findall(r"--check-lists\n(.+)", shown[:shown.index("run_net.py")]) == ran
    assert [Path(line).name for line in re.findall(r"--from\n(.+)", shown)] == ran
    assert len(re.findall("derive_results.py", shown)) == 6
    assert shown.rstrip().splitlines()[-2:] == [f"{ROOT}/tools/summarize.py", str(fake["OUT"])]
    each = [Path(line).name for line in
            re.findall(r"OUTPUT_DIR\n(.+)", start(suite, **fake, EACH=1).stdout)]
    assert each == [n for n in PROTOCOLS
                    if n.startswith(("ucf101", "hmdb", "k600")) and not n.endswith("union")]


def failing(fake, pattern: str, code: int) -> dict[str, object]:
    """Settings whose python leaves with ``code`` where its arguments match a pattern of bash."""
    text = fake["PYTHON"].read_text()
    line = f'case "$*" in {pattern}) exit {code} ;; esac\n'
    fake["PYTHON"].write_text(text.replace("case", f"{line}case", 1))
    return fake


@pytest.mark.parametrize("pattern, lost, table", [
    ("*run_net*hmdb_union*", ["hmdb_union", "hmdb_full", "hmdb_split1", "hmdb_half9"], True),
    ("*--from*hmdb_union*", ["hmdb_full", "hmdb_split1", "hmdb_half9"], True),
    ("*--from*ucf101_full*", ["ucf101_split1", "ucf101_half9"], True),
    ("*run_net*k600_union*", ["k600_union", "k600_split1", "k600_split3"], True),
    ("*summarize*", ["the table"], False),
])
def test_what_fails_in_the_suite_does_not_take_the_others_with_it(fake, pattern, lost, table):
    suite = "testing/zero_shot_suite.sh"
    fake["UCF"] = fake["HMDB"] = fake["K600"] = fake["DATA"]
    finished = start(suite, **failing(fake, pattern, 2))
    assert finished.returncode == 1
    said = finished.stderr.rstrip().splitlines()[-1]
    assert said.startswith("zero_shot_suite.sh: failed, see above: ")
    failed = said.split(": ", 2)[2].split(", ")
    assert set(lost) <= set(failed)
    assert len({name.split("_")[0] for name in failed}) == 1, "the others are not named"
    assert table == ("summarize.py" in finished.stdout)
    ran = [Path(line).name for line in re.findall(r"OUTPUT_DIR\n(.+)", finished.stdout)]
    assert ran == [n for n in ("ucf101_full", "hmdb_union", "k600_union") if n not in failed]


def test_a_suite_that_lists_do_not_fit_goes_on_with_the_others(fake):
    fake["UCF"] = fake["HMDB"] = fake["DATA"]
    finished = start("testing/zero_shot_suite.sh", **failing(fake, "*--check-lists*", 2))
    assert finished.returncode == 0  # Here the fake python derives everything all the same.
    assert finished.stderr.count("continuing without these") == 2


@pytest.mark.parametrize("code", [75, 130, 143])
def test_a_suite_that_is_told_to_stop_stops(fake, code):
    fake["UCF"] = fake["HMDB"] = fake["DATA"]
    finished = start("testing/zero_shot_suite.sh", **failing(fake, "*run_net*", code))
    assert finished.returncode == code and "summarize" not in finished.stdout


def test_no_script_names_somebodys_machine():
    for path in SCRIPT.rglob("*.sh"):
        text = re.sub(r"(?m)^\s*#.*$", "", path.read_text("utf-8"))
        assert not re.findall(r"(?<![\w$}.)])/(?:home|data|mnt|root|dev/shm)\b", text), path


def test_quickstart_captions_goes_on_from_a_quickstart(tmp_path):
    script, out = "quickstart_captions.sh", tmp_path / "out"
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    # Of pip nothing is wanted; the other calls are shown, each behind a line of its own.
    python.write_text('#!/usr/bin/env bash\n[ "$2" = pip ] || printf "%s\\n" CALL "$@"\n')
    python.chmod(0o755)
    settings = {"VENV": tmp_path / "venv", "SKIP_INSTALL": 1, "OUT": out}
    assert "run script/quickstart.sh first" in refusal(script, **settings)
    for name in ("trained", "unseen", "knew"):
        (out / "data").mkdir(parents=True, exist_ok=True)
        (out / f"data/{name}-index2cls.json").write_text('{"0": "a", "1": "b"}')
    (out / "clip.pt").touch()
    (out / "seed").write_text("3\n")
    assert "made with seed 3, not 2" in refusal(script, **settings)
    finished = start(script, SEED=3, **settings)
    assert finished.returncode == 0, finished.stderr
    calls = finished.stdout.split("CALL\n")[1:]
    tools = [Path(call.splitlines()[0]).name for call in calls]
    assert tools == ["make_demo.py", "prepare_captions.py", "run_net.py", "weight_average.py",
                     *["run_net.py"] * 5, "summarize.py"]
    configs = []
    for call in calls:
        if "--cfg" in call:
            lines = [line for line in call.splitlines() if line and not line.startswith("==")]
            configs.append(config_of("\n".join(lines)))
    training, *tests = configs
    assert training.TRAIN.CAPTION.ENABLE and training.RNG_SEED == 3 and not training.TEST.ENABLE
    assert str(training.TRAIN.CAPTION.FILE) == str(out / "captions.sqlite")
    assert [test.TEST.TASK for test in tests] == ["classification"] * 3 + ["retrieval"] * 2
    assert not any(test.TRAIN.ENABLE for test in tests)
    assert len({test.OUTPUT_DIR for test in configs}) == 6


@pytest.mark.parametrize("names, settings, message", [
    (["moon"], {}, "there is no setting moon; give some of core locale background user folder"),
    (["locale"], {"SKIP_INSTALL": 1}, "SKIP_INSTALL=1 needs VENV"),
    (["locale"], {"SKIP_INSTALL": 1, "VENV": "/nonexistent/venv"}, "VENV is /nonexistent/venv"),
    (["user"], {"SETTINGS_USER": "n o"}, "set SETTINGS_USER to the name of a user"),
])
def test_settings_that_cannot_be_are_refused_before_the_first(names, settings, message, tmp_path):
    finished = bash(ROOT / "tests/settings.sh", *names, **settings, SETTINGS_DIR=tmp_path / "out")
    assert finished.returncode == 1 and message in finished.stderr, finished.stderr
    assert not (tmp_path / "out").exists()


def test_quickstart_methods_starts_the_comparison(tmp_path):
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\n[ "$2" = pip ] || printf "%s\\n" "$@"\n')
    python.chmod(0o755)
    out = tmp_path / "a folder"
    settings = {"VENV": tmp_path / "venv", "SKIP_INSTALL": 1, "OUT": out}
    finished = start("quickstart_methods.sh", "--lanes", "1", SEED=3, **settings)
    assert finished.returncode == 0, finished.stderr
    given = finished.stdout.splitlines()
    assert given[:6] == ["tools/make_demo.py", "methods", "--root", str(out), "--seed", "3"]
    args = build_parser().parse_args([line for line in given[1:8] if line])
    assert (args.root, args.seed, args.lanes) == (str(out), 3, 1)
    assert (ROOT / args.configs / "plain.yaml").is_file()
    assert f"{out}/table.md" in finished.stdout
