"""Settings of the runs that left the archive's files, for those who make and who test them."""

from __future__ import annotations

CLASSES = ("red moving", "green resting", "blue blinking")
# Settings of all runs.
COMMON = [
    "DATA.PATH_TO_DATA_DIR", ".", "DATA.PATH_PREFIX", "videos", "DATA.PATH_LABEL_SEPARATOR", ",",
    "DATA.INDEX_LABEL_MAPPING_FILE", "names-index2cls.json", "DATA.NUM_FRAMES", "4",
    "DATA.SAMPLING_RATE", "4", "DATA.TRAIN_JITTER_SCALES", "[16,18]", "DATA.TRAIN_CROP_SIZE", "16",
    "DATA.TEST_CROP_SIZE", "16", "MODEL.ARCH", "auto", "MODEL.CLIP_PATH", "clip.pt",
    "MODEL.NUM_CLASSES", "3", "MODEL.TEMPORAL_MODELING_TYPE", "expand_temporal_view",
    "TRAIN.BATCH_SIZE", "2", "TRAIN.LINEAR_CONNECT_CLIMB", "True",
    "TRAIN.LINEAR_CONNECT_LOSS_RATIO", "0.5", "TRAIN.LINEAR_CONNECT_SAMPLE_R", "0.6",
    "TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "1", "TEST.BATCH_SIZE", "2",
    "SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "1e-3", "SOLVER.COSINE_END_LR", "1e-5",
    "SOLVER.WARMUP_EPOCHS", "0.0", "TRAIN.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_EPOCH", "2",
    "DATA_LOADER.NUM_WORKERS", "0", "NUM_GPUS", "0", "LOG_PERIOD", "1",
]
# Further ones of tests.
TESTED = [
    "TRAIN.ENABLE", "False", "TEST.CUSTOM_LOAD", "True", "TEST.CUSTOM_LOAD_FILE", "run/swa_1_2.pth",
    "TEST.PATCHING_RATIOS", "[0.0,0.5]", "TEST.RESUME", "True",
    "TEST.SAVE_RESULTS_PATH", "predictions.pkl",
]
