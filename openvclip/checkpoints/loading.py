"""What training and testing set up in the same way: precision, class names, weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn

from openvclip.checkpoints.files import load_file, verify_file
from openvclip.clip.weights import load_clip, load_state_dict_file
from openvclip.config.extensions import parse_stored
from openvclip.interpolation import StateDict
from openvclip.models.build import load_model_weights
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import CheckpointError
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import is_file

logger = get_logger(__name__)


def compute_amp_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``TRAIN.AMP_DTYPE``; ``auto`` is bf16 wherever the device computes it."""
    if name == "auto":
        native = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def build_precision(cfg, device: torch.device) -> tuple[Callable, torch.amp.GradScaler]:
    """Return the maker of training's forward passes' context, and the gradient scaler.

    Gradients are scaled for fp16 only: bf16 has fp32's range.
    """
    dtype = _amp_dtype(cfg, "TRAIN", device)
    scaled = dtype == torch.float16
    return _autocast(dtype, device), torch.amp.GradScaler(device.type, enabled=scaled)


def build_test_precision(cfg, device: torch.device) -> Callable:
    """Return the maker of the context that tests and validation compute in.

    That is fp32, as published, unless ``TEST.MIXED_PRECISION``; training's has no say in it.
    """
    return _autocast(_amp_dtype(cfg, "TEST", device), device)


def name_test_precision(cfg, device: torch.device) -> str:
    """Return ``float32``, or the dtype that tests compute in where that is safe."""
    mixed = cfg.TEST.MIXED_PRECISION
    return _name(compute_amp_dtype(cfg.TRAIN.AMP_DTYPE, device) if mixed else torch.float32)


def _amp_dtype(cfg, section: str, device: torch.device) -> torch.dtype | None:
    """The dtype that ``section`` computes in where that is safe; None: fp32."""
    if not cfg[section].MIXED_PRECISION:
        return None
    dtype = compute_amp_dtype(cfg.TRAIN.AMP_DTYPE, device)
    logger.info("mixed precision in %s: %s on %s", "training" if section == "TRAIN"
                else "tests and validation", _name(dtype), device.type)
    return dtype


def _autocast(dtype: torch.dtype | None, device: torch.device) -> Callable:
    return nullcontext if dtype is None else partial(torch.autocast, device.type, dtype=dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_weights(model: VideoCLIP, path: str | Path, *, leave_head: bool = False) -> bool:
    """Load the weights of a checkpoint, of whatever origin, into the model; every key must fit.

    Args:
        model: what to load into.
        path: the checkpoint.
        leave_head: a tuned head (TUNE_HEAD) in the file is not used: it knows its own classes only.

    Returns:
        Whether the text tower is another one now. A classifier that it made is then outdated.
    """
    if is_file(path):
        verify_file(path)
    _check_extensions(path)
    state = load_state_dict_file(path)
    if leave_head and state.pop("head", None) is not None:
        logger.warning("%s has a head tuned for its own classes, which is not used", path)
    text = copy_text_tower(model)
    load_model_weights(model, state, str(path))
    changed = text_tower_differs(model, text)
    logger.info("loaded the weights of %s%s", path,
                ", whose text tower is not the original CLIP's" if changed else "")
    return changed


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
    """Whether the text tower is another than what :func:`copy_text_tower` gave."""
    return any(not torch.equal(p, other[name])
               for name, p in model.model.text_parameters().items())


def load_original_clip(source: str | Path) -> StateDict:
    """Read the original CLIP under the names that a :class:`VideoCLIP` has its tensors by."""
    return {f"model.{name}": tensor for name, tensor in load_clip(source).items()}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
