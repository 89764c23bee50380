"""What a tested checkpoint was trained on, as far as it and the config beside it say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvclip.checkpoints.files import FOLDER, load_file
from openvclip.config.extensions import parse_stored, refuse_stored
from openvclip.data.lists.draws import read_draw
from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.overlap import find_shared, hash_videos, read_paths
from openvclip.report.summary.runs import read_config
from openvclip.utils.errors import CheckpointError, DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

VIDEOS = "train_videos"  # Key of a checkpoint: hashes of the training list's names.


def find_training(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """Read the config of the training that a checkpoint, or an average of its epochs, is from.

    Args:
        checkpoint: a file of a training's OUTPUT_DIR or of the folder of checkpoints in it.

    Returns:
        The training list, the SHA-256 of its label set, its draw, whether training was
        interpolated, what the text tower did if there were captions, and its seed; None where no
        config of a training lies there.
    """
    if checkpoint is None:
        return None
    config = _read_config_beside(checkpoint)
    if not _has_trained(config):
        return None
    data, train = config["DATA"], config["TRAIN"]
    lists = Path(str(data.get("PATH_TO_DATA_DIR")))
    caption = train.get("CAPTION") or {}
    try:
        labels = LabelSpace.from_json(str(data.get("INDEX_LABEL_MAPPING_FILE"))).digest()
    except DataError:  # The map has gone, or is relative to another folder.
        labels = None
    try:
        draw = read_draw(lists)
    except DataError:
        draw = None
    return {
        "list": str(lists / "train.csv"),
        "label_set": labels,
        "draw": draw and asdict(draw),
        "interpolated": bool(train.get("LINEAR_CONNECT_CLIMB")),
        "captions": caption.get("TEXT_TOWER") if caption.get("ENABLE") else None,
        "seed": config.get("RNG_SEED"),
    }


def _read_config_beside(checkpoint: str | Path) -> dict[str, Any]:
    folder = Path(checkpoint).parent
    folder = folder.parent if folder.name == FOLDER else folder
    config = read_config(folder) or {}
    refuse_stored(config, folder)
    return config


def _has_trained(config: Any) -> bool:
    """Whether it is the config of a training."""
    parts = [config.get(name) for name in ("DATA", "TRAIN")] if isinstance(config, dict) else []
    return bool(parts) and all(isinstance(x, dict) for x in parts) and bool(parts[1].get("ENABLE"))


def describe_videos(paths: Sequence[str], prefix: str) -> torch.Tensor:
    """Return what a checkpoint keeps of its training list under :data:`VIDEOS`, int64 (M,)."""
    return torch.from_numpy(hash_videos(paths, prefix))


def check_resumed(content: dict[str, Any], where: str | Path, videos: torch.Tensor) -> None:
    """Tell a checkpoint that another training left from one that this training can go on from.

    Args:
        content: what the checkpoint holds.
        where: its path, for messages.
        videos: what :func:`describe_videos` gave for the list of this training.

    Raises:
        CheckpointError: no video of the list was in that training. One on a list that differs is
            named in the log: a list may be mended between two runs.
    """
    known = content.get(VIDEOS)
    if not isinstance(known, torch.Tensor) or torch.equal(known, videos):
        return
    shared = int(torch.isin(videos, known).sum())
    if not shared:
        raise CheckpointError(
            f"{where} is of a training on other videos: none of this list's is in its list. Give "
            "this training an OUTPUT_DIR of its own, or set TRAIN.AUTO_RESUME False"
        )
    # A data set that was moved keeps one of the two names of each video.
    if len(known) != len(videos) or 2 * shared < len(videos):
        logger.warning(
            "%s is of a training on another list of videos (%.0f %% of this list's names are in "
            "it); if it is not what this run should go on from, give an OUTPUT_DIR of its own",
            where, 100 * shared / len(videos),
        )


def find_overlap(
    checkpoint: str | Path | None, paths: Sequence[str], prefix: str
) -> dict[str, Any] | None:
    """Tell which videos of a tested list the checkpoint was trained on; the log names them.

    Compared are the names that the checkpoint carries or, where it is older than that, those of
    the training list, if it is on this machine.

    Args:
        checkpoint: the tested file; None: the untouched CLIP.
        paths: of the tested videos, with the prefix.
        prefix: DATA.PATH_PREFIX of the test.

    Returns:
        ``videos``, their number, and ``rows``; None where the training list is not known.
    """
    known = None if checkpoint is None else _find_videos(Path(checkpoint))
    if known is None:
        return None
    rows = find_shared(paths, known, prefix)
    if rows:
        logger.warning(
            "%d of the %d videos of this list are in the list that %s was trained on, the first "
            "%s: the numbers are not those of a test on new videos", len(rows), len(paths),
            checkpoint, paths[rows[0]],
        )
    return {"videos": len(rows), "rows": rows}


def _find_videos(checkpoint: Path) -> np.ndarray | None:
    """Read the hashes in a checkpoint, or make them of the training list that its config names."""
    content: dict[str, Any] = {}
    if checkpoint.suffix != ".safetensors":
        try:
            content = load_file(checkpoint, verify=False)
        except CheckpointError:  # An archive: weights of others.
            return None
    videos = content.get(VIDEOS)
    if isinstance(videos, torch.Tensor) and videos.dtype == torch.int64 and videos.dim() == 1:
        return videos.numpy()
    for config in (parse_stored(content.get("cfg"), checkpoint), _read_config_beside(checkpoint)):
        if _has_trained(config):
            return _hash_list(config["DATA"])
    return None


def _hash_list(data: dict[str, Any]) -> np.ndarray | None:
    folder, prefix, separator = (str(data.get(name, default)) for name, default in (
        ("PATH_TO_DATA_DIR", ""), ("PATH_PREFIX", ""), ("PATH_LABEL_SEPARATOR", " ")))
    try:
        paths = read_paths(Path(folder) / "train.csv", separator, prefix)
    except DataError:
        return None
    return None if paths is None else hash_videos(paths, prefix)
