"""Where the datasets' label maps are, and where lists go by default."""

from __future__ import annotations

from pathlib import Path

# label_db and zs_label_db with the maps that come with the project; in a clone they are links.
SHIPPED = Path(__file__).resolve().parents[2]


def default_root() -> Path:
    """Return the folder that has label_db and zs_label_db: the clone, or else the current one."""
    clone = SHIPPED.parent
    return clone if (clone / "label_db").is_dir() else Path()
