"""Every documented key exists with its default, and a dump reads back equal."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openvclip.config import get_cfg, load_cfg
from openvclip.config.defaults import flatten
from openvclip.config.idle import BY_DEFAULT

ROOT = Path(__file__).resolve().parents[2]

# Section, then "NAME value" pairs: the keys that published scripts rely on.
DOCUMENTED = {
    "": "NUM_GPUS 1; NUM_SHARDS 1; SHARD_ID 0; OUTPUT_DIR 'output/default'; RNG_SEED 1;"
        "LOG_PERIOD 10; LOG_MODEL_INFO True; DIST_BACKEND 'nccl'; TASK ''; VAL_MODE False;"
        "TUNE_HEAD False; EXTENSIONS [];"
        "TRAIN_FILE 'train.csv'; VAL_FILE 'val.csv'; TEST_FILE 'test.csv'",
    "DATA": "PATH_TO_DATA_DIR ''; PATH_PREFIX ''; PATH_LABEL_SEPARATOR ' ';"
        "INDEX_LABEL_MAPPING_FILE ''; NUM_FRAMES 8; SAMPLING_RATE 8; TARGET_FPS 30;"
        "TRAIN_JITTER_FPS 0.0; TRAIN_JITTER_SCALES [256,320]; TRAIN_JITTER_SCALES_RELATIVE [];"
        "TRAIN_JITTER_ASPECT_RELATIVE []; TRAIN_CROP_SIZE 224; TEST_CROP_SIZE 256;"
        "INPUT_CHANNEL_NUM [3,3]; MEAN [.45,.45,.45]; STD [.225,.225,.225]; RANDOM_FLIP True;"
        "INV_UNIFORM_SAMPLE False; USE_OFFSET_SAMPLING False; MULTI_LABEL False;"
        "ENSEMBLE_METHOD 'sum'; REVERSE_INPUT_CHANNEL False; DECODING_BACKEND 'torchvision';"
        "SAMPLING_COMPAT 'published'; VAL_RANDOM False; MAX_BAD_FRACTION 0.01; CACHE_DIR ''; "
        "CACHE_MAX_GB 100.0; RESIZE_MODE 'shortest'; INTERPOLATION 'bilinear'; FILL_COLOR 0",
    "AUG": "ENABLE False; NUM_SAMPLE 1; COLOR_JITTER 0.4; AA_TYPE 'rand-m9-mstd0.5-inc1';"
        "INTERPOLATION 'bicubic'; RE_PROB 0.25; RE_MODE 'pixel'; RE_COUNT 1; RE_SPLIT False",
    "MIXUP": "ENABLE False; ALPHA 0.8; CUTMIX_ALPHA 1.0; PROB 1.0; SWITCH_PROB 0.5;"
        "LABEL_SMOOTH_VALUE 0.1",
    "MODEL": "ARCH 'vitb16'; MODEL_NAME 'TemporalClipVideo'; NUM_CLASSES 400;"
        "LOSS_FUNC 'cross_entropy'; TEMPORAL_MODELING_TYPE None; USE_CHECKPOINT False;"
        "STATIC_GRAPH False; CONTEXT_LENGTH 77; DROPOUT_RATE 0.5; FINETUNE_FACTOR 1.0;"
        "ADAPT_FINETUNE_FACTOR 1.0; MLP_FINETUNE_FACTOR 1.0; DEFAULT_FINETUNE_FACTOR 1.0;"
        "EXPERT_FINETUNE_FACTOR 1.0; ROUTING_FINETUNE_FACTOR 1.0; NUM_EXPERTS 0;"
        "EXPERT_INSERT_LAYERS [10,11]; ROUTING_TYPE 'patch-level'; RECORD_ROUTING False;"
        "LOSS_FREQ_TYPE 'mse'; ROUTING_FREQUENCE_CONSTRAIN 0.5; ROUTING_FREQ_CONS_FACTOR 1.0;"
        "CLS_LOSS_RATIO 1.0; CLIP_PATH ''; TEXT_CACHE_DIR '';"
        "BACKBONE 'auto'; TEMPORAL_EDGES 'zeros'; COMPILE False;"
        "TEXT_TEMPLATES 'openvclip28'; CLASS_DESCRIPTIONS ''",
    "TRAIN": "ENABLE True; DATASET 'kinetics'; BATCH_SIZE 64; EVAL_PERIOD 10;"
        "CHECKPOINT_PERIOD 10; AUTO_RESUME True; CHECKPOINT_FILE_PATH '';"
        "CHECKPOINT_EPOCH_RESET False; MIXED_PRECISION False; CUSTOM_LOAD False;"
        "CUSTOM_LOAD_FILE None; CLIP_ORI_PATH None; LINEAR_CONNECT_CLIMB False;"
        "LINEAR_CONNECT_LOSS_RATIO 1.0; LINEAR_CONNECT_SAMPLE_L 0.4; LINEAR_CONNECT_SAMPLE_R 0.6;"
        "LINEAR_CONNECT_SAMPLE True; LINEAR_CONNECT_CHAIN_RULE False;"
        "LINEAR_CONNECT_PER_RANK False; AMP_DTYPE 'auto'; GRAD_ACCUM_STEPS 1; SHARDING 'ddp';"
        "CHECKPOINT_ITERS 0; CHECKPOINT_KEEP_LAST 0; CHECKPOINT_KEEP_EVERY 0;"
        "CHECKPOINT_KEEP_RANGE []; EVAL_PATCHING_RATIO 0.0; CAPTION.ENABLE False; CAPTION.FILE '';"
        "CAPTION.LOSS_RATIO 1.0; CAPTION.TEXT_TOWER 'frozen'; CAPTION.SAMPLE 'random';"
        "CAPTION.LOSS 'contrastive';"
        "OBJECTIVES []",
    "TEST": "ENABLE True; DATASET 'kinetics'; BATCH_SIZE 8; CHECKPOINT_FILE_PATH '';"
        "NUM_ENSEMBLE_VIEWS 10; NUM_SPATIAL_CROPS 3; NUM_TEMPORAL_CLIPS []; SAVE_RESULTS_PATH '';"
        "CUSTOM_LOAD False; CUSTOM_LOAD_FILE None; OPENSET False; PATCHING_MODEL False;"
        "PATCHING_RATIO 0.5; CLIP_ORI_PATH None; UPDATE_STATE False; PATCHING_RATIOS [];"
        "RESUME False; TASK 'classification'; RETRIEVAL_FILE ''; RETRIEVAL_SPLIT 'test';"
        "MIXED_PRECISION False",
    "SOLVER": "BASE_LR 0.1; LR_POLICY 'cosine'; COSINE_END_LR 0.0; MAX_EPOCH 300; MOMENTUM 0.9;"
        "DAMPENING 0.0; NESTEROV True; WEIGHT_DECAY 1e-4; WARMUP_EPOCHS 0.0;"
        "WARMUP_START_LR 0.01; OPTIMIZING_METHOD 'sgd'; BASE_LR_SCALE_NUM_SHARDS False;"
        "COSINE_AFTER_WARMUP False; ZERO_WD_1D_PARAM False; CLIP_GRAD_VAL None;"
        "CLIP_GRAD_L2NORM None; BETAS (0.9,0.999); COSINE_RESTART_EPOCH 0; STEPS []; LRS [];"
        "GAMMA 0.1",
    "DATA_LOADER": "NUM_WORKERS 8; PIN_MEMORY True; ENABLE_MULTI_THREAD_DECODE False",
    "TENSORBOARD": "ENABLE False; LOG_DIR ''; CLASS_NAMES_PATH ''; CONFUSION_MATRIX.ENABLE False;"
        "HISTOGRAM.ENABLE False; WRONG_PRED_VIS.ENABLE False",
}

# Of the objectives, one family a line.
METHODS = (
    "TRAIN.LORA.ENABLE False; TRAIN.LORA.RANK 8; TRAIN.LORA.ALPHA 8.0;"
    "TRAIN.LORA.TARGETS ['q','v']",
    "TRAIN.LP_FT.ENABLE False; TRAIN.LP_FT.EPOCHS 1; TRAIN.LP_FT.LR_FACTOR 1.0",
    "MODEL.KEEP_RAW_MODEL False; MODEL.RAW_MODEL_DISTILLATION False; MODEL.DISTILLATION_RATIO 1.0;"
    "MODEL.ENSEMBLE_PRED False; MODEL.ENSEMBLE_RAWMODEL_RATIO 0.0",
    "TRAIN.EMA.ENABLE False; TRAIN.EMA.DECAY 0.9999; TRAIN.EMA.WARMUP True; TEST.WEIGHTS 'current';"
    "TRAIN.LINEAR_CONNECT_ANCHOR 'clip'",
    "TRAIN.EWC_SET False; TRAIN.EWC_CONSTRAIN_RATIO 1.0; TRAIN.EWC_LOAD_FILE None;"
    "TRAIN.EWC_IDENTITY_FISHER False; TRAIN.EWC_IGNORE_LOGIT_SCALE False;"
    "TRAIN.L2SP.ENABLE False; TRAIN.L2SP.ALPHA 0.1; TRAIN.L2SP.BETA 0.01;"
    "TRAIN.ZS_CONS False; TRAIN.ZS_INIT_CONS False; TRAIN.ZS_RESTART_CONS False;"
    "TRAIN.ZS_RESTART_EPOCH -1; TRAIN.ZS_CONS_RATIO 0.8; TRAIN.ADAPT_ZS_CONS_RATIO False;"
    "TRAIN.ZS_CONS_ANCHOR 'clip'",
    "MODEL.TEXT_TOWER 'frozen'; MODEL.TEXT_SAMPLE 0; MODEL.TEXT_CHUNK 256;"
    "MODEL.TEXT_PROMPT False; MODEL.PROMPT_NUM 1;"
    "MODEL.PROMPT_FINETUNE_FACTOR 1.0",
    "TRAIN.LIPSUM.RATIO 1.0; TRAIN.LIPSUM.TEXTS 80; TRAIN.LIPSUM.LENGTH 8",
    "TRAIN.FROSTER.RATIO 2.0",
)


def test_every_documented_key_has_its_default() -> None:
    expected = {}
    for section, text in (*DOCUMENTED.items(), *(("", text) for text in METHODS)):
        for item in text.split(";"):
            name, value = item.strip().split(" ", 1)
            expected[f"{section}.{name}" if section else name] = ast.literal_eval(value)
    found = flatten(get_cfg())
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in expected.items()
    }


def test_every_key_is_commented() -> None:
    files = [ROOT / "openvclip" / "config" / "defaults.py",
             *(ROOT / "openvclip" / "training" / "objectives" / "keys").glob("*.py")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    bare = [
        line for above, line in zip(lines, lines[1:], strict=False)
        if re.match(r"_C\.|    \"[A-Z_.]+\": [^(]*,$", line) and "CfgNode()" not in line
        and "  # " not in line and not above.lstrip().startswith("#")
    ]
    assert bare == []


def test_get_cfg_is_a_fresh_copy() -> None:
    cfg = get_cfg()
    cfg.TRAIN.BATCH_SIZE = 1
    cfg.DATA.MEAN[0] = 0.0
    assert get_cfg().TRAIN.BATCH_SIZE == 64
    assert get_cfg().DATA.MEAN == [0.45, 0.45, 0.45]


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    cfg = load_cfg(None, [
        "SOLVER.BASE_LR", "3.33e-6", "SOLVER.COSINE_END_LR", "1e-8", "SOLVER.BETAS", "(0.9,0.98)",
        "SOLVER.OPTIMIZING_METHOD", "adamw",
        "DATA.PATH_LABEL_SEPARATOR", ",", "TEST.PATCHING_MODEL", "True",
        "TEST.PATCHING_RATIOS", "[0.0,0.3,0.5]", "SOLVER.CLIP_GRAD_L2NORM", "1.0",
        "MODEL.TEMPORAL_MODELING_TYPE", "expand_temporal_view", "OUTPUT_DIR", "2026-01-01",
        "TRAIN.CLIP_ORI_PATH", "1e-5", "DATA.PATH_PREFIX", "None of these: yes #1",
        "MODEL.CLIP_PATH", "null",
    ])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump(), encoding="utf-8")
    again = load_cfg(path)
    assert flatten(again) == flatten(cfg)
    assert again.dump() == cfg.dump()
    assert again.TRAIN.CLIP_ORI_PATH == "1e-5"
    assert again.SOLVER.BETAS == (0.9, 0.98)


@pytest.mark.parametrize("key", sorted(flatten(get_cfg())))
def test_each_default_passes_through_the_command_line(key: str) -> None:
    value = flatten(get_cfg())[key]
    needed = ["TEST.PATCHING_MODEL", "True"] if key in BY_DEFAULT else []
    assert flatten(load_cfg(None, [key, str(value), *needed]))[key] == value


def test_config_does_not_import_torch() -> None:
    code = "import sys, openvclip.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
