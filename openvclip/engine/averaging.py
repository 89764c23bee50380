"""Averaging of epoch checkpoints (SWA), one file in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openvclip.clip.weights import check_tensors
from openvclip.engine import checkpoint as ckpt
from openvclip.engine.setup import load_original_clip
from openvclip.interpolation import StateDict, average_state_dicts
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import Progress, get_logger

logger = get_logger(__name__)


def find_checkpoints(source: str | Path, start: int, end: int) -> dict[int, Path]:
    """Find the checkpoints ``start`` .. ``end``, both included, in a run's folder.

    Args:
        source: folder with ``checkpoint_epoch_NNNNN.pyth``, or the ``OUTPUT_DIR`` above it.
        start: first file number (epoch + 1), at least 1.
        end: last file number.

    Raises:
        CheckpointError: some are missing; averaging others instead would be another result.
    """
    source = Path(source)
    if not source.is_dir():
        raise CheckpointError(f"there is no folder {source} to take checkpoints from")
    found = ckpt.list_checkpoints(source) or ckpt.list_checkpoints(source / ckpt.FOLDER)
    missing = [n for n in range(start, end + 1) if n not in found]
    if missing:
        there = f"{min(found)}..{max(found)} ({len(found)} files)" if found else "none"
        raise CheckpointError(
            f"{source} lacks {len(missing)} of the checkpoints {start}..{end}: "
            f"{', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}; it has "
            f"{there}. Wait for the training to end, or change --start and --end"
        )
    return {number: found[number] for number in range(start, end + 1)}


def load_model_state(path: str | Path) -> StateDict:
    """Read the ``model_state`` of a checkpoint; its tensors stay memory-mapped."""
    content = ckpt.load_file(path)
    if "model_state" not in content:
        raise CheckpointError(f"{path} has no model_state: it is not a training checkpoint")
    state = content["model_state"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: model_state is a {type(state).__name__}, not tensors")
    check_tensors(state, str(path))
    return state


def average_checkpoints(
    source: str | Path, *, start: int, end: int, output: str | Path, clip: str | Path | None = None
) -> Path:
    """Write the mean of the checkpoints ``start`` .. ``end`` as ``{"model_state": ...}``.

    Beside it ``"cfg"``, the config of the last one, if that has it.

    Args:
        source: as for :func:`find_checkpoints`.
        start: first file number; 0 stands for the original CLIP.
        end: last file number, included.
        output: file to write.
        clip: weights of the original CLIP, needed with ``start`` 0.

    Raises:
        ConfigError: the range is empty or negative, or ``clip`` is missing or has no use.
        CheckpointError: a checkpoint is missing, damaged or of another shape.
    """
    if start < 0 or end < start:
        raise ConfigError(f"--start {start} --end {end}: give 0 <= start <= end")
    if start == 0 and clip is None:
        raise ConfigError("--start 0 takes the original CLIP into the mean; name it by --clip")
    if start > 0 and clip is not None:
        raise ConfigError("--clip has a use with --start 0 only; drop it, or start at 0")
    paths = find_checkpoints(source, max(start, 1), end)
    names = [str(clip)] if start == 0 else []
    names += [str(path) for path in paths.values()]

    def states() -> Iterator[StateDict]:
        progress = Progress(len(names), "averaging", "checkpoints")
        if start == 0:
            yield load_original_clip(clip)
            progress.update()
        for path in paths.values():
            yield load_model_state(path)
            progress.update()

    average = average_state_dicts(states(), names=names.__getitem__)
    content = {"model_state": average}
    config = ckpt.load_file(paths[end], verify=False).get("cfg") if paths else None
    if config is not None:  # What the weights were trained as, for whoever loads the file alone.
        content["cfg"] = config
    ckpt.save_file(output, content)
    logger.info("wrote the mean of %d checkpoints (%d..%d) to %s", len(names), start, end, output)
    return Path(output)
