"""The config that a run leaves in its OUTPUT_DIR, and whether that was a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openvclip.config.safe_yaml import MOST_BYTES, load_yaml
from openvclip.utils.files import read_text

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"  # folder in OUTPUT_DIR


def load_config(folder: Path) -> dict[str, Any]:
    """Read a run's ``config.yaml``; {} if there is none.

    Raises:
        OSError, ValueError: it cannot be read, or is not a config.
    """
    try:
        content = load_yaml(read_text(folder / CONFIG, most=MOST_BYTES))
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("TEST", {}), dict):
        raise ValueError("it has no sections of settings")
    return content


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read a run's ``config.yaml``; {} if there is none, None if it cannot be read."""
    try:
        return load_config(folder)
    except (OSError, ValueError):
        return None


def has_trained(config: Any) -> bool:
    """Whether it is the config of a training run."""
    train = config.get("TRAIN") if isinstance(config, dict) else None
    return isinstance(train, dict) and train.get("ENABLE") is True


def find_output_dir(checkpoint: str | Path) -> Path:
    """Return the OUTPUT_DIR that a checkpoint, or an average, is in unless it was moved."""
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == CHECKPOINTS else folder
