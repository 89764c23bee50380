"""Training checkpoints: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvclip.utils.errors import CheckpointError
from openvclip.utils.logging import get_logger

FOLDER = "checkpoints"
PATTERN = re.compile(r"^checkpoint_epoch_(\d{5})\.pyth$")

logger = get_logger(__name__)


def save_file(path: str | Path, content: Any) -> Path:
    """Write ``content`` with ``torch.save`` under a temporary name, then rename it.

    A reader, or a run killed at any moment, sees the old file or the new one, never a part.

    Raises:
        CheckpointError: the file cannot be written (a full disk, no permission); an older file of
            that name is then still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error}; free space or choose another OUTPUT_DIR"
        ) from error
    return path


def load_file(path: str | Path) -> dict:
    """Read a file of :func:`save_file` onto the CPU, tensors memory-mapped.

    Raises:
        CheckpointError: it is missing, damaged, or holds something other than tensors and plain
            values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(
            f"cannot read checkpoint {path} ({path.stat().st_size} bytes): "
            f"{str(error).splitlines()[0]}; it is damaged or no checkpoint: delete it or give "
            "another"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def checkpoint_path(output_dir: str | Path, number: int) -> Path:
    """Path of the checkpoint after ``number`` epochs (its file number is epoch + 1)."""
    return Path(output_dir) / FOLDER / f"checkpoint_epoch_{number:05d}.pyth"


def list_checkpoints(folder: str | Path) -> dict[int, Path]:
    """Checkpoints in ``folder`` by number, in ascending order."""
    folder = Path(folder)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = ((PATTERN.match(name), name) for name in names)
    return {int(match.group(1)): folder / name for match, name in found if match}


def load_last_checkpoint(output_dir: str | Path) -> tuple[Path, dict] | None:
    """Read the newest usable checkpoint of a run, or return None if it has none.

    A damaged one is reported and the one before it is used.
    """
    for path in reversed(list_checkpoints(Path(output_dir) / FOLDER).values()):
        try:
            return path, load_file(path)
        except CheckpointError as error:
            logger.warning("%s; trying the checkpoint before it", error)
    return None


def get_random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's global generators, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())
