"""Where the lists of a run are: the names TRAIN_FILE, VAL_FILE and TEST_FILE in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openvclip.utils.paths import is_address

OPENSET_LIST = "test_openset.csv"  # Of TEST.OPENSET, which goes without a TEST_FILE.


def join_list(folder: object, name: object) -> Path:
    """Return the path of a list in ``folder``; an absolute path or an address stays as it is."""
    text = str(name)
    return Path(text) if is_address(text) else Path(str(folder)) / text


def build_list_path(cfg: Any, split: str) -> Path:
    """Return the path of the list of ``train``, ``val`` or ``test``; it need not exist."""
    openset = split == "test" and cfg.TEST.OPENSET
    name = OPENSET_LIST if openset else cfg[f"{split.upper()}_FILE"]
    return join_list(cfg.DATA.PATH_TO_DATA_DIR, name)
