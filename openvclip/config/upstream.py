"""Keys of PySlowFast and Open-VCLIP that nothing here reads.

Published yaml files, scripts and the configs stored in published checkpoints set them, so they
must not stop a run; but a run that *needs* one of them must not start as if it were supported. They
are therefore checked and then dropped: they never enter the config.
"""

from __future__ import annotations


def _name(sections: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return sections' keys under their full names."""
    return {f"{section}.{name}": value
            for section, keys in sections.items() for name, value in keys.items()}


# Accepted only at this value, which is the one that leaves the feature off.
OFF: dict[str, object] = {"IMAGENET_SIMPLELABEL_PATH": None, **_name({
    "BN": {"USE_PRECISE_STATS": False, "NORM_TYPE": "batchnorm", "GLOBAL_SYNC": False},
    "MULTIGRID": {"SHORT_CYCLE": False, "LONG_CYCLE": False},
    **dict.fromkeys(("DETECTION", "DEMO", "MASK", "VIS_MASK"), {"ENABLE": False}),
    "TRAIN": {
        "CHECKPOINT_TYPE": "pytorch", "CHECKPOINT_INFLATE": False, "CHECKPOINT_IN_INIT": False,
        "CHECKPOINT_CLEAR_NAME_PATTERN": (), "KILL_LOSS_EXPLOSION_FACTOR": 0.0,
    },
    "TEST": {"CHECKPOINT_TYPE": "pytorch"},
    "MODEL": {
        "HEAD_ACT": "softmax",
        "ACT_CHECKPOINT": False, "FROZEN_BN": False, "DETACH_FINAL_FC": False,
        "FP16_ALLREDUCE": False, "DROPCONNECT_RATE": 0.0,
    },
    "AUG": {"GEN_MASK_LOADER": False, "MASK_TUBE": False, "MASK_FRAMES": False, "MASK_RATIO": 0.0},
    "DATA": {
        "MC": False, "PATH_TO_PRELOAD_IMDB": "", "TRAIN_JITTER_MOTION_SHIFT": False,
        "DECODING_SHORT_SIZE": 256, "TRAIN_CROP_NUM_TEMPORAL": 1, "TRAIN_CROP_NUM_SPATIAL": 1,
        "COLOR_RND_GRAYSCALE": 0.0, "LOADER_CHUNK_SIZE": 0, "SKIP_ROWS": 0, "TIME_DIFF_PROB": 0.0,
        "SSL_COLOR_JITTER": False, "SSL_MOCOV2_AUG": False, "IN22K_TRAINVAL": False,
        "IN22k_VAL_IN1K": "", "DUMMY_LOAD": False,
    },
    "SOLVER": {"LARS_ON": False, "LAYER_DECAY": 1.0},
    "TENSORBOARD": {
        "PREDICTIONS_PATH": "", "CATEGORIES_PATH": "", "CONFUSION_MATRIX.SUBSET_PATH": "",
        "HISTOGRAM.SUBSET_PATH": "", "WRONG_PRED_VIS.SUBSET_PATH": "", "MODEL_VIS.ENABLE": False,
    },
})}

# Details of features that the table above keeps off: upstream reads them only when the feature is
# on. Accepted at any value of the default's type.
INERT = _name({
    "BN": {"NUM_BATCHES_PRECISE": 200, "WEIGHT_DECAY": 0.0, "NUM_SPLITS": 1, "NUM_SYNC_DEVICES": 1},
    "MODEL": {
        "SINGLE_PATHWAY_ARCH": ["vitb16"], "MULTI_PATHWAY_ARCH": ["slowfast"], "FC_INIT_STD": 0.01,
    },
    "AUG": {"MASK_WINDOW_SIZE": [8, 7, 7], "MAX_MASK_PATCHES_PER_BLOCK": None},
    "DATA": {
        "TRAIN_PCA_EIGVAL": [0.225], "TRAIN_PCA_EIGVEC": [[0.0]], "LOADER_CHUNK_OVERALL_SIZE": 0,
        "SSL_COLOR_BRI_CON_SAT": [0.4], "SSL_COLOR_HUE": 0.1, "SSL_BLUR_SIGMA_MIN": [0.0],
        "SSL_BLUR_SIGMA_MAX": [0.0], "IN_VAL_CROP_RATIO": 0.875,
    },
    "SOLVER": {"STEP_SIZE": 1, "WARMUP_FACTOR": 0.1},
    "TENSORBOARD": {
        "CONFUSION_MATRIX.FIGSIZE": [8, 8], "HISTOGRAM.TOPK": 10, "HISTOGRAM.FIGSIZE": [8, 8],
        "WRONG_PRED_VIS.TAG": "",
    },
})

# Sections whose other keys upstream reads only if the switch named here is on. The switches
# are in OFF, or checked in validate.py (TASK, MODEL.ARCH), so the details are dropped unread.
SECTIONS: dict[str, str] = {
    "MULTIGRID": "MULTIGRID.SHORT_CYCLE or LONG_CYCLE",
    "DETECTION": "DETECTION.ENABLE",
    "AVA": "DETECTION.ENABLE",
    "DEMO": "DEMO.ENABLE",
    "MASK": "MASK.ENABLE",
    "VIS_MASK": "VIS_MASK.ENABLE",
    "TENSORBOARD.MODEL_VIS": "TENSORBOARD.MODEL_VIS.ENABLE",
    "BENCHMARK": "PySlowFast's loader benchmark",
    "CONTRASTIVE": "TASK ssl",
}

# PySlowFast's other models. A full config stored in a checkpoint carries them at these defaults;
# a changed one was meant for a model that does not exist here, and is refused.
_NONE_TO_ONE = [[1], [1], [1], [1]]
MODELS: dict[str, dict[str, object]] = {
    "RESNET": {
        "TRANS_FUNC": "bottleneck_transform", "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64,
        "INPLACE_RELU": True, "STRIDE_1X1": False, "ZERO_INIT_FINAL_BN": False,
        "ZERO_INIT_FINAL_CONV": False, "DEPTH": 50,
        "NUM_BLOCK_TEMP_KERNEL": [[3], [4], [6], [3]],
        "SPATIAL_STRIDES": [[1], [2], [2], [2]], "SPATIAL_DILATIONS": _NONE_TO_ONE,
    },
    "X3D": {
        "WIDTH_FACTOR": 1.0, "DEPTH_FACTOR": 1.0, "BOTTLENECK_FACTOR": 1.0, "DIM_C5": 2048,
        "DIM_C1": 12, "SCALE_RES2": False, "BN_LIN5": False, "CHANNELWISE_3x3x3": True,
    },
    "NONLOCAL": {
        "LOCATION": [[[]], [[]], [[]], [[]]], "GROUP": _NONE_TO_ONE,
        "INSTANTIATION": "dot_product", "POOL": [[[1, 2, 2], [1, 2, 2]]] * 4,
    },
    "SLOWFAST": {
        "BETA_INV": 8, "ALPHA": 8, "FUSION_CONV_CHANNEL_RATIO": 2, "FUSION_KERNEL_SZ": 5,
    },
    "MVIT": {
        "MODE": "conv", "POOL_FIRST": False, "CLS_EMBED_ON": True, "PATCH_KERNEL": [3, 7, 7],
        "PATCH_STRIDE": [2, 4, 4], "PATCH_PADDING": [2, 4, 4], "PATCH_2D": False,
        "EMBED_DIM": 96, "NUM_HEADS": 1, "MLP_RATIO": 4.0, "QKV_BIAS": True,
        "DROPPATH_RATE": 0.1, "LAYER_SCALE_INIT_VALUE": 0.0, "DEPTH": 16, "NORM": "layernorm",
        "DIM_MUL": [], "HEAD_MUL": [], "POOL_KV_STRIDE": [], "POOL_KV_STRIDE_ADAPTIVE": None,
        "POOL_Q_STRIDE": [], "POOL_KVQ_KERNEL": None, "ZERO_DECAY_POS_CLS": True,
        "NORM_STEM": False, "SEP_POS_EMBED": False, "DROPOUT_RATE": 0.0, "USE_ABS_POS": True,
        "REL_POS_SPATIAL": False, "REL_POS_TEMPORAL": False, "REL_POS_ZERO_INIT": False,
        "RESIDUAL_POOLING": False, "DIM_MUL_IN_ATT": False, "SEPARATE_QKV": False,
        "HEAD_INIT_SCALE": 1.0, "USE_MEAN_POOLING": False, "USE_FIXED_SINCOS_POS": False,
        "REV.ENABLE": False, "REV.RESPATH_FUSE": "concat", "REV.BUFFER_LAYERS": [],
        "REV.RES_PATH": "conv", "REV.PRE_Q_FUSION": "avg",
    },
}
MODEL_KEYS = _name(MODELS)


def section_of(key: str) -> str | None:
    """Return the entry of ``SECTIONS`` that ``key`` is in, or None."""
    return next((name for name in SECTIONS if key.startswith(f"{name}.")), None)
