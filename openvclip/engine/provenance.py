"""What a tested checkpoint was trained on, as far as the config beside it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from openvclip.data.draws import read_draw
from openvclip.data.labels import LabelSpace
from openvclip.engine.checkpoint import FOLDER
from openvclip.report.runs import read_config
from openvclip.utils.errors import DataError


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
    folder = Path(checkpoint).parent
    config = read_config(folder.parent if folder.name == FOLDER else folder) or {}
    data, train = config.get("DATA"), config.get("TRAIN")
    if not isinstance(data, dict) or not isinstance(train, dict) or not train.get("ENABLE"):
        return None
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
