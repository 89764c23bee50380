"""Files and command lines: what is read, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvclip.config import default_output_dir, load_cfg, parse_args
from openvclip.config.parser import nearest_keys
from openvclip.utils.errors import ConfigError


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def failure(*args: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_cfg(*args)
    return str(caught.value)


PUBLISHED = """
TRAIN:
  ENABLE: True
  DATASET: kinetics
  BATCH_SIZE: 64
  CHECKPOINT_TYPE: pytorch
DATA:
  USE_OFFSET_SAMPLING: True
  DECODING_BACKEND: torchvision
  SAMPLING_RATE: 16
  TRAIN_JITTER_SCALES: [224, 256]
  TEST_CROP_SIZE: 224
  INPUT_CHANNEL_NUM: [3]
AUG:
  NUM_SAMPLE: 2
  AA_TYPE: rand-m7-n4-mstd0.5-inc1
BN:
  USE_PRECISE_STATS: False
  NUM_BATCHES_PRECISE: 200
SOLVER:
  CLIP_GRAD_L2NORM: 1.0
  BASE_LR: 1e-5
  COSINE_AFTER_WARMUP: True
  COSINE_END_LR: 1e-7
  WARMUP_START_LR: 1e-7
  WARMUP_EPOCHS: 1.0
  MAX_EPOCH: 12
  OPTIMIZING_METHOD: adamw
  COSINE_AFTER_WARMUP: True
MODEL:
  ARCH: vitl14
  DROPOUT_RATE: 0.5
  TEMPORAL_MODELING_TYPE: expand_temporal_view
TEST:
  NUM_SPATIAL_CROPS: 1
