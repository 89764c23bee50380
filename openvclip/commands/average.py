"""Average checkpoints: ``openvclip average --source DIR --start 2 --end 22 --output FILE``."""

from __future__ import annotations

from openvclip.utils.command_line import Parser, add_weights_option, through_run_tool


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--source", required=True,
        help="folder with checkpoint_epoch_NNNNN.pyth files, or the OUTPUT_DIR above it")
    add("--start", type=int, required=True,
        help="first file number; 0 also includes the original CLIP")
    add("--end", type=int, required=True, help="last file number, included")
    add("--output", required=True, help="file to write, such as swa_2_22.pth")
    add("--clip", help="weights of the original CLIP, needed with --start 0")
    add_weights_option(add)
    add("--method", default="mean", help="how to merge; default: %(default)s")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE",
        help="EXTENSIONS '[\"my_package.my_merge\"]' and the keys that it declares")
    return parser


@through_run_tool("nothing was written")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.config import load_opts
    from openvclip.config.doors import MERGES

    cfg = load_opts(args.opts)  # first, as it may register the method
    method = MERGES.get(args.method).build(cfg)
    from openvclip.checkpoints.averaging import average_checkpoints

    average_checkpoints(
        args.source, start=args.start, end=args.end, output=args.output, clip=args.clip,
        method=method, which=args.weights,
    )
