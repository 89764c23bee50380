"""Make the demo's videos (``data``), its CLIP (``clip``) and its table (``report``)."""

from __future__ import annotations

import argparse

from openvclip.utils.command_line import Parser, run_tool
from openvclip.utils.text import clean_lines


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``-h`` after a subcommand shows its options."""
    parser = Parser(
        description="Make what the quickstart works on. A second call skips what is done and "
        "completes what was cut off."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser(
        "data", help="short clips of coloured shapes, as mp4 files with lists and label maps",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data.add_argument("--output", required=True, help="folder to write")
    data.add_argument("--seed", type=int, default=0, help="another seed draws different clips")
    data.add_argument("--scale", type=float, default=1.0,
                      help="multiplies the number of clips of every class, at least one stays")
    clip = commands.add_parser(
        "clip", help="a small CLIP, pretrained on captioned stills of the same shapes",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    clip.add_argument("--output", required=True, help="file to write, a plain state dict")
    clip.add_argument("--seed", type=int, default=0, help="seed of initial weights and stills")
    clip.add_argument("--steps", type=int, help="optimizer steps (default: the demo's)")
    clip.add_argument("--batch-size", type=int, help="stills per step (default: the demo's)")
    report = commands.add_parser(
        "report", help="the quickstart's table and picture, from the results of its tests"
    )
    report.add_argument("--root", required=True, help="folder of the quickstart's run")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run what the subcommand names."""
    if args.command == "data":
        from openvclip.demo.dataset import DatasetSize, write_dataset

        write_dataset(args.output, args.seed, DatasetSize().scaled(args.scale))
        return
    if args.command == "report":
        from openvclip.demo.table import write_report

        print(clean_lines(write_report(args.root)))
        return
    from openvclip.demo.pretrain import PretrainOptions, pretrain

    given = {"steps": args.steps, "batch_size": args.batch_size}
    options = PretrainOptions(**{k: v for k, v in given.items() if v is not None})
    pretrain(args.output, args.seed, options=options)


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    return run_tool(lambda: run(parse_args(argv)), "what was made is kept; start again to resume")
