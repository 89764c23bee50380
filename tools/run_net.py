#!/usr/bin/env python3
"""Train and test a video classifier: ``run_net.py --cfg configs/X.yaml --opts KEY VALUE ...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvclip.config import load_cfg, parse_args
from openvclip.utils.errors import OpenVCLIPError


def main(argv: list[str] | None = None) -> int:
    """Check the config, which takes no torch and so no time, then run; returns the exit code."""
    try:
        args = parse_args(argv)
        cfg = load_cfg(args.cfg_file, args.opts)
    except OpenVCLIPError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    from openvclip.engine.run import run
    from openvclip.utils.distributed import launch
    from openvclip.utils.logging import report_errors

    return report_errors(lambda: launch(run, cfg, args.init_method))


if __name__ == "__main__":
    sys.exit(main())
