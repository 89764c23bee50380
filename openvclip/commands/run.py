"""Train and test a video classifier: ``openvclip run --cfg X.yaml --opts KEY VALUE ...``."""

from __future__ import annotations

import os

from openvclip.utils.command_line import run_tool
from openvclip.utils.logging import get_logger, setup_logging


def run_net(argv: list[str] | None) -> None:
    """Check the config and what it names, which is fast without torch, then run."""
    from openvclip.config import default_output_dir, load_cfg, parse_args
    from openvclip.launch.early import check_early

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


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    return run_tool(lambda: run_net(argv),
                    "what was saved is kept, and the same command resumes from there", log=False)
