#!/usr/bin/env python3
"""Train and test a video classifier: ``run_net.py --cfg configs/X.yaml --opts KEY VALUE ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvclip.config import default_output_dir, load_cfg, parse_args
from openvclip.utils.errors import OpenVCLIPError
from openvclip.utils.logging import get_logger, report_errors, setup_logging


def main(argv: list[str] | None = None) -> int:
    """Check the config, which takes no torch and so no time, then run; returns the exit code."""
    try:
        args = parse_args(argv)
        cfg = load_cfg(args.cfg_file, args.opts)
    except OpenVCLIPError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    setup_logging(rank=int(os.environ.get("RANK", cfg.SHARD_ID)))
    named = cfg.OUTPUT_DIR == default_output_dir(args.cfg_file)
    get_logger().info(
        "read %s; results go to %s%s; loading torch", args.cfg_file, cfg.OUTPUT_DIR,
        ", named after the config (OUTPUT_DIR changes it)" if named else "",
    )
    from openvclip.engine.run import run
    from openvclip.utils.distributed import launch

    return report_errors(lambda: launch(run, cfg, args.init_method))


if __name__ == "__main__":
    sys.exit(main())
