"""Make lists of videos and label maps from a dataset's folder and its official split files."""

from __future__ import annotations

import argparse
import shutil
import sys

from openvclip.utils.command_line import Parser, through_run_tool
from openvclip.utils.text import clean_lines


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; ``-h`` after a subcommand shows its options."""
    from openvclip.config import load_opts
    from openvclip.config.doors import PREPARERS
    from openvclip.config.parser import take_opts

    argv, opts = take_opts(argv)
    load_opts(opts)
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in filter(None, PREPARERS.names()):
        preparer = PREPARERS.get(name)()
        text = preparer.help
        command = commands.add_parser(name, help=text, description=f"Lists of {name}: {text}.")
        command.set_defaults(preparer=preparer)
        preparer.add_options(command)
        add = command.add_argument
        add("--overwrite", action="store_true", help="replace existing lists that differ")
        add("--strict", action="store_true",
            help="write nothing if files are missing or cannot be placed")
        add("--opts", nargs="*", metavar="KEY VALUE",
            help="EXTENSIONS '[\"my_package.my_data\"]' and the keys that it declares")
    if argv and not argv[0].startswith("-"):
        PREPARERS.get(argv[0])  # names the nearest
    return parser.parse_args(argv)


@through_run_tool("lists are written all or none")
def main(argv: list[str] | None) -> None:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    from openvclip.data.prepare.summary import describe_preparation
    from openvclip.data.prepare.writer import write_preparation

    preparation = args.preparer.plan(args)
    root = getattr(args, "root", None)
    width = shutil.get_terminal_size((100, 24)).columns
    print(clean_lines("\n".join(describe_preparation(preparation, root, width))))
    written, unchanged = write_preparation(
        preparation, overwrite=args.overwrite, strict=args.strict)
    print(clean_lines(f"{written} files written, {unchanged} unchanged"))
