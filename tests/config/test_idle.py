"""Settings without effect: refused where they were asked for, named where they came along."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvclip.config import get_cfg, load_cfg
from openvclip.config.defaults import flatten
from openvclip.config.idle import HARMLESS, PAIRS, WEIGHTS, find_idle
from openvclip.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "configs/Kinetics/TemporalCLIP_vitb16_8x16_STAdapter.yaml"

# One of each pair: what is given, and what the message must name beside it.
ALONE = [
    (["TEST.CUSTOM_LOAD_FILE", "a.pyth"], "TEST.CUSTOM_LOAD True"),
    (["TEST.CUSTOM_LOAD", "False", "TEST.CUSTOM_LOAD_FILE", "a.pyth"], "TEST.CUSTOM_LOAD True"),
    (["TRAIN.CUSTOM_LOAD_FILE", "a.pyth"], "TRAIN.CUSTOM_LOAD True"),
    (["TEST.CHECKPOINT_FILE_PATH", "a", "TEST.CUSTOM_LOAD", "True",
      "TEST.CUSTOM_LOAD_FILE", "b"], "TEST.CUSTOM_LOAD False"),
    (["TRAIN.CUSTOM_LOAD", "True", "TRAIN.CUSTOM_LOAD_FILE", "a",
      "TRAIN.CHECKPOINT_FILE_PATH", "b"], "TRAIN.CHECKPOINT_FILE_PATH left out"),
    (["TRAIN.ENABLE", "False", "TRAIN.CUSTOM_LOAD", "True", "TRAIN.CUSTOM_LOAD_FILE", "a"],
     "TEST.CUSTOM_LOAD_FILE"),
    (["TRAIN.ENABLE", "False", "TRAIN.CHECKPOINT_FILE_PATH", "a"], "TEST.CHECKPOINT_FILE_PATH"),
    (["VAL_MODE", "True", "TEST.CUSTOM_LOAD", "True", "TEST.CUSTOM_LOAD_FILE", "a"],
     "VAL_MODE False"),
    (["TRAIN.CHECKPOINT_EPOCH_RESET", "True"], "TRAIN.CHECKPOINT_FILE_PATH"),
    (["TEST.PATCHING_RATIO", "0.3"], "TEST.PATCHING_MODEL True"),
    (["TEST.PATCHING_RATIO", "0.5"], "TEST.PATCHING_MODEL True"),
    (["TEST.PATCHING_RATIO", "0.0"], "TEST.PATCHING_MODEL True"),
    (["TRAIN.LINEAR_CONNECT_SAMPLE_L", "0.0"], "TRAIN.LINEAR_CONNECT_CLIMB True"),
    (["TRAIN.LINEAR_CONNECT_CHAIN_RULE", "True"], "TRAIN.LINEAR_CONNECT_CLIMB True"),
    (["TRAIN.CAPTION.FILE", "a"], "TRAIN.CAPTION.ENABLE True"),
    (["TRAIN.CAPTION.TEXT_TOWER", "trainable"], "TRAIN.CAPTION.ENABLE True"),
    (["MIXUP.ALPHA", "0.5"], "MIXUP.ENABLE True"),
    (["AUG.RE_PROB", "0.5"], "AUG.ENABLE True"),
    (["TRAIN.AMP_DTYPE", "float16"], "TEST.MIXED_PRECISION True"),
    (["MODEL.FINETUNE_FACTOR", "2"], "cross_frame_attend"),
    (["MODEL.ADAPT_FINETUNE_FACTOR", "0"], "stadapt_zeroinit"),
    (["MODEL.EXPERT_FINETUNE_FACTOR", "2"], "MODEL.NUM_EXPERTS over 0"),
    (["MODEL.ROUTING_FINETUNE_FACTOR", "0"], "MODEL.NUM_EXPERTS over 0"),
    (["MODEL.EXPERT_INSERT_LAYERS", "[1]"], "MODEL.NUM_EXPERTS over 0"),
    (["MODEL.ROUTING_FREQUENCE_CONSTRAIN", "0.9"], "MODEL.RECORD_ROUTING True"),
    (["MODEL.CLS_LOSS_RATIO", "0.5"], "MODEL.RECORD_ROUTING True"),
    (["SOLVER.LR_POLICY", "cosine", "SOLVER.STEPS", "[0, 5]"], None),
    (["SOLVER.STEPS", "[0, 5]", "SOLVER.LRS", "[1, 0.1]"], "steps_with_relative_lrs"),
    (["SOLVER.MOMENTUM", "0.8", "SOLVER.OPTIMIZING_METHOD", "adamw"], None),
    (["SOLVER.BETAS", "(0.9, 0.98)"], "SOLVER.OPTIMIZING_METHOD adam or adamw"),
    (["TEST.RETRIEVAL_FILE", "a.csv"], "TEST.TASK retrieval"),
    (["TEST.RETRIEVAL_SPLIT", "val"], "TEST.TASK retrieval"),
    (["TEST.TASK", "retrieval", "TEST.RETRIEVAL_FILE", "b.csv", "TEST_FILE", "a.csv"], None),
    (["DATA.CACHE_MAX_GB", "5"], "DATA.CACHE_DIR"),
    (["TENSORBOARD.HISTOGRAM.ENABLE", "True"], "TENSORBOARD.ENABLE True"),
]


@pytest.mark.parametrize(("opts", "needs"), ALONE, ids=[x[0][-2] for x in ALONE])
def test_a_setting_without_effect_on_the_command_line_is_refused(opts, needs):
    if needs is None:  # its switch is set beside it: accepted, and named in the log
        assert any(opts[i] in line for line in find_idle(load_cfg(None, opts)) for i in (0, 2))
        return
    with pytest.raises(ConfigError, match="has no effect without") as error:
        load_cfg(None, opts)
    text = str(error.value)
    assert needs in text and any(key in text for key in opts[0::2]) and "--opts" in text


@pytest.mark.parametrize(("opts", "remedy"), [
    (["TEST.CUSTOM_LOAD_FILE", "a.pyth"], "remove it, or set TEST.CUSTOM_LOAD True"),
    (["TEST.CUSTOM_LOAD", "True", "TEST.CUSTOM_LOAD_FILE", "b", "TEST.CHECKPOINT_FILE_PATH", "a"],
     "remove it, or set TEST.CUSTOM_LOAD False"),
])
def test_the_message_names_what_to_set(opts, remedy):
    with pytest.raises(ConfigError) as error:
        load_cfg(None, opts)
    assert str(error.value).endswith(remedy)


def test_needs_that_are_phrases_have_a_remedy_too():
    found = {pair.remedy for pair in PAIRS if pair.kind}
    assert {"set another TEST.TASK", "remove TEST.PATCHING_RATIOS", "set VAL_MODE False"} <= found
    assert not any("(" in text or "left out" in text for text in found)


def test_over_a_published_file_too():
    with pytest.raises(ConfigError, match="TEST.CUSTOM_LOAD_FILE is 'a.pyth', which has no effect"):
        load_cfg(PUBLISHED, ["TEST.CUSTOM_LOAD_FILE", "a.pyth"])
    with pytest.raises(ConfigError, match="TEST.PATCHING_RATIO is 0.5, which has no effect"):
        load_cfg(PUBLISHED, ["TEST.PATCHING_RATIO", "0.5"])


@pytest.mark.parametrize("opts", [
    ["TEST.CUSTOM_LOAD", "False", "TEST.CUSTOM_LOAD_FILE", "None", "TEST.PATCHING_MODEL", "True",
     "TEST.PATCHING_RATIO", "1.0", "TEST.CLIP_ORI_PATH", "a.pt"],  # published test of raw CLIP
    ["TEST.PATCHING_RATIO", "0.3", "TEST.PATCHING_MODEL", "True"],
    ["TEST.PATCHING_RATIO", "0.3", "TEST.PATCHING_MODEL", "False"],
    ["TEST.PATCHING_RATIO", "0.5", "TEST.PATCHING_MODEL", "True", "TEST.PATCHING_RATIOS", "[0.1]"],
    ["TRAIN.LINEAR_CONNECT_CLIMB", "False", "TRAIN.LINEAR_CONNECT_SAMPLE_L", "0.0"],
    ["MIXUP.ENABLE", "False", "MIXUP.ALPHA", "0.1", "AUG.ENABLE", "False", "AUG.NUM_SAMPLE", "1"],
    ["TRAIN.CHECKPOINT_EPOCH_RESET", "False"],
    ["TEST.NUM_TEMPORAL_CLIPS", "[1,2]", "TEST.NUM_ENSEMBLE_VIEWS", "3"],
    ["SOLVER.WARMUP_START_LR", "1e-6"],
    ["VAL_MODE", "True", "TEST.PATCHING_MODEL", "True", "TEST.PATCHING_RATIO", "0.3",
     "TRAIN.CUSTOM_LOAD", "True", "TRAIN.CUSTOM_LOAD_FILE", "a"],
], ids=lambda opts: opts[-2])
def test_what_has_an_effect_or_is_switched_off_beside_it_is_accepted(opts):
    load_cfg(None, opts)
    load_cfg(PUBLISHED, opts)


def test_what_a_published_file_carries_is_accepted_and_named(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(
        "TRAIN: {CHECKPOINT_EPOCH_RESET: True}\n"  # as in the published file of SSv2
        "AUG: {ENABLE: False, NUM_SAMPLE: 2, AA_TYPE: rand-m7-n4-mstd0.5-inc1}\n"
        "SOLVER: {OPTIMIZING_METHOD: adamw, MOMENTUM: 0.8}\n"
        "MODEL: {DROPOUT_RATE: 0.1}\n")
    found = find_idle(load_cfg(path))
    assert [line.split(" ")[0] for line in found] == [
        "TRAIN.CHECKPOINT_EPOCH_RESET", "AUG.AA_TYPE", "SOLVER.MOMENTUM", "MODEL.DROPOUT_RATE"]
    assert found[1] == ("AUG.AA_TYPE rand-m7-n4-mstd0.5-inc1: no effect without AUG.ENABLE True")
    assert find_idle(load_cfg(PUBLISHED)) == []
    plain = find_idle(load_cfg(PUBLISHED, ["TRAIN.LINEAR_CONNECT_CLIMB", "False"]))
    assert len(plain) == 2 and all("LINEAR_CONNECT_CLIMB" in line for line in plain)


@pytest.mark.parametrize("content", [
    "TEST: {CUSTOM_LOAD_FILE: a.pyth}", "TEST: {PATCHING_RATIO: 0.3}",
    "TRAIN: {CUSTOM_LOAD_FILE: a.pyth}", "TRAIN: {CAPTION: {FILE: a}}",
    "TEST: {RETRIEVAL_FILE: a.csv}",
])
def test_a_file_that_forgets_the_switch_is_refused(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="own.yaml: .* has no effect without"):
        load_cfg(path)


def test_a_resolved_config_of_an_earlier_run_is_accepted(tmp_path):
    cfg = get_cfg()
    cfg.TEST.CUSTOM_LOAD_FILE, cfg.TEST.PATCHING_RATIO = "a.pyth", 0.3
    cfg.MIXUP.ALPHA, cfg.TRAIN.CAPTION.FILE = 0.1, "captions.sqlite"
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    assert len(find_idle(load_cfg(path))) == 4
    load_cfg(path, ["VAL_MODE", "True"])


def test_every_key_of_the_table_exists_and_none_is_without_effect_at_its_default():
    flat = flatten(get_cfg())
    assert {key for pair in PAIRS for key in (*pair.keys, *pair.switches)} <= set(flat)
    assert find_idle(load_cfg()) == []
    assert all(HARMLESS <= pair.kind <= WEIGHTS for pair in PAIRS)
