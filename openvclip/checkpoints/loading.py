"""Weights and precision for training and tests; ``build_tested`` is the door for what is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.held import CURRENT, choose_weights
from openvclip.clip.towers import TOWER, TowerSpec, load_tower
from openvclip.clip.weights import find_not_finite, find_state_dict, read_file
from openvclip.config.extensions import parse_stored
from openvclip.config.validate import check_patched, find_ratios
from openvclip.interpolation import StateDict, WeightPatcher, Weights, WeightsAndClassifier
from openvclip.models.build import (
    build_classifier,
    build_clip_source,
    build_model,
    load_model_weights,
)
from openvclip.models.experts import Experts
from openvclip.models.raw import RawEnsemble, build_raw_model
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils import distributed
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import is_file, local_weights
from openvclip.utils.shards import is_sharded, local

logger = get_logger(__name__)


def compute_amp_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``TRAIN.AMP_DTYPE``; ``auto`` is bf16 wherever the device supports it."""
    if name == "auto":
        native = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def name_dtype(dtype: torch.dtype | None) -> str:
    """Return such as ``bfloat16``; None is ``float32``."""
    return str(dtype or torch.float32).removeprefix("torch.")


def build_dtype(cfg, device: torch.device, section: str) -> torch.dtype | None:
    """Return the dtype that ``section``, TRAIN or TEST, uses where that is safe; None: fp32."""
    if not cfg[section].MIXED_PRECISION:
        return None
    return compute_amp_dtype(cfg.TRAIN.AMP_DTYPE, device)


def build_autocast(cfg, device: torch.device, section: str) -> Callable:
    """Return the maker of the context of the forward passes.

    ``section`` is TRAIN, or TEST for tests and validation. These are in fp32, as published, unless
    ``TEST.MIXED_PRECISION``; training's setting has no effect.
    """
    dtype = build_dtype(cfg, device, section)
    if dtype is None:
        return nullcontext
    what = {"TRAIN": "training", "TEST": "tests and validation"}[section]
    logger.info("mixed precision in %s: %s on %s", what, name_dtype(dtype), device.type)
    return partial(torch.autocast, device.type, dtype=dtype)


def build_scaler(cfg, device: torch.device) -> torch.amp.GradScaler:
    """Return the gradient scaler, which scales for fp16 only: bf16 has fp32's range."""
    enabled = build_dtype(cfg, device, "TRAIN") == torch.float16
    return torch.amp.GradScaler(device.type, enabled=enabled)


def build_tested(
    cfg, class_names: Sequence[str] | None, device: torch.device
) -> tuple[VideoCLIP, Weights, list[float], str | None]:
    """Load what a test asks: the model, and what patches its weights.

    The weights are those of ``TEST.CUSTOM_LOAD_FILE`` (with ``TEST.CUSTOM_LOAD``), else of
    ``TEST.CHECKPOINT_FILE_PATH``, else the last checkpoint of the training that this same run did.
    A checkpoint that merely exists in ``OUTPUT_DIR`` is not used: a test of raw CLIP must remain
    one. ``TEST.WEIGHTS`` says which of the file's weights.

    Args:
        cfg: the resolved config.
        class_names: of the model's classifier; None: it has none.
        device: where to put the model.

    Returns:
        The model; its weights and ratios, see :func:`build_weights`; the file, or None for CLIP.

    Raises:
        CheckpointError: the file does not fit, is not finite, or has no such weights.
        ConfigError: such weights are asked for, but there is no file.
    """
    model = build_model(cfg, class_names)
    test, own_text = cfg.TEST, False
    checkpoint = test.CUSTOM_LOAD_FILE if test.CUSTOM_LOAD else test.CHECKPOINT_FILE_PATH
    checkpoint = checkpoint or _find_trained(cfg.OUTPUT_DIR, just_now=cfg.TRAIN.ENABLE)
    if checkpoint is None and test.WEIGHTS != CURRENT:
        raise ConfigError(f"TEST.WEIGHTS is {test.WEIGHTS!r}, but there is no checkpoint; name it "
                          "in TEST.CHECKPOINT_FILE_PATH")
    if checkpoint is None:
        require_prompts(model, None)
        logger.info("testing the untouched CLIP: no checkpoint was given")
    else:
        own_text = load_weights(model, checkpoint, finite=True, which=test.WEIGHTS)
    model = model.to(device)
    if cfg.MODEL.ENSEMBLE_PRED:
        if class_names is None:
            raise ConfigError(f"MODEL.ENSEMBLE_PRED is True, which mixes logits of classes; "
                              f"TEST.TASK {cfg.TEST.TASK!r} has none: set it to False")
        model.register_forward_hook(
            RawEnsemble(build_raw_model(cfg, model), cfg.MODEL.ENSEMBLE_RAWMODEL_RATIO))
    weights, ratios = build_weights(cfg, model, checkpoint)
    if own_text and class_names is not None:
        embed = partial(build_classifier, cfg, label_names=class_names)
        weights = WeightsAndClassifier.embedded(weights, model, embed, ratios or [0.0])
    return model, weights, ratios, checkpoint


