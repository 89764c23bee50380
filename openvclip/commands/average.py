"""Average checkpoints: ``openvclip average --source DIR --start 2 --end 22 --output FILE``."""

from __future__ import annotations

import argparse

from openvclip.utils.command_line import Parser, run_tool


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--source", required=True,
        help="folder with checkpoint_epoch_NNNNN.pyth files, or the OUTPUT_DIR above it",
    )
    parser.add_argument("--start", type=int, required=True,
                        help="first file number; 0 also includes the original CLIP")
    parser.add_argument("--end", type=int, required=True, help="last file number, included")
    parser.add_argument("--output", required=True, help="file to write, such as swa_2_22.pth")
    parser.add_argument("--clip", help="weights of the original CLIP, needed with --start 0")
    parser.add_argument("--method", default="mean", help="how to merge; default: %(default)s")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE",
                        help="EXTENSIONS '[\"my_package.my_merge\"]' and the keys that it declares")
    return parser.parse_args(argv)


def average(argv: list[str] | None) -> None:
    args = parse_args(argv)
    from openvclip.config import load_opts
    from openvclip.config.doors import MERGES

    cfg = load_opts(args.opts)  # first, as it may register the method
    method = MERGES.get(args.method).build(cfg)
    from openvclip.checkpoints.averaging import average_checkpoints

    average_checkpoints(
        args.source, start=args.start, end=args.end, output=args.output, clip=args.clip,
        method=method,
    )


def main(argv: list[str] | None = None) -> int:
    return run_tool(lambda: average(argv), "nothing was written")
