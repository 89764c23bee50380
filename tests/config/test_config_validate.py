"""Each rule refuses what breaks it, by name, and passes what does not."""

from __future__ import annotations

import re

import pytest

from openvclip.config import get_cfg, load_cfg
from openvclip.config.auto import KEYS as AUTO_KEYS
from openvclip.config.defaults import flatten
from openvclip.config.doors import TEMPORAL
from openvclip.config.validate import (
    CHOICES,
    DATASETS,
    LENGTHS,
    POSITIVE,
    RANGES,
    find_problems,
)
from openvclip.utils.errors import ConfigError

RETRIEVAL = ["TEST.TASK", "retrieval", "TEST.RETRIEVAL_FILE", "pairs.json"]
ADAMW = ["SOLVER.OPTIMIZING_METHOD", "adamw"]


def failure(*opts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_cfg(None, list(opts))
    return str(caught.value)


def test_the_defaults_are_fit_to_run() -> None:
    assert find_problems(get_cfg()) == []


def test_tables_name_existing_keys() -> None:
    tables = {*CHOICES, *DATASETS, *LENGTHS, *POSITIVE, *RANGES}
    assert tables <= set(flatten(get_cfg()))


@pytest.mark.parametrize("key", sorted(RANGES))
def test_every_range_is_checked_at_both_ends(key: str) -> None:
    default = flatten(get_cfg())[key]
    for limit, step in zip(RANGES[key], (-1, 1), strict=True):
        if limit is None:
            continue
        beyond = limit + step
        value = [beyond] * max(1, len(default)) if isinstance(default, list) else beyond
        message = failure(key, str(value))
        assert f"{key} is" in message and "must be" in message


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_every_choice_is_checked(key: str) -> None:
    wrong = {bool: str(not CHOICES[key][0]), int: "7"}.get(type(CHOICES[key][0]), "bogus")
    assert f"{key} is " in failure(key, wrong)


@pytest.mark.parametrize("kind", TEMPORAL.names())
def test_every_temporal_type_is_accepted(kind: str | None) -> None:
    cfg = load_cfg(None, ["MODEL.TEMPORAL_MODELING_TYPE", str(kind)])
    assert kind == cfg.MODEL.TEMPORAL_MODELING_TYPE


@pytest.mark.parametrize(("opts", "parts"), [
    (["SOLVER.BASE_LR", ".nan"], ["SOLVER.BASE_LR", "finite"]),
    (["SOLVER.BASE_LR", "1e999"], ["SOLVER.BASE_LR", "finite"]),
    (["DATA.MEAN", "[.nan, 0, 0]"], ["DATA.MEAN", "finite"]),
    (["DATA.STD", "[0, 1, 1]"], ["DATA.STD", "greater than 0"]),
    (["DATA.MEAN", "[0.5]"], ["DATA.MEAN", "3 elements"]),
    (["OUTPUT_DIR", ""], ["OUTPUT_DIR", "empty"]),
    (["DATA.PATH_LABEL_SEPARATOR", ""], ["DATA.PATH_LABEL_SEPARATOR", "empty"]),
    (["SHARD_ID", "1"], ["SHARD_ID", "NUM_SHARDS 1"]),
    (["TRAIN.CHECKPOINT_KEEP_LAST", "3"], ["averaging", "TRAIN.CHECKPOINT_KEEP_RANGE [2,22]"]),
    (["TRAIN.CHECKPOINT_KEEP_EVERY", "3"], ["TRAIN.CHECKPOINT_KEEP_LAST is 0"]),
    (["TRAIN.CHECKPOINT_KEEP_RANGE", "[2,22]"], ["TRAIN.CHECKPOINT_KEEP_LAST is 0"]),
    (["TRAIN.CHECKPOINT_KEEP_LAST", "3", "TRAIN.CHECKPOINT_KEEP_RANGE", "[5,2]"],
     ["TRAIN.CHECKPOINT_KEEP_RANGE", "must not exceed"]),
    (["TRAIN.CHECKPOINT_KEEP_LAST", "3", "TRAIN.CHECKPOINT_KEEP_RANGE", "[5]"],
     ["TRAIN.CHECKPOINT_KEEP_RANGE", "0 or 2 elements"]),
    (["NUM_GPUS", "3", "TEST.ENABLE", "False"], ["TRAIN.BATCH_SIZE", "3 processes"]),
    (["NUM_GPUS", "16", "TRAIN.ENABLE", "False"], ["TEST.BATCH_SIZE is 8", "16 processes"]),
    (["DATA.TRAIN_JITTER_SCALES", "[320, 256]"], ["DATA.TRAIN_JITTER_SCALES", "exceed"]),
    (["DATA.TRAIN_CROP_SIZE", "300"], ["DATA.TRAIN_CROP_SIZE", "too small"]),
    (["DATA.TEST_CROP_SIZE", "300", "TEST.NUM_SPATIAL_CROPS", "1"], ["DATA.TEST_CROP_SIZE"]),
    (["DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.1, 1]"], ["ASPECT_RELATIVE", "needs both"]),
    (["DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.1, 2]",
      "DATA.TRAIN_JITTER_ASPECT_RELATIVE", "[0.7, 1.3]"], ["larger than the frame"]),
    (["DATA.MULTI_LABEL", "True"], ["MODEL.LOSS_FUNC", "bce_logit"]),
    (["MODEL.LOSS_FUNC", "bce"], ["MODEL.LOSS_FUNC", "MULTI_LABEL False"]),
    (["DATA.RESIZE_MODE", "squash"], ["TEST.NUM_SPATIAL_CROPS is 3", "squash"]),
    (["DATA.RESIZE_MODE", "longest", "TEST.ENABLE", "False", "DATA.TRAIN_CROP_SIZE", "150"],
     ["DATA.TRAIN_JITTER_SCALES", "could miss the frame", "below 300"]),
    (["DATA.FILL_COLOR", "128"], ["DATA.FILL_COLOR", "DATA.RESIZE_MODE longest"]),
    (["DATA.RESIZE_MODE", "crop"], ["DATA.RESIZE_MODE", "'squash'"]),
    (["DATA.MEAN", "automatic"], ["DATA.MEAN", "a list of numbers", "or auto"]),
    (["DATA.NUM_FRAMES", "auto"], ["DATA.NUM_FRAMES", "an int is expected"]),
    (["MIXUP.ENABLE", "True"], ["MODEL.LOSS_FUNC", "soft_cross_entropy"]),
    (["MIXUP.ENABLE", "True", "MODEL.LOSS_FUNC", "soft_cross_entropy", "MIXUP.ALPHA", "0",
      "MIXUP.CUTMIX_ALPHA", "0"], ["MIXUP.ALPHA 0"]),
    (["AUG.ENABLE", "True", "AUG.AA_TYPE", "augmix-m5"], ["AUG.AA_TYPE", "RandAugment"]),
    (["AUG.ENABLE", "True", "AUG.RE_SPLIT", "True"], ["AUG.RE_SPLIT is True, but has no effect"]),
    (["AUG.ENABLE", "True", "AUG.COLOR_JITTER", "0.2"], ["AUG.COLOR_JITTER is 0.2, but has no"]),
    (["MODEL.MODEL_NAME", "BasicClipVideo", "MODEL.TEMPORAL_MODELING_TYPE", "channel_shift"],
     ["BasicClipVideo"]),
    (["MODEL.TEXT_TEMPLATES", "opneai"], ["MODEL.TEXT_TEMPLATES", "openai_imagenet80"]),
    (["MODEL.TEXT_TEMPLATES", ""], ["MODEL.TEXT_TEMPLATES", "empty"]),
    (["MODEL.TEXT_TEMPLATES", "name_only", "MODEL.CLASS_DESCRIPTIONS", "a.json"],
     ["MODEL.TEXT_TEMPLATES", "CLASS_DESCRIPTIONS"]),
    (["TRAIN.CUSTOM_LOAD", "True"], ["TRAIN.CUSTOM_LOAD_FILE"]),
    (["TEST.CUSTOM_LOAD", "True"], ["TEST.CUSTOM_LOAD_FILE"]),
    (["TEST.TASK", "retrieval"], ["TEST.RETRIEVAL_FILE is empty", "retrieval"]),
    ([*RETRIEVAL, "TEST.OPENSET", "True"], ["TEST.OPENSET is True", "TEST.RETRIEVAL_FILE"]),
    ([*RETRIEVAL, "DATA.ENSEMBLE_METHOD", "max"], ["DATA.ENSEMBLE_METHOD is 'max'", "retrieval"]),
    (["TEST.TASK", "retrieve"], ["TEST.TASK", "nearest: retrieval"]),
    (["TRAIN.LINEAR_CONNECT_SAMPLE_L", "0.7"], ["TRAIN.LINEAR_CONNECT_SAMPLE_R"]),
    (["TRAIN.LINEAR_CONNECT_CLIMB", "True", "TRAIN.LINEAR_CONNECT_LOSS_RATIO", "0"],
     ["LINEAR_CONNECT_LOSS_RATIO"]),
    (["SOLVER.WARMUP_EPOCHS", "301"], ["SOLVER.WARMUP_EPOCHS", "300"]),
    (["SOLVER.WARMUP_EPOCHS", "2", "SOLVER.BASE_LR", "1e-5"], ["SOLVER.WARMUP_START_LR"]),
    (["SOLVER.COSINE_END_LR", "1.0"], ["SOLVER.COSINE_END_LR"]),
    (["SOLVER.LR_POLICY", "steps_with_relative_lrs"], ["SOLVER.STEPS", "at least one"]),
    (["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "[0, 5]",
      "SOLVER.LRS", "[1]"], ["SOLVER.LRS"]),
    (["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "[1, 5]",
      "SOLVER.LRS", "[1, 0.1]"], ["begin with 0"]),
    (["SOLVER.BETAS", "(0.9, 1.0)"], ["SOLVER.BETAS"]),
    (["SOLVER.MOMENTUM", "0"], ["SOLVER.NESTEROV"]),
    (["SOLVER.CLIP_GRAD_VAL", "1", "SOLVER.CLIP_GRAD_L2NORM", "1"], ["both set"]),
    (["SOLVER.CLIP_GRAD_L2NORM", "0"], ["SOLVER.CLIP_GRAD_L2NORM", "greater than 0"]),
    (["TRAIN.DATASET", "kinetic"], ["TRAIN.DATASET", "'kinetics'"]),
    (["DATA.DECODING_BACKEND", "decord"], ["decord", "pyav"]),
    (["DATA.DECODING_BACKEND", "torchcodec"], ["'torchcodec' was removed", "give 'pyav'"]),
    (["MODEL.ARCH", "vit_b16"], ["nearest: vitb16"]),
])
def test_each_rule_refuses(opts: list[str], parts: list[str]) -> None:
    message = failure(*opts)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("opts", [
    ["TRAIN.DATASET", "Kinetics"],
    ["NUM_GPUS", "3", "TRAIN.ENABLE", "False", "TEST.BATCH_SIZE", "9"],
    ["NUM_GPUS", "0"],
    ["SOLVER.COSINE_END_LR", "0.1"],
    ["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "[0, 5]",
     "SOLVER.LRS", "[1, 0.1]"],
    ["SOLVER.MOMENTUM", "0", *ADAMW],
    ["DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "bce_logit"],
    ["DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "sigmoid"],
    ["MODEL.LOSS_FUNC", "sigmoid"],
    [x for key in AUTO_KEYS for x in (key, "auto")],
    ["MIXUP.ENABLE", "True", "MODEL.LOSS_FUNC", "soft_cross_entropy"],
    ["TEST.PATCHING_RATIOS", "[0, 0.5, 1]"],
    ["TRAIN.CUSTOM_LOAD", "True", "TRAIN.CUSTOM_LOAD_FILE", "a.pyth"],
    ["DATA.TRAIN_CROP_SIZE", "300", "TRAIN.ENABLE", "False"],
    RETRIEVAL,
    ["TEST.TASK", "retrieval", "TEST.ENABLE", "False"],
])
def test_what_no_rule_forbids(opts: list[str]) -> None:
    assert load_cfg(None, opts).is_frozen()


def test_every_broken_rule_is_reported_at_once() -> None:
    message = failure("NUM_SHARDS", "0", "TEST.PATCHING_RATIO", "1.5", "MODEL.ARCH", "resnet")
    for key in ("NUM_SHARDS is 0", "TEST.PATCHING_RATIO is 1.5", "MODEL.ARCH is 'resnet'"):
        assert message.count(f"- {key}") == 1


CAPTIONS = ["TRAIN.CAPTION.ENABLE", "True", "TRAIN.CAPTION.FILE", "captions.sqlite"]


@pytest.mark.parametrize(("opts", "said"), [
    (["TRAIN.CAPTION.FILE", ""], "TRAIN.CAPTION.FILE is empty"),
    (["TRAIN.CAPTION.LOSS_RATIO", "0.0"], "TRAIN.CAPTION.LOSS_RATIO is 0.0"),
    (["MIXUP.ENABLE", "True", "MODEL.LOSS_FUNC", "soft_cross_entropy"], "MIXUP.ENABLE is True"),
    (["AUG.NUM_SAMPLE", "2"], "AUG.NUM_SAMPLE is 2"),
    (["TRAIN.LINEAR_CONNECT_PER_RANK", "True", "TRAIN.LINEAR_CONNECT_CLIMB", "True"],
     "TRAIN.LINEAR_CONNECT_PER_RANK is True"),
    (["TUNE_HEAD", "True", "TRAIN.CAPTION.TEXT_TOWER", "trainable"], "TUNE_HEAD is True"),
    (["TRAIN.CAPTION.TEXT_TOWER", "train"], "TRAIN.CAPTION.TEXT_TOWER is 'train'.*trainable"),
    (["TRAIN.CAPTION.SAMPLE", "last"], "TRAIN.CAPTION.SAMPLE is 'last'.*'first'"),
])
def test_what_captions_do_not_go_with(opts: list[str], said: str) -> None:
    load_cfg(None, CAPTIONS)
    assert re.search(said, failure(*CAPTIONS, *opts), re.DOTALL)
    if "CAPTION" not in opts[0] and len(opts) == 2:
        load_cfg(None, opts)


@pytest.mark.parametrize("opts", [
    ["MODEL.STATIC_GRAPH", "True"],
    ["TRAIN.LINEAR_CONNECT_PER_RANK", "True", "TRAIN.LINEAR_CONNECT_CLIMB", "True"],
    ["TRAIN.AMP_DTYPE", "float16", "TRAIN.MIXED_PRECISION", "True"],
])
def test_what_sharding_does_not_go_with(opts: list[str]) -> None:
    load_cfg(None, opts)
    assert re.search(rf"{opts[0]} is .*fsdp", failure("TRAIN.SHARDING", "fsdp", *opts))
