"""Checks of a run that can be made before torch is loaded, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from openvclip.config.patching import check_patched
from openvclip.data.lists.labels import build_label_space


def check_early(cfg) -> None:
    """Check the label map and the patching that the run will need.

    Raises:
        ConfigError, DataError: as the run would raise later.
    """
    train, test = cfg.TRAIN, cfg.TEST
    if cfg.VAL_MODE or train.ENABLE or (test.ENABLE and test.TASK == "classification"):
        build_label_space(cfg)
    if cfg.VAL_MODE:
        # There may be a checkpoint in OUTPUT_DIR, which only torch can tell.
        resumed = train.AUTO_RESUME and Path(cfg.OUTPUT_DIR).is_dir()
        check_patched(cfg, bool(resumed or train.CHECKPOINT_FILE_PATH or train.CUSTOM_LOAD))
    elif test.ENABLE:
        check_patched(cfg, bool(train.ENABLE or test.CHECKPOINT_FILE_PATH or test.CUSTOM_LOAD))
