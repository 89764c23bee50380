"""Bad input through tools/run_net.py: exit code 2 and one line that names what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest_integration import INTERPOLATED, options

from openvclip.data.dataset import VideoDataset


@pytest.fixture
def refused(tiny, tmp_path, empty_cfg, in_process, capfd):
    """Run with changed options and return the one error and what follows it."""

    def run(root=None, **changes):
        code = in_process(
            empty_cfg, options(root or tiny, tmp_path / "run", **changes), check=None
        )
        assert code == 2
        captured = capfd.readouterr()
        text = captured.out + captured.err
        assert "Traceback" not in text
        lines = text.splitlines()
        (first,) = [i for i, line in enumerate(lines) if re.search(r"(^|\] )\w+Error: ", line)]
        return "\n".join(lines[first:])

    return run


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the lists and map; the videos stay where they are."""
    root = tmp_path / "copy"
    shutil.copytree(tiny, root, ignore=shutil.ignore_patterns("videos"))
    (root / "videos").symlink_to(tiny / "videos")
    return root


AT_ONCE = """
import sys
sys.path.insert(0, "tools")
import run_net
code = run_net.main(sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def test_a_misspelt_key_stops_before_torch_is_imported(repo, empty_cfg):
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, "--cfg", str(empty_cfg), "--opts", "SOLVER.BASE_RL", "1"],
        capture_output=True, text=True, cwd=repo, timeout=120,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 2 and output.endswith("False\n"), output
    assert "SOLVER.BASE_RL" in output and "SOLVER.BASE_LR" in output and "Traceback" not in output


@pytest.mark.parametrize("changes, said", [
    ({"DATA__INDEX_LABEL_MAPPING_FILE": "gone.json"}, "the label map gone.json: No such file"),
    ({"DATA__INDEX_LABEL_MAPPING_FILE": "gone.json", "VAL_MODE": True}, "gone.json: No such file"),
    ({"TRAIN__ENABLE": False, "TEST__PATCHING_MODEL": True}, "to patch: give TEST.CUSTOM_LOAD"),
    ({"VAL_MODE": True, "TEST__PATCHING_MODEL": True}, "to patch: give TRAIN.CUSTOM_LOAD"),
])
def test_what_is_missing_is_said_before_torch_is_imported(
    repo, tiny, tmp_path, empty_cfg, changes, said
):
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, "--cfg", str(empty_cfg), "--opts",
         *options(tiny, tmp_path / "run", **changes)],
        capture_output=True, text=True, cwd=repo, timeout=120,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 2 and output.endswith("False\n"), output
    assert said in output and output.count("\n") == 2, output


def test_missing_checkpoints(refused, tmp_path):
    missing = tmp_path / "nowhere.pth"
    for changes in (
        {"TEST__CUSTOM_LOAD": True, "TEST__CUSTOM_LOAD_FILE": missing, "TRAIN__ENABLE": False},
        {"TEST__CHECKPOINT_FILE_PATH": missing, "TRAIN__ENABLE": False},
        {"TRAIN__CHECKPOINT_FILE_PATH": missing},
        {"TRAIN__CUSTOM_LOAD": True, "TRAIN__CUSTOM_LOAD_FILE": missing},
        {"MODEL__CLIP_PATH": missing},
        {"TRAIN__CLIP_ORI_PATH": missing, **INTERPOLATED},
    ):
        assert "nowhere.pth" in refused(**changes)


def test_corrupt_checkpoint(refused, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"model_state": {"model.w": torch.zeros(5000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    line = refused(TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=path)
    assert "cut.pth" in line


def test_checkpoint_that_does_not_fit_names_and_counts_keys(refused, tiny, tmp_path):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    del state["visual.proj"]
    state["visual.ln_pre.weight"] = torch.zeros(7)
    state["visual.surprise"] = torch.zeros(1)
    path = tmp_path / "odd.pth"
    torch.save({"model_state": {f"model.{k}": v for k, v in state.items()}}, path)
    line = refused(TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=path)
    for part in ("odd.pth", "visual.proj", "visual.ln_pre.weight", "(7,)", "visual.surprise", "1 "):
        assert part in line


def test_number_of_classes(refused):
    line = refused(MODEL__NUM_CLASSES=400)
    assert "MODEL.NUM_CLASSES is 400" in line and "3" in line


@pytest.mark.parametrize(("row", "found"), [
    ("train/red moving/0.mp4,3", "3"),
    ("train/red moving/0.mp4,-1", "-1"),
    ("train/red moving/0.mp4,red", "red"),
    ("train/red moving/0.mp4", "label"),
    ("", "empty"),
])
def test_bad_rows_name_file_and_line(refused, copy, row, found):
    rows = (copy / "train.csv").read_text().splitlines()
    rows.insert(2, row)
    (copy / "train.csv").write_text("\n".join(rows) + "\n")
    line = refused(root=copy)
    assert "train.csv, line 3" in line and found in line


def test_missing_folder_list_and_map(refused, copy, tmp_path):
    assert "nowhere" in refused(root=copy, DATA__PATH_PREFIX=tmp_path / "nowhere")
    assert "gone.json" in refused(DATA__INDEX_LABEL_MAPPING_FILE=tmp_path / "gone.json")
    assert "DATA.INDEX_LABEL_MAPPING_FILE" in refused(DATA__INDEX_LABEL_MAPPING_FILE="")
    (copy / "train.csv").unlink()
    assert "train.csv" in refused(root=copy)


def test_crops_of_another_size_than_the_clips_are_refused_before_anything_is_decoded(
    refused, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(VideoDataset, "__getitem__", lambda *_: pytest.fail("a video was decoded"))
    message = refused(DATA__TRAIN_CROP_SIZE=24, DATA__TEST_CROP_SIZE=24)
    assert message.endswith(
        f"ConfigError: {tiny}/clip.pt takes frames of 32x32 pixels, but DATA.TRAIN_CROP_SIZE is 24 "
        "and DATA.TEST_CROP_SIZE is 24; set DATA.TRAIN_CROP_SIZE and DATA.TEST_CROP_SIZE to 32")
    assert not list((tmp_path / "run").glob("checkpoints"))
    # The crops of the test are looked at before the training; those that nothing uses are not.
    assert "set DATA.TEST_CROP_SIZE to 32" in refused(DATA__TEST_CROP_SIZE=24)
    assert "set DATA.TRAIN_CROP_SIZE to 32" in refused(
        VAL_MODE=True, DATA__TRAIN_CROP_SIZE=24, DATA__TEST_CROP_SIZE=24)
    assert "set DATA.TEST_CROP_SIZE to 32" in refused(
        TRAIN__ENABLE=False, DATA__TRAIN_CROP_SIZE=24, DATA__TEST_CROP_SIZE=24)


def test_label_map_of_the_wrong_form(refused, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(["a", "b", "c"]))
    assert "map.json" in refused(DATA__INDEX_LABEL_MAPPING_FILE=path)


def test_patching_nothing_is_refused(refused):
    line = refused(TRAIN__ENABLE=False, TEST__PATCHING_MODEL=True)
    assert "nothing to patch" in line


def test_more_gpus_than_there_are(refused):
    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine has 64 GPUs")
    line = refused(NUM_GPUS=64, TRAIN__BATCH_SIZE=64, TEST__BATCH_SIZE=64)
    assert "NUM_GPUS is 64 and this machine has" in line


def test_too_many_bad_videos_stop_training(refused, tiny, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny, root)
    for path in sorted((root / "videos" / "train").rglob("*.mp4"))[:4]:
        path.write_bytes(b"")
    line = refused(root=root, DATA__MAX_BAD_FRACTION=0.1)
    assert "DATA.MAX_BAD_FRACTION" in line


def test_batch_larger_than_the_list(refused):
    line = refused(TRAIN__BATCH_SIZE=64)
    assert "TRAIN.BATCH_SIZE" in line and "12" in line


def test_optimizer_state_of_other_code(refused, tiny, tmp_path):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    path = tmp_path / "foreign.pyth"
    torch.save({
        "epoch": 3,
        "model_state": {f"model.{k}": v for k, v in state.items()},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    }, path)
    line = refused(TRAIN__CHECKPOINT_FILE_PATH=path, TRAIN__AUTO_RESUME=False)
    assert "foreign.pyth" in line and "TRAIN.CHECKPOINT_EPOCH_RESET True" in line


def test_non_finite_loss_stops_with_iteration_and_videos(refused, tiny, tmp_path):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    state["visual.proj"][0, 0] = torch.nan
    path = tmp_path / "nan.pt"
    torch.save(state, path)
    line = refused(TRAIN__CUSTOM_LOAD=True, TRAIN__CUSTOM_LOAD_FILE=path)
    assert "epoch 1, iteration 1" in line and ".mp4" in line and "nan" in line


def test_mixup_needs_pairs(refused):
    line = refused(MIXUP__ENABLE=True, TRAIN__BATCH_SIZE=3, MODEL__LOSS_FUNC="soft_cross_entropy")
    assert "MIXUP.ENABLE is True, but a process has 3 videos of a batch" in line
