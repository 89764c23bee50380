"""Merging of epoch checkpoints, by default their mean (SWA): one file in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.held import CURRENT, HELD, choose_weights
from openvclip.checkpoints.loading import load_original_clip
from openvclip.checkpoints.training_config import VIDEOS
from openvclip.clip.towers import TOWER
from openvclip.clip.weights import check_tensors, drop_raw_model, find_not_finite
from openvclip.interpolation import StateDict
from openvclip.interpolation.merging.mean import PlainMean
from openvclip.interpolation.merging.method import MergeMethod, Sources
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import Progress, get_logger

logger = get_logger(__name__)


def find_checkpoints(source: str | Path, start: int, end: int) -> dict[int, Path]:
    """Find the checkpoints ``start`` .. ``end``, both included, in a run's folder.

    Args:
        source: folder with ``checkpoint_epoch_NNNNN.pyth``, or the ``OUTPUT_DIR`` above it.
        start, end: first and last file number (epoch + 1), at least 1.

    Raises:
        CheckpointError: some are missing; averaging others instead would give a different result.
    """
    source = Path(source)
    if not source.is_dir():
        raise CheckpointError(f"there is no folder {source} to take checkpoints from")
    files = ckpt.list_checkpoints(source) or ckpt.list_checkpoints(source / ckpt.FOLDER)
    missing = [n for n in range(start, end + 1) if n not in files]
    if missing:
        there = f"{min(files)}..{max(files)} ({len(files)} files)" if files else "none"
        raise CheckpointError(
            f"{source} lacks {len(missing)} of the checkpoints {start}..{end}: "
            f"{', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}; it has "
            f"{there}. Wait for training to end, or change --start and --end"
        )
    return {number: files[number] for number in range(start, end + 1)}


def load_model_state(path: str | Path, which: str = CURRENT) -> StateDict:
    """Read the ``model_state`` of a checkpoint; its tensors stay memory-mapped.

    Args:
        path: the checkpoint.
        which: see :func:`openvclip.checkpoints.held.choose_weights`.
    """
    content = choose_weights(ckpt.load_file(path), which, path)
    if "model_state" not in content:
        raise CheckpointError(f"{path} has no model_state: it is not a training checkpoint")
    state = content["model_state"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: model_state is a {type(state).__name__}, not tensors")
    state = drop_raw_model(state, str(path))
    check_tensors(state, str(path))
    return state


def average_checkpoints(
    source: str | Path, *, start: int, end: int, output: str | Path,
    clip: str | Path | None = None, method: MergeMethod | None = None, which: str = CURRENT,
) -> Path:
    """Merge the checkpoints ``start`` .. ``end`` and write them as ``{"model_state": ...}``.

    The file also has the config, the towers' description and the names of the training videos of
    the last one, if that has them.

    Args:
        source: as for :func:`find_checkpoints`.
        start: first file number; 0 means the original CLIP.
        end: last file number, included.
        output: file to write.
        clip: weights of the original CLIP, needed with ``start`` 0 and by methods that use it.
        method: how to merge; None: the mean.
        which: of which weights of the checkpoints, see
            :func:`openvclip.checkpoints.held.choose_weights`.

    Raises:
        ConfigError: the range is empty or negative, or ``clip`` is missing or has no use.
        CheckpointError: a checkpoint is missing, damaged, has different tensors or shapes from the
            others, or contains NaN or infinity; or ``output`` is a device, a pipe or a folder.
    """
    if start < 0 or end < start:
        raise ConfigError(f"--start {start} --end {end}: give 0 <= start <= end")
    method = method or PlainMean()
    if start == 0 and clip is None:
        raise ConfigError("--start 0 takes the original CLIP into the mean; name it by --clip")
    if method.uses_clip and clip is None:
        raise ConfigError("this --method needs the original CLIP; name it by --clip")
    if start > 0 and clip is not None and not method.uses_clip:
        raise ConfigError("--clip has a use with --start 0 only; drop it, or start at 0")
    ckpt.check_target(output)
    paths = find_checkpoints(source, max(start, 1), end)
    names = [str(clip)] if start == 0 else []
    names += [str(path) for path in paths.values()]
    progress = Progress(len(names), "averaging", "checkpoints")

    def load(place: int) -> StateDict:
        first = start == 0 and place == 0
        state = (load_original_clip(names[place]) if first
                 else load_model_state(names[place], which))
        progress.update()
        return state

    original = load_original_clip(clip) if method.uses_clip and clip is not None else None
    sources = Sources(names, load, original, clip_first=start == 0)
    merged = method.merge(sources)
    broken = find_not_finite(merged)
    if broken:
        _refuse_not_finite(zip(names, sources, strict=True), broken)
    ckpt.save_file(output, {"model_state": merged, **_collect_facts(paths.get(end), which)})
    logger.info("wrote the %s of %d checkpoints%s (%d..%d) to %s", method.result, len(names),
                "" if which == CURRENT else f"' {which} weights", start, end, output)
    return Path(output)


def _collect_facts(last: Path | None, which: str) -> dict[str, Any]:
    """What a merged file says of its weights: of what towers, how and on what they were trained."""
    content = ckpt.load_file(last, verify=False) if last is not None else {}
    facts = {key: content[key] for key in ("cfg", VIDEOS, TOWER) if content.get(key) is not None}
    return facts if which == CURRENT else {**facts, HELD: which}


def _refuse_not_finite(states: Iterable[tuple[str, StateDict]], broken: Sequence[str]) -> NoReturn:
    """Find what made the tensors ``broken`` of a mean NaN or infinite, and raise."""
    # Reading the files again costs time, but only here; checking each while it is added would
    # make every average a third slower.
    for name, state in states:
        bad = find_not_finite({key: state[key] for key in broken if key in state})
        if bad:
            others = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
            raise CheckpointError(
                f"cannot average: {name} holds NaN or infinity in {bad[0]}{others}; leave it "
                "out by --start and --end, or train that epoch again"
            )
    raise CheckpointError(
        f"cannot average: the mean of {broken[0]} is not finite, although that of each checkpoint "
        "is: its numbers are too large for fp32"
    )
