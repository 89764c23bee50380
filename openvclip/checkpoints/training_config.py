"""What a checkpoint was trained on, and with which settings, according to it or its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvclip.checkpoints.files import read_content
from openvclip.config.defaults import get_cfg
from openvclip.config.extensions import refuse_stored
from openvclip.config.safe_yaml import MOST_BYTES, load_yaml
from openvclip.config.stored import CONFIG, find_output_dir, has_trained, load_config
from openvclip.data.lists.draws import read_draw
from openvclip.data.lists.labels import find_digest
from openvclip.data.lists.locate import join_list
from openvclip.data.lists.overlap import find_shared, hash_videos, read_paths
from openvclip.utils.errors import CheckpointError, DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

VIDEOS = "train_videos"  # Key of a checkpoint: hashes of the training list's names.


@dataclass(frozen=True)
class TrainingConfig:
    """The config of a training run.

    Attributes:
        where: the file that it was found in.
        tree: section -> key -> value, as in the file: another program's, or an older
            version's, may lack any.
    """

    where: Path
    tree: dict[str, Any]

    def section(self, name: str) -> dict[str, Any]:
        """Return the settings of a section; {} if it has none."""
        section = self.tree.get(name)
        return section if isinstance(section, dict) else {}

    def locate_list(self) -> Path:
        """Return the path of the training list; configs without its name mean ``train.csv``."""
        name = self.tree.get("TRAIN_FILE", get_cfg().TRAIN_FILE)
        return join_list(self.section("DATA").get("PATH_TO_DATA_DIR", ""), name)


def find_training_config(checkpoint: str | Path) -> TrainingConfig | None:
    """Find the config of the training run that a checkpoint, or an average of its epochs, is from.

    The one rule for all who ask: the config inside the file; if there is none, ``config.yaml`` in
    the OUTPUT_DIR where the file is, if that belongs to a training run. A file that is missing or
    cannot be read contains nothing.

    Raises:
        CheckpointError: what was found is not yaml.
        ConfigError: it names extensions that the user has not named.
    """
    checkpoint = Path(checkpoint).expanduser()
    text = read_content(checkpoint).get("cfg")
    carried = text if isinstance(text, str) and text.strip() else None
    where = checkpoint if carried else find_output_dir(checkpoint) / CONFIG
    try:
        if carried and len(carried) > MOST_BYTES:
            raise ValueError(f"it has {len(carried)} characters, more than {MOST_BYTES}")
        tree = load_yaml(carried) if carried else load_config(where.parent)
    except (OSError, UnicodeDecodeError):
        return None
    except ValueError as error:
        raise CheckpointError(
            f"the config in {where} is not yaml: {error}; give another config file") from error
    if not carried and not has_trained(tree):
        return None
    refuse_stored(tree, where)
    return TrainingConfig(where, tree if isinstance(tree, dict) else {})


def _find_list(checkpoint: str | Path) -> TrainingConfig | None:
    """As find_training_config; None where what it finds does not say the training list."""
    try:
        config = find_training_config(checkpoint)
    except CheckpointError as error:
        logger.warning("what %s was trained on is not known: %s", checkpoint, error)
        return None
    lists = config is not None and config.section("DATA") and has_trained(config.tree)
    return config if lists else None


def find_training(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """Say what a tested checkpoint (None: the untouched CLIP) was trained on, for its results.

    Returns:
        The training list, the SHA-256 of its label set, its draw, whether training was
        interpolated, what the text tower did if there were captions, and its seed; None where
        :func:`find_training_config` finds no training list.
    """
    config = None if checkpoint is None else _find_list(checkpoint)
    if config is None:
        return None
    data, train = config.section("DATA"), config.section("TRAIN")
    videos = config.locate_list()
    caption = train.get("CAPTION") or {}
    try:
        draw = read_draw(videos.parent)
    except DataError:
        draw = None
    return {
        "list": str(videos),
        # None: the map has gone, or is relative to another folder.
        "label_set": find_digest(data.get("INDEX_LABEL_MAPPING_FILE")),
        "draw": draw and asdict(draw),
        "interpolated": bool(train.get("LINEAR_CONNECT_CLIMB")),
        "captions": caption.get("TEXT_TOWER") if caption.get("ENABLE") else None,
        "seed": config.tree.get("RNG_SEED"),
    }


def describe_videos(paths: Sequence[str], prefix: str) -> torch.Tensor:
    """Return what a checkpoint stores of its training list under :data:`VIDEOS`, int64 (M,)."""
    return torch.from_numpy(hash_videos(paths, prefix))


def check_resumed(content: dict[str, Any], where: str | Path, videos: torch.Tensor) -> None:
    """Refuse to resume from a checkpoint that another training run left.

    ``videos`` is what :func:`describe_videos` returned for this run's list.

    Raises:
        CheckpointError: none of the list's videos was in that run. One on a list that differs is
            named in the log: a list may be corrected between two runs.
    """
    known = content.get(VIDEOS)
    if not isinstance(known, torch.Tensor) or torch.equal(known, videos):
        return
    shared = int(torch.isin(videos, known).sum())
    if not shared:
        raise CheckpointError(
            f"{where} is from training on other videos: its list has none of this one's. Give "
            "this run an OUTPUT_DIR of its own, or set TRAIN.AUTO_RESUME False"
        )
    # A dataset that was moved keeps one of the two names of each video.
    if len(known) != len(videos) or 2 * shared < len(videos):
        logger.warning(
            "%s is from training on another list of videos (%.0f %% of this list's names are in "
            "it); if this run should not resume from it, give the run an OUTPUT_DIR of its own",
            where, 100 * shared / len(videos),
        )


def find_overlap(
    checkpoint: str | Path | None, paths: Sequence[str], prefix: str
) -> dict[str, Any] | None:
    """Find which videos of a tested list the checkpoint was trained on; the log names them.

    The names compared are those in the checkpoint or, if it is too old to have any, those of
    the training list, if it is on this machine. ``paths`` are with the ``prefix``,
    DATA.PATH_PREFIX of the test.

    Returns:
        ``videos``, their number, and ``rows``; None if the training list is unknown.
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
    """Read a checkpoint's hashes, or make them from the training list that its config names."""
    videos = read_content(checkpoint).get(VIDEOS)
    if isinstance(videos, torch.Tensor) and videos.dtype == torch.int64 and videos.dim() == 1:
        return videos.numpy()
    config = _find_list(checkpoint)
    if config is None:
        return None
    data = config.section("DATA")
    prefix = str(data.get("PATH_PREFIX", ""))
    try:
        paths = read_paths(config.locate_list(), str(data.get("PATH_LABEL_SEPARATOR", " ")), prefix)
    except DataError:
        return None
    return None if paths is None else hash_videos(paths, prefix)
