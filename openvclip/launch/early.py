"""What can be checked of a run before torch is loaded, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from openvclip.config.patching import check_patched
from openvclip.data.lists.labels import build_label_space


def check_early(cfg) -> None:
    """Check the label map and the patching that the run is going to need.

    Raises:
        ConfigError, DataError: what the run would raise later.
    """
    train, test = cfg.TRAIN, cfg.TEST
    if cfg.VAL_MODE or train.ENABLE or (test.ENABLE and test.TASK == "classification"):
        build_label_space(cfg)
    if cfg.VAL_MODE:
        # What lies in OUTPUT_DIR may be a checkpoint, which only torch can tell.
        resumed = train.AUTO_RESUME and Path(cfg.OUTPUT_DIR).is_dir()
        check_patched(cfg, bool(resumed or train.CHECKPOINT_FILE_PATH or train.CUSTOM_LOAD))
    elif test.ENABLE:
        check_patched(cfg, bool(train.ENABLE or test.CHECKPOINT_FILE_PATH or test.CUSTOM_LOAD))
