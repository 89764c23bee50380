"""What a config must satisfy: tables of ranges and choices, and one function for each other rule.

Nothing here looks at files or devices: rules about them are checked where they are opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config.auto import is_auto
from openvclip.config.defaults import flatten, get_cfg, under
from openvclip.config.doors import BACKBONES, OBJECTIVES, TASKS, TEMPORAL
from openvclip.utils.errors import ConfigError
from openvclip.utils.registry import not_a_choice

# Names that MODEL.TEXT_TEMPLATES takes besides files.
TEMPLATE_SETS = ("openvclip28", "openai_imagenet80", "action16", "name_only",
                 "froster29")

CHOICES: dict[str, tuple[Any, ...]] = {
    "DIST_BACKEND": ("nccl", "gloo"),
    "TASK": ("",),
    "DATA.ENSEMBLE_METHOD": ("sum", "max"),
    "DATA.DECODING_BACKEND": ("pyav", "torchvision"),
    "DATA.SAMPLING_COMPAT": ("published", "exact"),
    "DATA.RESIZE_MODE": ("shortest", "squash", "longest", "auto"),
    "DATA.INTERPOLATION": ("bilinear", "bilinear_antialias", "bicubic", "auto"),
    "AUG.RE_MODE": ("pixel", "rand", "const"),
    "AUG.INTERPOLATION": ("bicubic", "bilinear", "nearest"),
    "MODEL.ARCH": ("vitb32", "vitb16", "vitl14", "vitl14_336", "auto"),
    "MODEL.MODEL_NAME": ("TemporalClipVideo", "BasicClipVideo"),
    "MODEL.TEMPORAL_EDGES": ("zeros", "clamp"),
    "MODEL.LOSS_FUNC": ("cross_entropy", "soft_cross_entropy", "bce", "bce_logit", "sigmoid"),
    "TRAIN.AMP_DTYPE": ("auto", "bfloat16", "float16"),
    "TRAIN.SHARDING": ("ddp", "fsdp"),
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "TEST.UPDATE_STATE": (False,),
    "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
    "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
}
# Choices that an extension may add to.
DOORS = (BACKBONES, TEMPORAL, OBJECTIVES, TASKS)
# Values that earlier versions accepted, and what to give instead.
REMOVED = {
    ("DATA.DECODING_BACKEND", "torchcodec"): "was removed: it was no faster; give 'pyav', which "
                                             "decodes the same frames",
}
# Choices in which case does not matter.
DATASETS = {"TRAIN.DATASET": ("kinetics",), "TEST.DATASET": ("kinetics",)}

# Both ends included; None: unbounded. Lists are checked element by element, None values pass.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "RNG_SEED": (0, 2**63 - 1),
    "DATA.INPUT_CHANNEL_NUM": (3, 3),
    "DATA.FILL_COLOR": (0, 255),
    "MODEL.CONTEXT_LENGTH": (3, None),
    **dict.fromkeys((
        *under("DATA", "MEAN MAX_BAD_FRACTION"), "AUG.RE_PROB",
        *under("MIXUP", "PROB SWITCH_PROB LABEL_SMOOTH_VALUE"), "TRAIN.EVAL_PATCHING_RATIO",
        *under("TEST", "PATCHING_RATIO PATCHING_RATIOS"), "SOLVER.MOMENTUM",
    ), (0, 1)),
    **dict.fromkeys((
        "NUM_GPUS", "SHARD_ID", *under("DATA", "TRAIN_JITTER_FPS CACHE_MAX_GB"),
        "AUG.COLOR_JITTER", *under("MIXUP", "ALPHA CUTMIX_ALPHA"),
        *under("MODEL", "DEFAULT_FINETUNE_FACTOR FINETUNE_FACTOR ADAPT_FINETUNE_FACTOR "
               "MLP_FINETUNE_FACTOR EXPERT_FINETUNE_FACTOR ROUTING_FINETUNE_FACTOR"),
        *under("TRAIN", "CHECKPOINT_ITERS CHECKPOINT_KEEP_LAST CHECKPOINT_KEEP_EVERY "
               "CHECKPOINT_KEEP_RANGE"),
        *under("SOLVER", "BASE_LR COSINE_END_LR COSINE_RESTART_EPOCH STEPS LRS WARMUP_EPOCHS "
               "WARMUP_START_LR WEIGHT_DECAY"),
        "DATA_LOADER.NUM_WORKERS",
    ), (0, None)),
    **dict.fromkeys((
        "NUM_SHARDS", "LOG_PERIOD", *under("AUG", "NUM_SAMPLE RE_COUNT"), "MODEL.NUM_CLASSES",
        *under("DATA", "NUM_FRAMES SAMPLING_RATE TARGET_FPS TRAIN_JITTER_SCALES TRAIN_CROP_SIZE "
               "TEST_CROP_SIZE"),
        *under("TRAIN", "BATCH_SIZE EVAL_PERIOD CHECKPOINT_PERIOD GRAD_ACCUM_STEPS"),
        *under("TEST", "BATCH_SIZE NUM_ENSEMBLE_VIEWS NUM_TEMPORAL_CLIPS"), "SOLVER.MAX_EPOCH",
    ), (1, None)),
}
# Greater than 0.
POSITIVE = (
    "DATA.STD", "DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    "SOLVER.CLIP_GRAD_VAL", "SOLVER.CLIP_GRAD_L2NORM",
)
# Numbers of elements that are accepted.
LENGTHS: dict[str, tuple[int, ...]] = {
    "DATA.TRAIN_JITTER_SCALES": (2,),
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": (0, 2),
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": (0, 2),
    "DATA.INPUT_CHANNEL_NUM": (1, 2),
    "DATA.MEAN": (3,),
    "DATA.STD": (3,),
    "TRAIN.CHECKPOINT_KEEP_RANGE": (0, 2),
    "SOLVER.BETAS": (2,),
}
# Pairs of a smallest and a largest value.
SPANS = (
    "DATA.TRAIN_JITTER_SCALES", "DATA.TRAIN_JITTER_SCALES_RELATIVE",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE", "TRAIN.CHECKPOINT_KEEP_RANGE",
)
# Keys that may not be empty.
FILLED = ("OUTPUT_DIR", "TRAIN_FILE", "VAL_FILE", "TEST_FILE", "DATA.PATH_LABEL_SEPARATOR",
          "MODEL.TEXT_TEMPLATES")


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _numbers(value: Any) -> list[Any]:
    return [] if is_auto(value) else _items(value)


def _finite(flat: dict[str, Any]) -> Iterator[str]:
    for key, value in flat.items():
        if any(isinstance(x, float) and not math.isfinite(x) for x in _items(value)):
            yield f"{key} is {value}; it must be finite"


def _choices(flat: dict[str, Any]) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        if (key, flat[key]) in REMOVED:
            yield f"{key} {flat[key]!r} {REMOVED[key, flat[key]]}"
        elif flat[key] not in allowed:
            yield not_a_choice(key, flat[key], allowed)
    for door in DOORS:
        for name in _items(flat[door.key]):
            if name not in door:
                yield not_a_choice(door.key, name, door.names())
    for key, allowed in DATASETS.items():
        if str(flat[key]).lower() not in allowed:
            yield (f"{not_a_choice(key, flat[key], allowed)} (lists of any dataset can be written "
                   "in that format: one line per video, path and label)")


def _ranges(flat: dict[str, Any]) -> Iterator[str]:
    for key, (low, high) in RANGES.items():
        for number in _numbers(flat[key]):
            if (low is not None and number < low) or (high is not None and number > high):
                limits = f"at least {low}" if high is None else f"in [{low}, {high}]"
                yield f"{key} is {flat[key]}; it must be {limits}"
                break
    for key in POSITIVE:
        if any(number is not None and number <= 0 for number in _numbers(flat[key])):
            yield f"{key} is {flat[key]}; it must be greater than 0"


def _sizes(flat: dict[str, Any]) -> Iterator[str]:
    for key, lengths in LENGTHS.items():
        if not is_auto(flat[key]) and len(flat[key]) not in lengths:
            numbers = " or ".join(str(n) for n in lengths)
            yield f"{key} is {list(flat[key])}; it must have {numbers} elements"
    for key in SPANS:
        span = _numbers(flat[key])
        if len(span) == 2 and span[0] > span[1]:
            yield f"{key} is {flat[key]}; the first must not exceed the second"
    for key in FILLED:
        if not flat[key]:
            yield f"{key} is empty; it needs a value"


def _run(cfg: CfgNode) -> Iterator[str]:
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        yield f"SHARD_ID is {cfg.SHARD_ID}; with NUM_SHARDS {cfg.NUM_SHARDS} it must be less"
    processes = max(1, cfg.NUM_GPUS) * max(1, cfg.NUM_SHARDS)
    for section in ("TRAIN", "TEST"):
        batch = cfg[section].BATCH_SIZE
        if cfg[section].ENABLE and batch % processes:
            yield (f"{section}.BATCH_SIZE is {batch}; the run's {processes} processes (NUM_GPUS "
                   "times NUM_SHARDS) cannot share it equally")


def _lists(cfg: CfgNode) -> Iterator[str]:
    if cfg.TEST.OPENSET and cfg.TEST_FILE != get_cfg().TEST_FILE:
        yield (f"TEST_FILE is {cfg.TEST_FILE!r}; TEST.OPENSET True reads test_openset.csv instead: "
               "set OPENSET False, or leave TEST_FILE out")


def _pixels(cfg: CfgNode) -> Iterator[str]:
    data = cfg.DATA
    scales, area = data.TRAIN_JITTER_SCALES, data.TRAIN_JITTER_SCALES_RELATIVE
    aspect = data.TRAIN_JITTER_ASPECT_RELATIVE
    if bool(area) != bool(aspect):
        yield (f"DATA.TRAIN_JITTER_SCALES_RELATIVE is {area} and DATA.TRAIN_JITTER_ASPECT_RELATIVE "
               f"is {aspect}; a random resized crop needs both")
    if any(part > 1 for part in area):
        yield f"DATA.TRAIN_JITTER_SCALES_RELATIVE is {area}; no crop is larger than the frame"
    if is_auto(scales) or len(scales) != 2:
        return
    train, test = (_numbers(data[name]) for name in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"))
    jitters = cfg.TRAIN.ENABLE and not area and train
    if jitters and scales[0] < train[0]:
        yield (f"DATA.TRAIN_CROP_SIZE is {data.TRAIN_CROP_SIZE}; frames of short side "
               f"{scales[0]} (DATA.TRAIN_JITTER_SCALES) are too small for it")
    if jitters and data.RESIZE_MODE == "longest" and scales[1] >= 2 * train[0]:
        yield (f"DATA.TRAIN_JITTER_SCALES is {scales}; with DATA.RESIZE_MODE longest a crop of "
               f"{train[0]} could miss the frame: the second must be below {2 * train[0]}")
    one_crop = cfg.TEST.ENABLE and cfg.TEST.NUM_SPATIAL_CROPS == 1
    if one_crop and data.RESIZE_MODE == "shortest" and test and scales[0] < test[0]:
        yield (f"DATA.TEST_CROP_SIZE is {data.TEST_CROP_SIZE}; with TEST.NUM_SPATIAL_CROPS 1 the "
               f"short side is DATA.TRAIN_JITTER_SCALES[0], {scales[0]}, too small for it")


def _crops(cfg: CfgNode) -> Iterator[str]:
    mode, crops = cfg.DATA.RESIZE_MODE, cfg.TEST.NUM_SPATIAL_CROPS
    if cfg.TEST.ENABLE and mode in ("squash", "longest") and crops != 1:
        yield (f"TEST.NUM_SPATIAL_CROPS is {crops}; with DATA.RESIZE_MODE {mode} one crop shows "
               "the whole frame: set it to 1")


def _loss(cfg: CfgNode) -> Iterator[str]:
    loss, multi_label = cfg.MODEL.LOSS_FUNC, cfg.DATA.MULTI_LABEL
    if loss != "sigmoid" and multi_label != (loss in ("bce", "bce_logit")):
        yield (f"MODEL.LOSS_FUNC is {loss!r} with DATA.MULTI_LABEL {multi_label}; several labels "
               "need bce, bce_logit or sigmoid, and one label needs cross_entropy, "
               "soft_cross_entropy or sigmoid")
    if cfg.MIXUP.ENABLE and loss != "soft_cross_entropy":
        yield (f"MODEL.LOSS_FUNC is {loss!r}; MIXUP.ENABLE True makes soft targets, which need "
               "soft_cross_entropy")
    if cfg.MIXUP.ENABLE and cfg.MIXUP.ALPHA == 0 and cfg.MIXUP.CUTMIX_ALPHA == 0:
        yield "MIXUP.ENABLE is True with MIXUP.ALPHA 0 and MIXUP.CUTMIX_ALPHA 0; one must be over 0"
    kind = cfg.AUG.AA_TYPE
    if cfg.AUG.ENABLE and kind and kind.split("-")[0] != "rand":
        yield f"AUG.AA_TYPE is {kind!r}; use RandAugment (rand-m9-mstd0.5-inc1) or ''"
    if cfg.AUG.ENABLE and cfg.AUG.RE_SPLIT:
        yield ("AUG.RE_SPLIT is True, but has no effect on videos, as in published code; set it to "
               "False")
    if cfg.AUG.ENABLE and cfg.AUG.COLOR_JITTER not in (0.0, 0.4):
        yield (f"AUG.COLOR_JITTER is {cfg.AUG.COLOR_JITTER:g}, but has no effect on videos, as in "
               "published code; leave it at 0.4, or set it to 0")


def _model(cfg: CfgNode) -> Iterator[str]:
    kind = cfg.MODEL.TEMPORAL_MODELING_TYPE
    if cfg.MODEL.MODEL_NAME == "BasicClipVideo" and kind is not None:
        yield (f"MODEL.TEMPORAL_MODELING_TYPE is {kind!r}; BasicClipVideo sees single frames: set "
               "it to None, or MODEL.MODEL_NAME to TemporalClipVideo")
    if kind is None and cfg.MODEL.TEMPORAL_EDGES != "zeros":
        yield (f"MODEL.TEMPORAL_EDGES is {cfg.MODEL.TEMPORAL_EDGES!r}, but has no effect without a "
               "MODEL.TEMPORAL_MODELING_TYPE; set it to zeros")


def _texts(cfg: CfgNode) -> Iterator[str]:
    templates, descriptions = cfg.MODEL.TEXT_TEMPLATES, cfg.MODEL.CLASS_DESCRIPTIONS
    if templates and templates not in TEMPLATE_SETS and not set(templates) & set("./"):
        yield (f"{not_a_choice('MODEL.TEXT_TEMPLATES', templates, TEMPLATE_SETS)}; or a file, "
               "named with its folder or ending, such as templates.txt")
    if descriptions and templates != TEMPLATE_SETS[0]:
        yield (f"MODEL.TEXT_TEMPLATES is {templates!r} with MODEL.CLASS_DESCRIPTIONS "
               f"{descriptions!r}; descriptions are used without a template: leave "
               f"MODEL.TEXT_TEMPLATES at {TEMPLATE_SETS[0]!r}, or CLASS_DESCRIPTIONS empty")


def _weights(cfg: CfgNode) -> Iterator[str]:
    for section in ("TRAIN", "TEST"):
        if cfg[section].CUSTOM_LOAD and not cfg[section].CUSTOM_LOAD_FILE:
            yield f"{section}.CUSTOM_LOAD is True; {section}.CUSTOM_LOAD_FILE must name a file"


def _keep(cfg: CfgNode) -> Iterator[str]:
    last, every = cfg.TRAIN.CHECKPOINT_KEEP_LAST, cfg.TRAIN.CHECKPOINT_KEEP_EVERY
    span = cfg.TRAIN.CHECKPOINT_KEEP_RANGE
    if last == 0 and (every or span):
        yield (f"TRAIN.CHECKPOINT_KEEP_LAST is 0, which keeps every checkpoint, but "
               f"TRAIN.CHECKPOINT_KEEP_EVERY is {every} and TRAIN.CHECKPOINT_KEEP_RANGE {span}; "
               "set CHECKPOINT_KEEP_LAST, or leave the two out")
    if last and not span:
        yield (f"TRAIN.CHECKPOINT_KEEP_LAST {last} deletes checkpoints; say which ones averaging "
               "will need: TRAIN.CHECKPOINT_KEEP_RANGE [2,22], or [0,0] if none")


def _sharding(cfg: CfgNode) -> Iterator[str]:
    if cfg.TRAIN.SHARDING != "fsdp":
        return
    why = {
        "MODEL.STATIC_GRAPH": "it is of DistributedDataParallel",
        "TRAIN.LINEAR_CONNECT_PER_RANK": "the processes' parts must be mixed at one ratio",
    }
    flat = flatten(cfg)
    for key, reason in why.items():
        if flat[key]:
            yield f"{key} is True; with TRAIN.SHARDING 'fsdp' it must be False: {reason}"
    if cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16":
        yield ("TRAIN.AMP_DTYPE is 'float16'; TRAIN.SHARDING 'fsdp' does not scale gradients, as "
               "fp16 needs: set it to bfloat16")


def _schedule(cfg: CfgNode) -> Iterator[str]:
    solver = cfg.SOLVER
    for name, most, counts in (
        ("WARMUP_EPOCHS", "MAX_EPOCH", True),
        ("WARMUP_START_LR", "BASE_LR", solver.WARMUP_EPOCHS > 0),
        ("COSINE_END_LR", "BASE_LR", solver.LR_POLICY == "cosine"),
    ):
        if counts and solver[name] > solver[most]:
            yield (f"SOLVER.{name} is {solver[name]}; it must not exceed SOLVER.{most}, "
                   f"{solver[most]}")
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps = solver.STEPS
        if not steps or len(steps) != len(solver.LRS):
            yield (f"SOLVER.STEPS is {steps} and SOLVER.LRS {solver.LRS}; steps_with_relative_lrs "
                   "needs as many of each, and at least one")
        elif steps[0] != 0 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            yield f"SOLVER.STEPS is {steps}; it must begin with 0 and increase"


def _optimizer(cfg: CfgNode) -> Iterator[str]:
    solver = cfg.SOLVER
    if any(not 0 <= beta < 1 for beta in solver.BETAS):
        yield f"SOLVER.BETAS is {solver.BETAS}; each must be in [0, 1)"
    nesterov = solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV
    if nesterov and (solver.MOMENTUM == 0 or solver.DAMPENING != 0):
        yield (f"SOLVER.NESTEROV is True; it needs SOLVER.MOMENTUM ({solver.MOMENTUM}) over 0 and "
               f"SOLVER.DAMPENING ({solver.DAMPENING}) 0")
    if solver.CLIP_GRAD_VAL is not None and solver.CLIP_GRAD_L2NORM is not None:
        yield "SOLVER.CLIP_GRAD_VAL and SOLVER.CLIP_GRAD_L2NORM are both set; leave one None"


TABLES: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (_finite, _choices, _ranges, _sizes)
RULES: list[Callable[[CfgNode], Iterator[str]]] = [
    _run, _lists, _pixels, _crops, _loss, _model, _texts, _weights, _keep, _sharding, _schedule,
    _optimizer,
]


def find_problems(cfg: CfgNode) -> list[str]:
    """Return one line for each rule that ``cfg`` breaks; none if it can run."""
    flat = flatten(cfg)
    problems = [line for table in TABLES for line in table(flat)]
    return problems + [line for rule in RULES for line in rule(cfg)]


def find_ratios(cfg) -> list[float]:
    """Return the ratios of ``TEST.PATCHING_RATIOS``, or else of ``TEST.PATCHING_MODEL``."""
    ratios = list(cfg.TEST.PATCHING_RATIOS)
    if not ratios and cfg.TEST.PATCHING_MODEL:
        ratios = [cfg.TEST.PATCHING_RATIO]
    return ratios


def check_patched(cfg, given: bool) -> None:
    """Raise a ConfigError if patching is on, but no weights are ``given`` other than CLIP's own."""
    ratios = find_ratios(cfg)
    if given or not ratios or set(ratios) == {1.0}:  # CLIP at ratio 1 is CLIP: published scripts
        return
    section = "TRAIN" if cfg.VAL_MODE else "TEST"
    raise ConfigError(
        "patching is on (TEST.PATCHING_MODEL or TEST.PATCHING_RATIOS) but there is nothing "
        f"to patch: give {section}.CUSTOM_LOAD True with {section}.CUSTOM_LOAD_FILE, or "
        f"{section}.CHECKPOINT_FILE_PATH"
    )