def _find_trained(output_dir: str, just_now: bool) -> str | None:
    """Return the last checkpoint of OUTPUT_DIR if it was trained just now; warn of an older one."""
    checkpoints = ckpt.list_checkpoints(Path(output_dir) / ckpt.FOLDER)
    if not checkpoints:
        return None
    last = str(checkpoints[max(checkpoints)])
    if just_now:
        return last
    logger.warning("%s lies in OUTPUT_DIR but is not tested; name it in TEST.CHECKPOINT_FILE_PATH "
                   "if it should be", last)
    return None


def build_weights(cfg, model: VideoCLIP, checkpoint: str | None) -> tuple[Weights, list[float]]:
    """Build the weights to test, and the ratios at which to patch them; none: unpatched.

    ``checkpoint`` is the file that the model's weights come from; None: they are CLIP's.

    Raises:
        ConfigError: there is nothing to patch.
    """
    ratios = find_ratios(cfg)
    if not ratios:
        return Weights(), []
    check_patched(cfg, given=checkpoint is not None)
    source = cfg.TEST.CLIP_ORI_PATH or build_clip_source(cfg)
    original = load_original_clip(source, getattr(model.model, "tower", None))
    patcher = WeightPatcher(dict(model.named_parameters()), original)
    logger.info(
        "patching %d tensors of %s with %s at %s", len(patcher.names), checkpoint or "CLIP", source,
        ", ".join(f"{r:g}" for r in ratios),
    )
    return patcher, ratios


def read_weights(path: str | Path, which: str = CURRENT) -> StateDict:
    """Read the weights of a checkpoint, of any origin, under CLIP's names.

    Args:
        path: the checkpoint.
        which: see :func:`openvclip.checkpoints.held.choose_weights`.

    Raises:
        CheckpointError: it is missing, damaged, or holds no (such) weights.
        ConfigError: its config names extensions that the user has not named.
    """
    if is_file(Path(path).expanduser()):
        ckpt.verify_file(path)
    parse_stored(ckpt.read_content(path).get("cfg"), path)
    return find_state_dict(choose_weights(read_file(path), which, path), local_weights(path))


def load_weights(
    model: VideoCLIP, path: str | Path, *, leave_head: bool = False, finite: bool = False,
    which: str = CURRENT,
) -> bool:
    """Load the weights of a checkpoint, of any origin, into the model; every key must match.

    Args:
        model: what to load into.
        path: the checkpoint.
        leave_head: do not use a tuned head (TUNE_HEAD) in the file: it knows only its own classes;
            give the model the prompts (MODEL.TEXT_PROMPT) in it.
        finite: refuse weights that are NaN or infinite, or leave prompts untrained.
        which: see :func:`openvclip.checkpoints.held.choose_weights`.

    Returns:
        Whether the text tower has changed. A classifier that it made is then outdated.

    Raises:
        CheckpointError: they do not fit, or as :func:`read_weights`.
    """
    state = read_weights(path, which)
    if leave_head and state.pop("head", None) is not None:
        logger.warning("%s has a head tuned for its own classes, which is not used", path)
    if leave_head and "prompt_embed" in state:  # they serve any classes
        model.model.add_prompts(len(state["prompt_embed"]))
    check_tower(path, getattr(model.model, "tower", None))
    text = copy_text_tower(model)
    if finite:
        require_prompts(model, state, str(path))
    load_model_weights(model, state, str(path))
    changed = text_tower_differs(model, text)
    logger.info("loaded the %sweights of %s%s", "" if which == CURRENT else f"{which} ", path,
                ", whose text tower is not the original CLIP's" if changed else "")
    if finite:
        check_finite(dict(model.named_parameters()), str(path))
    return changed


