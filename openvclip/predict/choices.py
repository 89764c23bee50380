"""The weights, device and precision that a user chooses, checked before any work."""

from __future__ import annotations

from pathlib import Path

import torch

from openvclip.checkpoints.loading import compute_amp_dtype
from openvclip.clip.weights import ARCH_FILES, SUFFIXES, default_clip_path
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.paths import local_weights


def check_sources(
    clip: str | Path, checkpoint: str | Path | None, patching_ratio: float | None
) -> str:
    """Return the file or open_clip name of the CLIP, if all that :func:`load_model` takes exists.

    Raises:
        ConfigError: the ratio is outside 0..1, or there is nothing to patch.
        CheckpointError: a file does not exist.
    """
    if patching_ratio is not None:
        if checkpoint is None:
            raise ConfigError("a patching ratio mixes a checkpoint with CLIP, but no checkpoint is "
                              "given; give one (--checkpoint) or leave the ratio out")
        if not 0.0 <= patching_ratio <= 1.0:
            raise ConfigError(f"the patching ratio is {patching_ratio:g}; give a share, 0 to 1")
    name = str(default_clip_path(str(clip)) if str(clip) in ARCH_FILES else clip)
    path = local_weights(name)
    named_as_file = path.suffix in SUFFIXES or name.startswith(("/", ".", "~"))
    if named_as_file and not path.is_file():
        raise CheckpointError(f"CLIP {path} does not exist or is not a file; check --clip")
    if checkpoint is not None and not local_weights(checkpoint).is_file():
        raise CheckpointError(f"checkpoint {checkpoint} does not exist or is not a file; check "
                              "--checkpoint")
    return name


def select_device(name: str) -> torch.device:
    """Return the device that auto, cpu, cuda or cuda:N names.

    Raises:
        ConfigError: the name is unknown, or there is no such device.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (not number or number.isdecimal())):
        raise ConfigError(f"the device is {name!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"the device is {name!r}, but this machine has {count} GPUs; give auto, "
                          "cpu or another")
    return torch.device(name)


def compute_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of forward passes, None for float32."""
    if name not in ("float32", "auto", "bfloat16", "float16"):
        raise ConfigError(f"the precision is {name!r}; give float32, auto, bfloat16 or float16")
    return None if name == "float32" else compute_amp_dtype(name, device)
