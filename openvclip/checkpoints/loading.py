"""Setup shared by training and testing: precision, class names, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from openvclip.checkpoints.files import load_file, verify_file
from openvclip.clip.weights import find_not_finite, load_clip, load_state_dict_file
from openvclip.config.extensions import parse_stored
from openvclip.interpolation import StateDict, WeightPatcher
from openvclip.models.build import load_model_weights
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import CheckpointError
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import is_file

logger = get_logger(__name__)


def compute_amp_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``TRAIN.AMP_DTYPE``; ``auto`` is bf16 wherever the device supports it."""
    if name == "auto":
        native = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def build_precision(cfg, device: torch.device) -> tuple[Callable, torch.amp.GradScaler]:
    """Return the maker of training's forward passes' context, and the gradient scaler.

    Gradients are scaled for fp16 only: bf16 has fp32's range.
    """
    dtype = None
    if cfg.TRAIN.MIXED_PRECISION:
        dtype = compute_amp_dtype(cfg.TRAIN.AMP_DTYPE, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    return _autocast(dtype, device, "training"), scaler


def build_test_dtype(cfg, device: torch.device) -> torch.dtype | None:
    """Return the dtype that tests use where that is safe; None: fp32."""
    if not cfg.TEST.MIXED_PRECISION:
        return None
    return compute_amp_dtype(cfg.TRAIN.AMP_DTYPE, device)


def build_test_precision(cfg, device: torch.device) -> Callable:
    """Return the maker of the context that tests and validation compute in.

    That is fp32, as published, unless ``TEST.MIXED_PRECISION``; training's setting has no effect.
    """
    return _autocast(build_test_dtype(cfg, device), device, "tests and validation")


def name_dtype(dtype: torch.dtype | None) -> str:
    """Return such as ``bfloat16``; None is ``float32``."""
    return str(dtype or torch.float32).removeprefix("torch.")


def _autocast(dtype: torch.dtype | None, device: torch.device, what: str) -> Callable:
    if dtype is None:
        return nullcontext
    logger.info("mixed precision in %s: %s on %s", what, name_dtype(dtype), device.type)
    return partial(torch.autocast, device.type, dtype=dtype)


def read_weights(path: str | Path) -> StateDict:
    """Read the weights of a checkpoint, of any origin, under CLIP's names.

    Raises:
        CheckpointError: it is missing, damaged, or holds no weights.
        ConfigError: its config names extensions that the user has not named.
    """
    if is_file(Path(path).expanduser()):
        verify_file(path)
    _check_extensions(path)
    return load_state_dict_file(path)


def load_weights(model: VideoCLIP, path: str | Path, *, leave_head: bool = False) -> bool:
    """Load the weights of a checkpoint, of any origin, into the model; every key must match.

    Args:
        model: what to load into.
        path: the checkpoint.
        leave_head: do not use a tuned head (TUNE_HEAD) in the file: it knows only its own classes.

    Returns:
        Whether the text tower has changed. A classifier that it made is then outdated.
    """
    state = read_weights(path)
    if leave_head and state.pop("head", None) is not None:
        logger.warning("%s has a head tuned for its own classes, which is not used", path)
    text = copy_text_tower(model)
    load_model_weights(model, state, str(path))
    changed = text_tower_differs(model, text)
    logger.info("loaded the weights of %s%s", path,
                ", whose text tower is not the original CLIP's" if changed else "")
    return changed


def load_finite(model: VideoCLIP, path: str | Path, *, leave_head: bool = False) -> bool:
    """Load weights to compute with, see :func:`load_weights`.

    Raises:
        CheckpointError: one of them is NaN or infinite.
    """
    changed = load_weights(model, path, leave_head=leave_head)
    check_finite(dict(model.named_parameters()), str(path))
    return changed


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
    temporal_type: str | None = None, num_frames: int = 8, backbone: str = "clip",
) -> VideoCLIP:
    """Load CLIP, or a checkpoint patched with it, as a model without classes.

    Args:
        clip: file, or open_clip name, of the original CLIP.
        checkpoint: fine-tuned weights; None: the original CLIP. A tuned head is not used.
        ratio: share of CLIP in the weights, 0 to 1; None: the unpatched checkpoint.
        temporal_type, num_frames, backbone: see
            :func:`openvclip.models.temporal.build_temporal_clip`.

    Raises:
        CheckpointError: a file is missing, damaged, contains NaN or does not fit.
    """
    original = load_clip(clip)
    tower = build_temporal_clip(
        original, temporal_type=temporal_type, num_frames=num_frames, where=str(clip),
        backbone=backbone)
    model = VideoCLIP(tower, num_frames, torch.zeros(0, tower.embed_dim))
    if checkpoint is None:
        return model
    load_finite(model, checkpoint, leave_head=True)
    if ratio is not None:
        names = {f"model.{name}": tensor for name, tensor in original.items()}
        WeightPatcher(dict(model.named_parameters()), names).set_ratio(ratio)
    return model


def _check_extensions(path: str | Path) -> None:
    """Refuse weights whose own config names extensions that the user has not named."""
    try:
        config = load_file(path, verify=False).get("cfg")
    except CheckpointError:  # an archive; or damaged, which loading its weights will say better
        return
    parse_stored(config, path)


def copy_text_tower(model: VideoCLIP) -> StateDict:
    """Copy the weights of the text tower."""
    return {name: p.detach().clone() for name, p in model.model.text_parameters().items()}


def text_tower_differs(model: VideoCLIP, other: StateDict) -> bool:
    """Whether the text tower differs from what :func:`copy_text_tower` returned."""
    return any(not torch.equal(p, other[name])
               for name, p in model.model.text_parameters().items())


def load_original_clip(source: str | Path) -> StateDict:
    """Read the original CLIP under the tensor names of a :class:`VideoCLIP`."""
    return {f"model.{name}": tensor for name, tensor in load_clip(source).items()}


def unwrap(model: nn.Module) -> VideoCLIP:
    """The model inside DistributedDataParallel, or the model itself."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return cast(VideoCLIP, model.module if wrapped else model)