NUM_GPUS: 8
"""


def test_keys_of_published_files_and_scripts(tmp_path: Path) -> None:
    cfg = load_cfg(write(tmp_path, PUBLISHED), [
        "DATA.PATH_LABEL_SEPARATOR", ",", "TEST.CUSTOM_LOAD_FILE", "None", "TRAIN.ZS_CONS", "False",
        "SOLVER.BASE_LR", "3.33e-6", "SOLVER.WARMUP_EPOCHS", "2", "TRAIN.EWC_LOAD_FILE", "None",
        "MODEL.TEMPORAL_MODELING_TYPE", "'channel_shift'", "MODEL.FC_INIT_STD", "0.02",
        "MVIT.PATCH_STRIDE", "[2, 4, 4]", "AVA.FRAME_DIR", "/some/where",
        "CONTRASTIVE.DELTA_CLIPS_MAX", "inf",
    ])
    assert cfg.is_frozen() and cfg.SOLVER.is_frozen()
    assert cfg.SOLVER.BASE_LR == 3.33e-6
    assert cfg.SOLVER.COSINE_END_LR == 1e-7
    assert cfg.SOLVER.WARMUP_EPOCHS == 2.0 and isinstance(cfg.SOLVER.WARMUP_EPOCHS, float)
    assert cfg.SOLVER.CLIP_GRAD_L2NORM == 1.0
    assert cfg.MODEL.TEMPORAL_MODELING_TYPE == "channel_shift"
    assert cfg.TEST.CUSTOM_LOAD_FILE is None
    assert cfg.DATA.INPUT_CHANNEL_NUM == [3]
    assert "BN" not in cfg


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.BASE_LR", "1e-5", 1e-5),
    ("SOLVER.BASE_LR", ".5", 0.5),
    ("SOLVER.CLIP_GRAD_VAL", "1", 1.0),
    ("SOLVER.CLIP_GRAD_VAL", "None", None),
    ("SOLVER.BETAS", "[0.8, 0.9]", (0.8, 0.9)),
    ("DATA.MEAN", "(0, 0.5, 1)", [0.0, 0.5, 1.0]),
    ("DATA.PATH_PREFIX", "None", ""),
    ("DATA.PATH_PREFIX", "123", "123"),
    ("DATA.PATH_LABEL_SEPARATOR", "'\\t'", "\t"),
    ("DATA.PATH_LABEL_SEPARATOR", " ", " "),
    ("TRAIN.AUTO_RESUME", "false", False),
    ("TRAIN.CLIP_ORI_PATH", "0.5", "0.5"),
    ("TRAIN.CLIP_ORI_PATH", "None", None),
    ("DATA.INDEX_LABEL_MAPPING_FILE", "/a b/it's.json", "/a b/it's.json"),
])
def test_values_of_options(key: str, value: str, expected: object) -> None:
    cfg = load_cfg(None, ["SOLVER.OPTIMIZING_METHOD", "adamw", key, value])
    for name in key.split("."):
        cfg = cfg[name]
    assert cfg == expected and type(cfg) is type(expected)


@pytest.mark.parametrize(("key", "value", "found", "wanted"), [
    ("TRAIN.BATCH_SIZE", "lots", "str", "an int"),
    ("TRAIN.BATCH_SIZE", "8.5", "float", "an int"),
    ("TRAIN.BATCH_SIZE", "True", "bool", "an int"),
    ("TRAIN.BATCH_SIZE", "None", "NoneType", "an int"),
    ("SOLVER.BASE_LR", "True", "bool", "a number"),
    ("SOLVER.CLIP_GRAD_L2NORM", "big", "str", "a number or None"),
    ("TRAIN.ENABLE", "1", "int", "True or False"),
    ("TRAIN.ENABLE", "yes please", "str", "True or False"),
    ("DATA.MEAN", "0.5", "float", "a list of numbers"),
    ("DATA.MEAN", "[a, b, c]", "list", "a list of numbers"),
    ("TEST.PATCHING_RATIOS", "0.5", "float", "a list of numbers"),
    ("SOLVER.STEPS", "[0, 1.5]", "list", "a list of ints"),
    ("BN.NUM_BATCHES_PRECISE", "many", "str", "an int"),
])
def test_wrong_types_say_what_was_found(key: str, value: str, found: str, wanted: str) -> None:
    message = failure(None, [key, value])
    assert "\n" not in message
    for part in (key, repr(value), f"({found})", wanted):
        assert part in message


def test_exponents_without_a_dot_in_files(tmp_path: Path) -> None:
    path = write(tmp_path, "SOLVER: {BASE_LR: 1e-5, WEIGHT_DECAY: 2E5, LRS: [1, 1e-1], "
                           "COSINE_END_LR: 1e-7}\n")
    solver = load_cfg(path).SOLVER
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.LRS) == (1e-5, 2e5, [1.0, 0.1])


def test_wrong_types_in_files(tmp_path: Path) -> None:
    path = write(tmp_path, "OUTPUT_DIR: 7\nTRAIN: {BATCH_SIZE: [1]}\nMODEL: {ARCH: null}\n")
    message = failure(path)
    assert "OUTPUT_DIR is 7 (int); a string" in message
    assert "TRAIN.BATCH_SIZE is [1] (list); an int" in message
    assert "MODEL.ARCH is None (NoneType); a string" in message
    assert message.count(str(path)) == 3


@pytest.mark.parametrize(("key", "nearest"), [
    ("TRAIN.BACH_SIZE", "TRAIN.BATCH_SIZE"),
    ("TRAIN.NUM_FRAMES", "DATA.NUM_FRAMES"),
    ("BASE_LR", "SOLVER.BASE_LR"),
    ("SOLVER.LR", "SOLVER.LRS"),
    ("train.batch_size", "TRAIN.BATCH_SIZE"),
    ("TEST.PATCHING", "TEST.PATCHING_MODEL"),
    ("MODEL.NUM_EXPERT", "MODEL.NUM_EXPERTS"),
    ("NUM_GPU", "NUM_GPUS"),
])
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    message = failure(None, [key, "8"])
    assert key in message and "'8'" in message
    assert nearest in message.split("nearest: ")[1].split(", ")


def test_an_unknown_key_with_no_neighbour() -> None:
    assert nearest_keys("QQQ.ZZZ", ["TRAIN.ENABLE"]) == []
    assert "defaults.py" in failure(None, ["QQQ.ZZZ", "1"])


@pytest.mark.parametrize(("key", "value", "off"), [
    ("BN.USE_PRECISE_STATS", "True", "False"),
    ("MULTIGRID.LONG_CYCLE", "True", "False"),
    ("TRAIN.CHECKPOINT_TYPE", "caffe2", "'pytorch'"),
    ("TRAIN.KILL_LOSS_EXPLOSION_FACTOR", "2", "0.0"),
    ("MVIT.DEPTH", "24", "16"),
    ("TENSORBOARD.MODEL_VIS.ENABLE", "True", "False"),
])
def test_what_is_not_built_is_refused_by_name(key: str, value: str, off: str) -> None:
    message = failure(None, [key, value])
    assert f"{key} is {value!r}: not implemented; only {off} is accepted" in message


def test_sections_are_not_values(tmp_path: Path) -> None:
    assert "TRAIN is a section" in failure(write(tmp_path, "TRAIN: 5\n"))
    assert "MVIT.NO_SUCH" in failure(None, ["MVIT.NO_SUCH", "1"])
    assert load_cfg(write(tmp_path, "TRAIN:\n  # ENABLE: False\nNUM_GPUS: 0\n")).NUM_GPUS == 0


def test_all_problems_come_together(tmp_path: Path) -> None:
    path = write(tmp_path, "TRAIN: {BATCHSIZE: 8}\n")
    message = failure(path, ["NUM_GPUS", "x", "SOLVER.LR", "1"])
    assert message.startswith("3 settings")
    assert f"{path}: TRAIN.BATCHSIZE" in message
    assert "--opts: NUM_GPUS" in message and "--opts: SOLVER.LR" in message


@pytest.mark.parametrize(("text", "part"), [
    ("TRAIN: [1\nDATA: 2\n", "line 2"),
    ("TRAIN:\n  ENABLE: True\n\tBATCH_SIZE: 3\n", "line 3"),
    ("- TRAIN\n", "list"),
    ("just words\n", "str"),
    ("NUM_GPUS: 1\nNUM_GPUS: 2\n", "NUM_GPUS is given twice"),
    ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "line 1"),
    ("? [1]\n: 2\n", "a key is not a name"),
    ("NUM_GPUS: \x00\n", "not a yaml file"),
])
def test_bad_files_name_file_and_line(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, text)
    message = failure(path)
    assert str(path) in message and part in message and "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such config file" in failure(tmp_path / "none.yaml")
    assert "cannot be read" in failure(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in failure(tmp_path / "bytes.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_cfg(write(tmp_path, "# nothing\n", "default.yaml")) == load_cfg()


def test_output_goes_to_a_folder_of_the_configs_name(tmp_path: Path) -> None:
    path = write(tmp_path, "NUM_GPUS: 0\n", "my run.v2.yaml")
    assert load_cfg(path).OUTPUT_DIR == "output/my run.v2"
    assert load_cfg(path, ["OUTPUT_DIR", "."]).OUTPUT_DIR == "."
    assert load_cfg(path, ["OUTPUT_DIR", "x/y"]).OUTPUT_DIR == "x/y"
    assert load_cfg(None).OUTPUT_DIR == "output/default"
    for name in ("...yaml", ".."):  # no name at all, and none that leads out of output/
        assert default_output_dir(tmp_path / name) == "output/default"
    # A file that says it, also through its base, is believed; the resolved config says it always.
    write(tmp_path, "OUTPUT_DIR: .\n", "base.yaml")
    assert load_cfg(write(tmp_path, "_BASE_: base.yaml\n", "child.yaml")).OUTPUT_DIR == "."
    resolved = write(tmp_path, load_cfg(path).dump(), "config.yaml")
    assert load_cfg(resolved).OUTPUT_DIR == "output/my run.v2"


def test_base_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "NUM_GPUS: 2\nTRAIN: {BATCH_SIZE: 4, EVAL_PERIOD: 3}\n", "base.yaml")
    child = write(tmp_path / "sub", "_BASE_: ../base.yaml\nTRAIN: {BATCH_SIZE: 6}\n")
    cfg = load_cfg(child)
    assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.EVAL_PERIOD) == (2, 6, 3)
    circle = write(tmp_path, "_BASE_: circle.yaml\n", "circle.yaml")
    assert "leads back" in failure(circle)


@pytest.mark.parametrize("argv", [
    ["--cfg", "a.yaml", "--opts", "NUM_GPUS", "0", "SOLVER.BASE_LR", "-1e-5"],
    ["--cfg", "a.yaml", "NUM_GPUS", "0", "SOLVER.BASE_LR", "-1e-5"],
    ["NUM_GPUS", "0", "--cfg=a.yaml", "SOLVER.BASE_LR=-1e-5"],
    ["--opts", "NUM_GPUS=0", "SOLVER.BASE_LR", "-1e-5", "--cfg", "a.yaml"],
])
def test_ways_to_give_options(argv: list[str]) -> None:
    args = parse_args(argv)
    assert args.cfg_file == "a.yaml"
    assert args.opts == ["NUM_GPUS", "0", "SOLVER.BASE_LR", "-1e-5"]
    assert args.init_method == "tcp://localhost:9999"
    assert args.shard_id is None and args.num_shards is None


def test_shards_on_the_command_line_win(tmp_path: Path) -> None:
    path = write(tmp_path, "NUM_SHARDS: 8\n")
    args = parse_args(["--cfg", str(path), "--shard_id", "1", "--num_shards", "2",
                       "--init_method", "tcp://h:1", "NUM_SHARDS", "4"])
    cfg = load_cfg(args.cfg_file, args.opts)
    assert (cfg.SHARD_ID, cfg.NUM_SHARDS, args.init_method) == (1, 2, "tcp://h:1")
    assert load_cfg(path, []).NUM_SHARDS == 8


@pytest.mark.parametrize(("argv", "part"), [
    ([], "--cfg FILE is missing"),
    (["NUM_GPUS", "0"], "--cfg FILE is missing"),
    (["--cfg"], "--cfg"),
    (["--cfg", "a.yaml", "--sharid", "1"], "--sharid"),
    (["--cfg", "a.yaml", "--shard_id", "one"], "--shard_id"),
    (["--cfg", "a.yaml", "NUM_GPUS", "--shard_id", "1"], "NUM_GPUS has no value"),
])
def test_bad_command_lines(argv: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_args(argv)
    assert part in str(caught.value)


def test_unpaired_and_blank_options() -> None:
    assert "TEST.ENABLE has no value" in failure(None, ["NUM_GPUS", "0", "TEST.ENABLE"])
    assert "backslash" in failure(None, ["NUM_GPUS", "0", " ", "TEST.ENABLE"])


@pytest.mark.parametrize("value", ["(" * 5000, "9" * 5000, "1" + "0" * 400, "{[]: 1}", "\x00"])
def test_monstrous_values_are_errors_not_crashes(value: str) -> None:
    assert "SOLVER.BASE_LR" in failure(None, ["SOLVER.BASE_LR", value])
