"""One rule for what a checkpoint was trained on, whoever asks."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from openvclip.checkpoints.export import read_temporal_settings
from openvclip.checkpoints.files import save_file
from openvclip.checkpoints.training_config import (
    find_overlap,
    find_training,
    find_training_config,
)
from openvclip.predict.input_spec import find_input_spec
from openvclip.utils.errors import CheckpointError


def config(folder, frames, **train):
    return yaml.safe_dump({
        "MODEL": {"TEMPORAL_MODELING_TYPE": "expand_temporal_view"},
        "DATA": {"PATH_TO_DATA_DIR": str(folder), "NUM_FRAMES": frames, "SAMPLING_RATE": 2,
                 "MEAN": [0.5] * 3, "STD": [0.5] * 3,
                 "INDEX_LABEL_MAPPING_FILE": str(folder / "labels.json")},
        "TRAIN": {"ENABLE": True, **train}, "RNG_SEED": frames})


def ask(path):
    """Frames of a clip, as each of those who ask says it."""
    said = {find_input_spec(path).num_frames, find_training(path)["seed"],
            int(read_temporal_settings(path)["DATA.NUM_FRAMES"])}
    (number,) = said
    return number


def test_what_the_file_carries_counts_before_what_lies_beside_it(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"0": "archery"}))
    (tmp_path / "config.yaml").write_text(config(tmp_path, 5))
    (tmp_path / "checkpoints").mkdir()
    weights = {"model_state": {"w": torch.ones(1)}}
    for path in (tmp_path / "swa.pth", tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth"):
        save_file(path, {**weights, "cfg": config(tmp_path, 7, LINEAR_CONNECT_CLIMB=True)})
        assert ask(path) == 7 and find_training(path)["interpolated"] is True
        assert find_training_config(path).where == path
        save_file(path, weights)
        assert ask(path) == 5 and find_training(path)["interpolated"] is False
        assert find_training_config(path).where == tmp_path / "config.yaml"
        assert len(find_training(path)["label_set"]) == 64
    (tmp_path / "labels.json").unlink()
    assert find_training(path)["label_set"] is None


def test_the_training_list_has_the_name_that_the_config_gives(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"0": "archery"}))
    path = tmp_path / "swa.pth"
    for name, wanted in (("", tmp_path / "train.csv"), ("train_1.csv", tmp_path / "train_1.csv"),
                         ("/lists/a.csv", "/lists/a.csv"), ("s3://b/a.csv", "s3:/b/a.csv")):
        text = config(tmp_path, 5) + (f"TRAIN_FILE: {name}\n" if name else "")
        save_file(path, {"model_state": {}, "cfg": text})
        assert find_training(path)["list"] == str(wanted)
    (tmp_path / "train_1.csv").write_text("a.mp4 0\nb.mp4 0\n")
    save_file(path, {"model_state": {}, "cfg": config(tmp_path, 5) + "TRAIN_FILE: train_1.csv\n"})
    assert find_overlap(path, ["c.mp4", "b.mp4"], "") == {"videos": 1, "rows": [1]}


def test_the_config_of_another_run_beside_a_file_is_not_its_own(tmp_path):
    path = tmp_path / "runs" / "swa.pth"
    save_file(path, {"model_state": {}})
    (tmp_path / "config.yaml").write_text(config(tmp_path, 5))  # not its folder
    assert find_training_config(path) is None and find_training(path) is None
    (tmp_path / "runs" / "config.yaml").write_text(config(tmp_path, 5, ENABLE=False))
    assert find_training_config(path) is None and read_temporal_settings(path) == {}
    assert find_training(None) is None and find_training(path.with_name("nowhere.pth")) is None


@pytest.mark.parametrize("carried", [True, False])
def test_a_config_that_is_no_yaml_stops_a_model_and_leaves_a_result_without_the_fact(
    tmp_path, carried
):
    path = tmp_path / "swa.pth"
    save_file(path, {"model_state": {}, **({"cfg": "DATA: ["} if carried else {})})
    (tmp_path / "config.yaml").write_text("DATA: [")
    with pytest.raises(CheckpointError, match=("swa.pth" if carried else "config.yaml") + ".*yaml"):
        find_input_spec(path)
    assert find_training(path) is None and read_temporal_settings(path) == {}
