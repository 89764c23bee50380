"""Train and test a video classifier: ``openvclip run --cfg X.yaml --opts KEY VALUE ...``."""

from __future__ import annotations

import os
from pathlib import Path

from openvclip.utils.command_line import through_run_tool
from openvclip.utils.logging import get_logger, setup_logging


@through_run_tool("what was saved is kept, and the same command resumes from there", log=False)
def main(argv: list[str] | None) -> None:
    from openvclip.config import default_output_dir, load_cfg, parse_args

    args = parse_args(argv)
    cfg = load_cfg(args.cfg_file, args.opts)
    setup_logging(rank=int(os.environ.get("RANK", cfg.SHARD_ID)))
    check_early(cfg)
    named = cfg.OUTPUT_DIR == default_output_dir(args.cfg_file)
    get_logger().info(
        "read %s; results go to %s%s; loading torch", args.cfg_file, cfg.OUTPUT_DIR,
        ", named after the config (OUTPUT_DIR changes it)" if named else "",
    )
    from openvclip.launch.processes import launch
    from openvclip.launch.run import run

    launch(run, cfg, args.init_method)


def check_early(cfg) -> None:
    """Check the label map and the patching before torch is loaded, which takes seconds.

    Raises:
        ConfigError, DataError: as the run would raise later.
    """
    from openvclip.config.validate import check_patched
    from openvclip.data.lists.labels import build_label_space
    from openvclip.evaluation.tasks.keys import WITH_CLASSES

    train, test = cfg.TRAIN, cfg.TEST
    if cfg.VAL_MODE or train.ENABLE or (test.ENABLE and test.TASK in WITH_CLASSES):
        build_label_space(cfg)
    if cfg.VAL_MODE:
        # There may be a checkpoint in OUTPUT_DIR, which only torch can tell.
        resumed = train.AUTO_RESUME and Path(cfg.OUTPUT_DIR).is_dir()
        check_patched(cfg, bool(resumed or train.CHECKPOINT_FILE_PATH or train.CUSTOM_LOAD))
    elif test.ENABLE:
        check_patched(cfg, bool(train.ENABLE or test.CHECKPOINT_FILE_PATH or test.CUSTOM_LOAD))
