"""Every key that is read, with its default and what it does.

Names and defaults are PySlowFast's and Open-VCLIP's unless the comment says "ours". Their keys that
nothing here reads are in ``upstream.py``: accepted only at their off value. The keys of an
objective are in training/objectives/keys, those of a task in evaluation/tasks/keys.py; an
extension declares its own.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from openvclip.utils.errors import ConfigError

_C = CfgNode()

# ---- The run -----------------------------------------------------------------------------------
_C.NUM_GPUS = 1  # Processes on this machine, one per GPU; 0 runs one process on the CPU.
_C.NUM_SHARDS = 1  # Machines that share the run.
_C.SHARD_ID = 0  # Number of this machine, from 0.
# Where logs, checkpoints and results go. This value holds without a config file: with one,
# and if nothing sets the key, it is output/<name of the file without .yaml>.
_C.OUTPUT_DIR = "output/default"
_C.RNG_SEED = 1  # Seed of every random draw, together with the epoch and the sample's row.
_C.LOG_PERIOD = 10  # Iterations between two log lines; an epoch's last one has its own.
_C.LOG_MODEL_INFO = True  # Log the model's size before starting.
_C.DIST_BACKEND = "nccl"  # nccl or gloo; on a CPU gloo is always used.
_C.TASK = ""  # PySlowFast's task; only the supervised one, "", is available.
_C.VAL_MODE = False  # Validate the loaded weights once and stop.
_C.TUNE_HEAD = False  # Make the class embeddings a trainable parameter.
# Ours. Modules of your own, imported before the config is checked: ["my_package.my_objective"].
# Counts from --cfg and --opts only, never from the config inside a checkpoint.
_C.EXTENSIONS = []

# ---- Lists -------------------------------------------------------------------------------------
# FROSTER's names of the lists in DATA.PATH_TO_DATA_DIR. A path that begins there, an absolute path
# and an address work too.
_C.TRAIN_FILE = "train.csv"  # What training reads.
_C.VAL_FILE = "val.csv"  # What validation reads; without this file there is none.
_C.TEST_FILE = "test.csv"  # What tests read, except TEST.OPENSET's.

# ---- Data --------------------------------------------------------------------------------------
_C.DATA = CfgNode()
_C.DATA.PATH_TO_DATA_DIR = ""  # Folder of the lists, see TRAIN_FILE.
_C.DATA.PATH_PREFIX = ""  # Put before every path of the lists.
_C.DATA.PATH_LABEL_SEPARATOR = " "  # Between path and label in the lists.
_C.DATA.INDEX_LABEL_MAPPING_FILE = ""  # JSON {"0": "class name", ...}.
_C.DATA.NUM_FRAMES = 8  # Frames of a clip.
_C.DATA.SAMPLING_RATE = 8  # Frames of the video from one frame of the clip to the next.
_C.DATA.TARGET_FPS = 30  # Frame rate at which SAMPLING_RATE counts.
_C.DATA.TRAIN_JITTER_FPS = 0.0  # In training, add uniform(0, this) to TARGET_FPS.
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]  # Range of the short side in training; see TEST below.
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # Area range of a random resized crop, if not empty.
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []  # Aspect-ratio range of the random resized crop.
_C.DATA.TRAIN_CROP_SIZE = 224  # Side of the square crop in training and validation.
_C.DATA.TEST_CROP_SIZE = 256  # Side of the square crop in testing.
_C.DATA.INPUT_CHANNEL_NUM = [3, 3]  # Channels of each pathway; CLIP has one and reads the first.
# MEAN, STD, the two crop sizes, TRAIN_JITTER_SCALES and the three keys below also take auto (ours):
# what the CLIP's own preprocessing has; for TRAIN_JITTER_SCALES the crop's side and 8/7 of it.
_C.DATA.MEAN = [0.45, 0.45, 0.45]  # Subtracted from RGB in 0..1.
_C.DATA.STD = [0.225, 0.225, 0.225]  # RGB is divided by it after MEAN.
# Ours. How a frame becomes a square: shortest (the published way: its short side is resized, the
# rest cut off), squash (stretched) or longest (its long side is resized, the rest filled).
_C.DATA.RESIZE_MODE = "shortest"
# Ours. bilinear, the published way, without antialiasing; bicubic or bilinear_antialias, with it,
# as open_clip preprocesses images.
_C.DATA.INTERPOLATION = "bilinear"
_C.DATA.FILL_COLOR = 0  # Ours. What longest fills a square with: 0 (black) to 255 (white).
_C.DATA.RANDOM_FLIP = True  # Flip half of the training clips left to right.
_C.DATA.INV_UNIFORM_SAMPLE = False  # Draw 1 / short side uniformly, not the side.
_C.DATA.USE_OFFSET_SAMPLING = False  # Last view ends the video; see SAMPLING_COMPAT.
_C.DATA.MULTI_LABEL = False  # A row may carry several labels, joined by ; or ,.
_C.DATA.ENSEMBLE_METHOD = "sum"  # sum or max of the logits over a video's views.
_C.DATA.REVERSE_INPUT_CHANNEL = False  # Feed BGR instead of RGB.
# pyav, or torchvision: the name in old scripts, decoded by PyAV.
_C.DATA.DECODING_BACKEND = "torchvision"
# Ours. published: frames as the released checkpoints saw them; exact: honours USE_OFFSET_SAMPLING
# with every container, spreads views to the video's very end, no clamped last frame.
_C.DATA.SAMPLING_COMPAT = "published"
_C.DATA.VAL_RANDOM = False  # Ours. Draw validation clips at random, as published code does.
_C.DATA.MAX_BAD_FRACTION = 0.01  # Ours. Stop training if a greater share is bad.
# Ours. Store the decoded frames that validation and testing read from each video here, so that the
# next evaluation with the same sampling does not decode again; "": nowhere.
_C.DATA.CACHE_DIR = ""
_C.DATA.CACHE_MAX_GB = 100.0  # Ours. Most that CACHE_DIR may hold, in GiB; no more is added.

# ---- Augmentation ------------------------------------------------------------------------------
_C.AUG = CfgNode()
_C.AUG.ENABLE = False  # RandAugment and random erasing in training.
_C.AUG.NUM_SAMPLE = 1  # Clips drawn from each training video; the batch grows by as much.
_C.AUG.COLOR_JITTER = 0.4  # Accepted, unused: published training on videos has none.
_C.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"  # RandAugment in timm's notation; "": none.
_C.AUG.INTERPOLATION = "bicubic"  # Used by RandAugment's geometric operations.
_C.AUG.RE_PROB = 0.25  # Probability of random erasing.
_C.AUG.RE_MODE = "pixel"  # Erase with noise per pixel, one colour (rand) or zeros (const).
_C.AUG.RE_COUNT = 1  # Most rectangles erased in a clip; N > 1 spares its first 1/N of frames.
_C.AUG.RE_SPLIT = False  # Published code never reads it: True is refused.

_C.MIXUP = CfgNode()
_C.MIXUP.ENABLE = False  # Mix videos of a batch and their labels; needs soft_cross_entropy.
_C.MIXUP.ALPHA = 0.8  # Mixup's Beta parameter; 0 turns mixup off.
_C.MIXUP.CUTMIX_ALPHA = 1.0  # CutMix's Beta parameter; 0 turns CutMix off.
_C.MIXUP.PROB = 1.0  # Probability that a batch is mixed.
_C.MIXUP.SWITCH_PROB = 0.5  # Probability of CutMix if both are on.
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.1  # Label smoothing of the mixed targets.

# ---- Model -------------------------------------------------------------------------------------
_C.MODEL = CfgNode()
# vitb32, vitb16, vitl14 or vitl14_336: the CLIP that is used when no path is given. Sizes
# always come from the weights; auto takes any size.
_C.MODEL.ARCH = "vitb16"
# Ours. auto: the family that MODEL.CLIP_PATH needs, clip (built like OpenAI's ViT) or open_clip
# (all others); or one that an extension registers.
_C.MODEL.BACKBONE = "auto"
_C.MODEL.MODEL_NAME = "TemporalClipVideo"  # TemporalClipVideo, or BasicClipVideo: each frame alone.
_C.MODEL.NUM_CLASSES = 400  # Must equal the number of names in INDEX_LABEL_MAPPING_FILE.
# cross_entropy, soft_cross_entropy, bce, bce_logit; ours: sigmoid, a yes or no for each class, for
# a CLIP that was trained so (SigLIP).
_C.MODEL.LOSS_FUNC = "cross_entropy"
# None, expand_temporal_view, expand_temporal_view_step2, expand_temporal_view_step3,
# channel_shift, channel_shift_published, cross_frame_attend, stadapt_zeroinit.
_C.MODEL.TEMPORAL_MODELING_TYPE = None
# Ours. What lies before the first and after the last frame: zeros, as published, or with clamp that
# frame again.
_C.MODEL.TEMPORAL_EDGES = "zeros"
_C.MODEL.USE_CHECKPOINT = False  # Recompute activations in backward: less memory, more time.
# Ours. Compile the blocks of the image tower with torch.compile; the first batches take longer.
_C.MODEL.COMPILE = False
_C.MODEL.STATIC_GRAPH = False  # Tell DistributedDataParallel that the graph never changes.
# Most tokens in a class's sentence or in a caption; auto (ours): as many as the CLIP reads.
_C.MODEL.CONTEXT_LENGTH = 77
_C.MODEL.DROPOUT_RATE = 0.5  # Accepted at any value; CLIP has no dropout.
# Learning-rate factors by a word in the path of a parameter's module; 0 freezes.
_C.MODEL.DEFAULT_FINETUNE_FACTOR = 1.0  # Of parameters without any of the words below.
_C.MODEL.FINETUNE_FACTOR = 1.0  # message: those of cross_frame_attend.
_C.MODEL.ADAPT_FINETUNE_FACTOR = 1.0  # stadapt: those of stadapt_zeroinit.
_C.MODEL.MLP_FINETUNE_FACTOR = 1.0  # mlp: the MLPs of both towers.
_C.MODEL.EXPERT_FINETUNE_FACTOR = 1.0  # experts
_C.MODEL.ROUTING_FINETUNE_FACTOR = 1.0  # routing: the routers of experts.
# Ours. The sentences that class names are put into: openvclip28, openai_imagenet80, action16,
# name_only, or a file with one per line, {} for the name. Published numbers use openvclip28.
_C.MODEL.TEXT_TEMPLATES = "openvclip28"
# Ours. JSON {"class name": "text" or ["text", ...]}: texts used unchanged, instead of templates.
_C.MODEL.CLASS_DESCRIPTIONS = ""
# Ours. A CLIP file, or a name that open_clip lists. Empty: TRAIN/TEST.CLIP_ORI_PATH, then
# ~/.cache/clip/ViT-B-16.pt and its like by ARCH.
_C.MODEL.CLIP_PATH = ""
_C.MODEL.TEXT_CACHE_DIR = ""  # Ours. Where class embeddings are cached; "": OUTPUT_DIR/text_cache.

# ---- Training ----------------------------------------------------------------------------------
_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True  # Train.
_C.TRAIN.DATASET = "kinetics"  # The list format; kinetics is the only one.
_C.TRAIN.BATCH_SIZE = 64  # Videos of a batch over all processes and machines.
_C.TRAIN.EVAL_PERIOD = 10  # Epochs between validations.
# Ours. Validate also with this share of the original CLIP patched in, as TEST.PATCHING_RATIO does:
# the same decoded videos, one more forward pass each. 0.0: the trained weights only.
_C.TRAIN.EVAL_PATCHING_RATIO = 0.0
_C.TRAIN.CHECKPOINT_PERIOD = 10  # Epochs between checkpoints.
# Ours. Also write the state within epochs, every so many iterations of the run; 0: only when a
# signal ends the run.
_C.TRAIN.CHECKPOINT_ITERS = 0
# Ours. Delete all but this many of the newest epoch checkpoints; 0 keeps all. The ones averaging
# will need must then be given by CHECKPOINT_KEEP_RANGE.
_C.TRAIN.CHECKPOINT_KEEP_LAST = 0
_C.TRAIN.CHECKPOINT_KEEP_EVERY = 0  # Ours. Also keep those whose number is a multiple; 0: none.
# Ours. Keep those that will be averaged: [first, last], the --start and --end of
# tools/weight_average.py; [0, 0]: none will be.
_C.TRAIN.CHECKPOINT_KEEP_RANGE = []
_C.TRAIN.AUTO_RESUME = True  # Continue from the last checkpoint in OUTPUT_DIR.
_C.TRAIN.CHECKPOINT_FILE_PATH = ""  # Start from this checkpoint, with its optimizer and epoch.
_C.TRAIN.CHECKPOINT_EPOCH_RESET = False  # Take only the weights of CHECKPOINT_FILE_PATH.
_C.TRAIN.MIXED_PRECISION = False  # Compute training in AMP_DTYPE wherever that is safe.
# Ours. auto, bfloat16, float16; auto: bfloat16 if the device supports it, else float16. Also
# used by TEST.MIXED_PRECISION.
_C.TRAIN.AMP_DTYPE = "auto"
# Ours. Compute a process's share of a batch in this many parts, one after another, to save memory.
# BATCH_SIZE, the gradients and so the learning rate do not change.
_C.TRAIN.GRAD_ACCUM_STEPS = 1
# Ours. ddp: every process holds all weights; fsdp: weights, gradients and optimizer states are cut
# among the processes, for towers that do not fit one GPU; more is sent in every step.
_C.TRAIN.SHARDING = "ddp"
_C.TRAIN.CUSTOM_LOAD = False  # Start from the weights in CUSTOM_LOAD_FILE.
_C.TRAIN.CUSTOM_LOAD_FILE = None  # Weights for CUSTOM_LOAD.
_C.TRAIN.CLIP_ORI_PATH = None  # The original CLIP that training mixes in.
# ---- Testing -----------------------------------------------------------------------------------
_C.TEST = CfgNode()
_C.TEST.ENABLE = True  # Test, after training if both are on.
_C.TEST.DATASET = "kinetics"  # The list format; kinetics is the only one.
# Ours. classification, or retrieval: videos by their captions and captions by their videos, see
# docs/retrieval.md.
_C.TEST.TASK = "classification"
# Clips that all processes together load at a time; a video's clips stay together, and each process
# loads at least one group. A forward pass takes a group: whole videos, at most 8 clips unless one
# video has more, cut from the list in the same way for any number of processes.
_C.TEST.BATCH_SIZE = 8
_C.TEST.CHECKPOINT_FILE_PATH = ""  # Weights to test.
_C.TEST.NUM_ENSEMBLE_VIEWS = 10  # Clips per video in time.
# Crops of each, 1 or 3. With 1 the short side is TRAIN_JITTER_SCALES[0], else TEST_CROP_SIZE.
_C.TEST.NUM_SPATIAL_CROPS = 3
_C.TEST.NUM_TEMPORAL_CLIPS = []  # Numbers of views to test one after another.
# File under OUTPUT_DIR for [predictions, labels], or for retrieval's embeddings.
_C.TEST.SAVE_RESULTS_PATH = ""
_C.TEST.CUSTOM_LOAD = False  # Test the weights in CUSTOM_LOAD_FILE.
_C.TEST.CUSTOM_LOAD_FILE = None  # Weights for CUSTOM_LOAD.
_C.TEST.OPENSET = False  # Read test_openset.csv instead of TEST_FILE.
_C.TEST.PATCHING_MODEL = False  # Mix the tested weights with the original CLIP.
_C.TEST.PATCHING_RATIO = 0.5  # Share of the original CLIP.
_C.TEST.PATCHING_RATIOS = []  # Ours. Shares to test in one pass, instead of PATCHING_RATIO.
_C.TEST.CLIP_ORI_PATH = None  # The original CLIP for patching.
# Ours. Keep a journal of scores in OUTPUT_DIR/resume, and resume from the journal that a killed run
# of the same test left there; see docs/distributed.md.
_C.TEST.RESUME = False
# Ours. Compute tests and validation in TRAIN.AMP_DTYPE; published ones always compute in fp32,
# whatever TRAIN.MIXED_PRECISION is, and scores differ.
_C.TEST.MIXED_PRECISION = False
_C.TEST.UPDATE_STATE = False  # False only; published code does nothing with it.

# ---- Optimizer ---------------------------------------------------------------------------------
_C.SOLVER = CfgNode()
_C.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd, adam, adamw.
_C.SOLVER.BASE_LR = 0.1  # Learning rate after warm-up.
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False  # Multiply the three rates by NUM_SHARDS.
_C.SOLVER.LR_POLICY = "cosine"  # cosine or steps_with_relative_lrs.
_C.SOLVER.COSINE_END_LR = 0.0  # Learning rate at the end of the cosine.
_C.SOLVER.COSINE_AFTER_WARMUP = False  # Start the cosine's period after warm-up.
_C.SOLVER.COSINE_RESTART_EPOCH = 0  # Restart the cosine every so many epochs; 0: never.
_C.SOLVER.STEPS = []  # First epoch of each stage of steps_with_relative_lrs, from 0.
_C.SOLVER.LRS = []  # Each stage's factor of BASE_LR.
_C.SOLVER.GAMMA = 0.1  # Decay factor of PySlowFast's other policies; accepted, unused.
_C.SOLVER.MAX_EPOCH = 300  # Epochs.
_C.SOLVER.WARMUP_EPOCHS = 0.0  # Epochs of linear warm-up.
_C.SOLVER.WARMUP_START_LR = 0.01  # Learning rate at which warm-up starts.
_C.SOLVER.MOMENTUM = 0.9  # Of sgd.
_C.SOLVER.DAMPENING = 0.0  # Of sgd's momentum.
_C.SOLVER.NESTEROV = True  # Of sgd.
_C.SOLVER.BETAS = (0.9, 0.999)  # Of adam and adamw.
_C.SOLVER.WEIGHT_DECAY = 1e-4  # Weight decay.
_C.SOLVER.ZERO_WD_1D_PARAM = False  # No decay on 1-D parameters and biases.
_C.SOLVER.CLIP_GRAD_VAL = None  # Clip each element of the gradient to +- this.
_C.SOLVER.CLIP_GRAD_L2NORM = None  # Clip the gradient's global norm to this.

# ---- Loader and TensorBoard --------------------------------------------------------------------
_C.DATA_LOADER = CfgNode()
_C.DATA_LOADER.NUM_WORKERS = 8  # Decoding processes of each training process; 0: none.
_C.DATA_LOADER.PIN_MEMORY = True  # Page-locked batches; only with a GPU.
_C.DATA_LOADER.ENABLE_MULTI_THREAD_DECODE = False  # Let the decoder use several threads per video.

_C.TENSORBOARD = CfgNode()
_C.TENSORBOARD.ENABLE = False  # Write event files.
_C.TENSORBOARD.LOG_DIR = ""  # Their folder under OUTPUT_DIR; "": runs-kinetics.
_C.TENSORBOARD.CLASS_NAMES_PATH = ""  # JSON {"class name": number}; "": the label map's names.
_C.TENSORBOARD.CONFUSION_MATRIX = CfgNode()
_C.TENSORBOARD.CONFUSION_MATRIX.ENABLE = False  # Confusion matrix of each evaluation.
_C.TENSORBOARD.HISTOGRAM = CfgNode()
_C.TENSORBOARD.HISTOGRAM.ENABLE = False  # Accuracy of each class as bars, worst first.
_C.TENSORBOARD.WRONG_PRED_VIS = CfgNode()
_C.TENSORBOARD.WRONG_PRED_VIS.ENABLE = False  # Videos that were classified wrongly.


def add(key: str, default: Any) -> None:
    """Add a key to the defaults, with the sections that it is in.

    Raises:
        ConfigError: a part of its name is a setting, or the whole name a section.
    """
    *sections, name = key.split(".")
    node = _C
    for section in sections:
        node = node.setdefault(section, CfgNode())
        if not isinstance(node, CfgNode):
            raise ConfigError(f"the key {key} is in {section}, which is a setting; rename it")
    if isinstance(node.get(name), CfgNode):
        raise ConfigError(f"the key {key} is the name of a section; rename it")
    node[name] = default


def get_cfg() -> CfgNode:
    """Return a fresh copy of the defaults, not frozen."""
    return _C.clone()


def under(section: str, names: str) -> tuple[str, ...]:
    """Return the full names of a section's keys, which ``names`` has separated by spaces."""
    return tuple(f"{section}.{name}" for name in names.split())


def flatten(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"TRAIN.BATCH_SIZE": 64, ...}`` of a config or yaml tree; empty sections vanish."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