def require_prompts(
    model: VideoCLIP, state: Mapping[str, torch.Tensor] | None, where: str = ""
) -> None:
    """Raise a CheckpointError if the model's prompts are not those of a checkpoint."""
    if model.model.prompts is not None and "prompt_embed" not in (state or {}):
        raise CheckpointError(
            (f"{where} has no trained prompts" if state else "the original CLIP has no prompts")
            + ", but MODEL.TEXT_PROMPT is True; set it False, or give a checkpoint that has them"
        )


def check_tower(path: str | Path, tower: TowerSpec | None) -> None:
    """Raise a CheckpointError if a checkpoint says that it is of other towers than ``tower``.

    Heads and activations are not in the weights, so that names and shapes may fit nevertheless.
    """
    stored = ckpt.read_content(path).get(TOWER)
    if tower is None or not isinstance(stored, Mapping):
        return
    own = TowerSpec.from_dict(stored, str(path))
    if not own.fits(tower):
        raise CheckpointError(f"{path} was trained from {own.label}, but the CLIP here is "
                              f"{tower.label}; set MODEL.CLIP_PATH to the tower of the checkpoint")


def check_finite(
    state: Mapping[str, torch.Tensor], where: str,
    remedy: str = "test an earlier checkpoint, and train again from one that is finite",
) -> None:
    """Raise a CheckpointError, by name, if weights hold NaN or infinity."""
    broken = [name.removeprefix("model.") for name in find_not_finite(state)]
    if broken:
        raise CheckpointError(
            f"{where} holds NaN or infinity in {len(broken)} tensors ({', '.join(broken[:3])}"
            f"{', ...' if len(broken) > 3 else ''}), with which every score is NaN; {remedy}"
        )


def load_patched(
    clip: str | Path, checkpoint: str | Path | None, ratio: float | None = None, *,
    temporal_type: str | None = None, num_frames: int = 8, backbone: str = "auto",
    edges: str = "zeros", experts: Experts | None = None, which: str = CURRENT,
) -> VideoCLIP:
    """Load CLIP, or a checkpoint patched with it, as a model without classes.

    Args:
        clip: file, or open_clip name, of the original CLIP.
        checkpoint: fine-tuned weights; None: the original CLIP. A tuned head is not used.
        ratio: share of CLIP in the weights, 0 to 1; None: the unpatched checkpoint.
        temporal_type, num_frames, backbone, edges, experts: see
            :func:`openvclip.models.temporal.build_temporal_clip`.
        which: see :func:`openvclip.checkpoints.held.choose_weights`.

    Raises:
        CheckpointError: a file is missing, damaged, contains NaN or does not fit.
    """
    spec, original = load_tower(clip)
    towers = build_temporal_clip(
        original, temporal_type=temporal_type, num_frames=num_frames, where=str(clip),
        backbone=backbone, tower=spec, edges=edges, experts=experts)
    model = VideoCLIP(towers, num_frames, torch.zeros(0, towers.embed_dim))
    if checkpoint is None:
        return model
    load_weights(model, checkpoint, leave_head=True, finite=True, which=which)
    if ratio is not None:
        names = {f"model.{name}": tensor for name, tensor in original.items()}
        WeightPatcher(dict(model.named_parameters()), names).set_ratio(ratio)
    return model


def copy_text_tower(model: VideoCLIP) -> StateDict:
    """Copy the weights of the text tower."""
    return {name: p.detach().clone() for name, p in model.model.text_parameters().items()}


def text_tower_differs(model: VideoCLIP, other: StateDict) -> bool:
    """Whether the text tower differs from what :func:`copy_text_tower` returned."""
    parameters = model.model.text_parameters()
    differs = any(not torch.equal(local(p), local(other[name])) for name, p in parameters.items())
    if any(map(is_sharded, parameters.values())):  # each process saw its part only
        return any(distributed.all_gather_object(differs))
    return differs


def load_original_clip(source: str | Path, tower: TowerSpec | None = None) -> StateDict:
    """Read the original CLIP under the tensor names of a :class:`VideoCLIP`.

    Raises:
        CheckpointError: it is not one, or it computes otherwise than ``tower``, the model's, does.
    """
    own, state = load_tower(source)
    if tower is not None and not own.fits(tower):
        raise CheckpointError(f"{source} is {own.label}, but the model was made from "
                              f"{tower.label}; mix it with the CLIP that it was made from")
    return {f"model.{name}": tensor for name, tensor in state.items()}


def unwrap(model: nn.Module) -> VideoCLIP:
    """The model inside DistributedDataParallel, or the model itself."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return cast(VideoCLIP, model.module if wrapped else model)
