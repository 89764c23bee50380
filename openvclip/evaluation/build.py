"""cfg -> the tests that it asks for."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvclip import __version__
from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import (
    build_test_dtype,
    build_test_precision,
    load_finite,
    load_original_clip,
    name_dtype,
)
from openvclip.checkpoints.training_config import find_overlap, find_training
from openvclip.config.defaults import flatten
from openvclip.config.doors import TASKS
from openvclip.config.validate import check_patched, find_ratios
from openvclip.data.loader import Loader, build_loader
from openvclip.evaluation.runner import Runner
from openvclip.evaluation.tasks.task import Setup, Task
from openvclip.interpolation import WeightPatcher, Weights, WeightsAndClassifier
from openvclip.models.build import build_classifier, build_clip_source, build_model
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils import distributed
from openvclip.utils.files import compute_file_hash
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# Keys of DATA and TEST, by their beginnings, that scores do not depend on.
NOT_IN_SCORES = ("DATA.CACHE_", "DATA.MAX_BAD_FRACTION", "TEST.BATCH_SIZE", "TEST.RESUME",
                 "TEST.SAVE_RESULTS_PATH", "TEST.NUM_TEMPORAL_CLIPS")

# Facts on which scores do not depend.
NO_CAUSE = ("config_sha256", "draw", "trained_on", "tested_on_training")


def build_runners(cfg) -> Iterator[Runner]:
    """Build the test that ``TEST.TASK`` names, or one for each of ``TEST.NUM_TEMPORAL_CLIPS``.

    Results of several numbers of views go to ``OUTPUT_DIR/views_N``. Each test is built when it is
    asked for.
    """
    if not cfg.TEST.NUM_TEMPORAL_CLIPS:
        yield build_runner(cfg, cfg.OUTPUT_DIR)
    for views in cfg.TEST.NUM_TEMPORAL_CLIPS:
        variant = cfg.clone()
        variant.defrost()
        variant.TEST.NUM_ENSEMBLE_VIEWS = views
        if variant.TEST.SAVE_RESULTS_PATH:
            variant.TEST.SAVE_RESULTS_PATH = f"views_{views}/{cfg.TEST.SAVE_RESULTS_PATH}"
        variant.freeze()
        yield build_runner(variant, Path(cfg.OUTPUT_DIR) / f"views_{views}")


def build_runner(cfg, output_dir: str | Path) -> Runner:
    """Build one test; lists, class names and weights are read and checked here.

    Args:
        cfg: the resolved config.
        output_dir: where the results go.
    """
    device = distributed.select_device(cfg.NUM_GPUS)
    task: Task = TASKS.get(cfg.TEST.TASK).build(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.rank(), world_size=distributed.world_size(), device=device,
        videos=task.videos,
    )
    model = build_model(cfg, task.class_names)
    checkpoint, own_text = build_tested(cfg, model)
    model = model.to(device)
    weights, ratios = build_weights(cfg, model, checkpoint)
    if own_text and task.class_names is not None:
        embed = partial(build_classifier, cfg, label_names=task.class_names)
        weights = WeightsAndClassifier.embedded(weights, model, embed, ratios or [0.0])
    autocast = build_test_precision(cfg, device)
    facts = {**task.prepare(model),
             **build_facts(cfg, checkpoint, device, loader.dataset.videos.paths)}
    path = cfg.TEST.SAVE_RESULTS_PATH
    setup = Setup(
        model=model,
        loader=loader,
        device=device,
        output_dir=Path(output_dir),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        weights=weights,
        ratios=list(dict.fromkeys(ratios)),
        autocast=autocast,
        save_path=Path(cfg.OUTPUT_DIR) / path if path else None,
        log_period=cfg.LOG_PERIOD,
    )
    key = build_resume_key(cfg, facts, loader, ratios) if cfg.TEST.RESUME else None
    return Runner(task, setup, facts, key)


def build_tested(cfg, model: VideoCLIP) -> tuple[str | None, bool]:
    """Load the weights to test into the model.

    ``TEST.CUSTOM_LOAD_FILE`` (with ``TEST.CUSTOM_LOAD``), then ``TEST.CHECKPOINT_FILE_PATH``, then
    the last checkpoint of the training that this same run did. A checkpoint that merely exists in
    ``OUTPUT_DIR`` is not used: a test of raw CLIP must remain one.

    Returns:
        The file, or None for the untouched CLIP, and whether it has a text tower of its own.

    Raises:
        CheckpointError: it does not fit, or is not finite.
    """
    test = cfg.TEST
    checkpoint = test.CUSTOM_LOAD_FILE if test.CUSTOM_LOAD else test.CHECKPOINT_FILE_PATH
    if not checkpoint:
        checkpoint = _find_trained(cfg.OUTPUT_DIR, just_now=cfg.TRAIN.ENABLE)
    if checkpoint is None:
        logger.info("testing the untouched CLIP: no checkpoint was given")
        return None, False
    return checkpoint, load_finite(model, checkpoint)


def _find_trained(output_dir: str, just_now: bool) -> str | None:
    """Return the last checkpoint of OUTPUT_DIR if it was trained just now; warn of an older one."""
    checkpoints = ckpt.list_checkpoints(Path(output_dir) / ckpt.FOLDER)
    if not checkpoints:
        return None
    last = str(checkpoints[max(checkpoints)])
    if just_now:
        return last
    logger.warning(
        "%s lies in OUTPUT_DIR but is not tested; name it in TEST.CHECKPOINT_FILE_PATH if it "
        "should be", last,
    )
    return None


def build_weights(cfg, model: nn.Module, checkpoint: str | None) -> tuple[Weights, list[float]]:
    """Build the weights to test, and the ratios at which to patch them; none: unpatched.

    Args:
        cfg: the resolved config.
        model: holds the weights to patch.
        checkpoint: the file they come from; None: they are CLIP's.

    Raises:
        ConfigError: there is nothing to patch.
    """
    ratios = find_ratios(cfg)
    if not ratios:
        return Weights(), []
    check_patched(cfg, given=checkpoint is not None)
    source = cfg.TEST.CLIP_ORI_PATH or build_clip_source(cfg)
    patcher = WeightPatcher(dict(model.named_parameters()), load_original_clip(source))
    logger.info(
        "patching %d tensors of %s with %s at %s", len(patcher.names), checkpoint or "CLIP", source,
        ", ".join(f"{r:g}" for r in ratios),
    )
    return patcher, ratios


def build_facts(
    cfg, checkpoint: str | None, device: torch.device, paths: Sequence[str]
) -> dict[str, Any]:
    """Return what is needed for comparing results: weights, sampling, versions.

    ``paths`` are those of the tested videos, to determine which of them were trained on.
    """
    source = build_clip_source(cfg)
    return {
        "arch": cfg.MODEL.ARCH,
        "clip": {"source": str(source), "sha256": compute_file_hash(source)},
        "checkpoint": checkpoint
        and {"file": checkpoint, "sha256": compute_file_hash(checkpoint)},
        "trained_on": find_training(checkpoint),
        "tested_on_training": find_overlap(checkpoint, paths, cfg.DATA.PATH_PREFIX)
        if distributed.is_main() else None,
        "temporal_modeling": cfg.MODEL.TEMPORAL_MODELING_TYPE,
        "frames": cfg.DATA.NUM_FRAMES,
        "sampling_rate": cfg.DATA.SAMPLING_RATE,
        "views": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
        "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
        "seed": cfg.RNG_SEED,
        "precision": name_dtype(build_test_dtype(cfg, device)),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "openvclip": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def build_resume_key(
    cfg, facts: dict[str, Any], loader: Loader, ratios: Sequence[float]
) -> dict[str, Any]:
    """Return everything that the outputs of a test depend on.

    The videos' contents are not read for this: their paths represent them.
    """
    keys = {name: value for name, value in flatten(cfg).items()
            if name.startswith(("DATA.", "TEST.", "MODEL.MODEL_NAME", "MODEL.CONTEXT_LENGTH"))
            and not name.startswith(NOT_IN_SCORES)}
    if cfg.MODEL.BACKBONE != "clip":  # which logs of versions without the key stand for
        keys["MODEL.BACKBONE"] = cfg.MODEL.BACKBONE
    rows = "\n".join(loader.dataset.videos.paths)
    return {
        "facts": {name: value for name, value in facts.items() if name not in NO_CAUSE},
        "keys": keys,
        "compiled": cfg.MODEL.COMPILE,
        "rows": hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest(),
        "group": loader.group,
        "ratios": ratios,
        "patched_with": compute_file_hash(cfg.TEST.CLIP_ORI_PATH) if cfg.TEST.CLIP_ORI_PATH
        else facts["clip"]["sha256"],
    }
