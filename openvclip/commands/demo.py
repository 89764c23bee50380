"""Make the demo's videos, its CLIP and its table; compare training methods on them."""

from __future__ import annotations

import argparse
from typing import Any

from openvclip.utils.command_line import Parser, through_run_tool
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    parser = Parser(
        description="Make what the quickstart works on. A second call skips what is done and "
        "completes what was cut off."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    with_defaults = argparse.ArgumentDefaultsHelpFormatter
    add = commands.add_parser(
        "data", help="short clips of coloured shapes, as mp4 files with lists and label maps",
        formatter_class=with_defaults,
    ).add_argument
    add("--output", required=True, help="folder to write")
    add("--seed", type=int, default=0, help="another seed draws different clips")
    add("--scale", type=float, default=1.0,
        help="multiplies the number of clips of every class, at least one stays")
    add = commands.add_parser(
        "clip", help="a small CLIP, pretrained on captioned stills of the same shapes",
        formatter_class=with_defaults,
    ).add_argument
    add("--output", required=True, help="file to write, a plain state dict")
    add("--seed", type=int, default=0, help="seed of initial weights and stills")
    add("--steps", type=int, help="optimizer steps (default: the demo's)")
    add("--batch-size", type=int, help="stills per step (default: the demo's)")
    add = commands.add_parser(
        "report", help="the quickstart's table and picture, from the results of its tests"
    ).add_argument
    add("--root", required=True, help="folder of the quickstart's run")
    _add_methods(commands)
    return parser


def _add_methods(commands: argparse._SubParsersAction) -> None:
    add = commands.add_parser(
        "methods", help="compare training methods: videos, CLIP, all runs, tables and a picture",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    ).add_argument
    add("--root", required=True, help="folder to write")
    add("--configs", default="configs/Synthetic/methods", help="folder of the methods' configs")
    add("--seed", type=int, default=2, help="seed of videos and CLIP")
    add("--seeds", type=int, nargs="+", help="seeds of training (default: the demo's three)")
    add("--methods", nargs="+", help="methods, plain among them (default: all)")
    add("--ratios", type=float, nargs="+", help="patching ratios (default: the demo's)")
    add("--lanes", type=int, default=2, help="runs at a time, of one thread each")
    add("--scale", type=float, default=1.0, help="multiplies the number of clips of every class")
    add("--clip-steps", type=int, help="optimizer steps of CLIP (default: the demo's)")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE",
        help="settings of all runs of training")


@through_run_tool("what was made is kept; start again to resume")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    if args.command == "data":
        from openvclip.demo.dataset import DatasetSize, write_dataset

        write_dataset(args.output, args.seed, DatasetSize().scaled(args.scale))
    elif args.command == "report":
        from openvclip.demo.table import write_report

        print(clean_lines(write_report(args.root)))
    elif args.command == "methods":
        print(clean_lines(_compare(args)))
    else:
        from openvclip.demo.pretrain import PretrainOptions, pretrain

        given = {"steps": args.steps, "batch_size": args.batch_size}
        options = PretrainOptions(**{k: v for k, v in given.items() if v is not None})
        pretrain(args.output, args.seed, options=options)


def _compare(args: argparse.Namespace) -> str:
    from pathlib import Path

    from openvclip.demo.methods import SIZE, Bench
    from openvclip.demo.pretrain import PretrainOptions
    from openvclip.launch.comparison import compare

    given: dict[str, Any] = {
        name: tuple(getattr(args, name)) for name in ("methods", "seeds", "ratios", "opts")
        if getattr(args, name)}
    return compare(
        Bench(Path(args.root), Path(args.configs), **given), seed=args.seed,
        size=SIZE.scaled(args.scale), lanes=args.lanes,
        options=PretrainOptions(steps=args.clip_steps) if args.clip_steps else None,
    )
