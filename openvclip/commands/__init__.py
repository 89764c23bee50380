"""The commands: ``openvclip NAME ...`` and the files of ``tools/`` call the same functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from openvclip import __version__
from openvclip.utils.command_line import Parser, run_tool
from openvclip.utils.errors import ConfigError
from openvclip.utils.registry import not_a_choice

# Name -> what it is for. The module of a command has its main function.
COMMANDS = {
    "run": "train and test a video classifier",
    "submit": "the same on Slurm",
    "average": "average the checkpoints of a training run",
    "merge": "combine the checkpoints of a training run by another --method than their mean",
    "predict": "name what your own videos show, in your own words",
    "export": "write a model for open_clip and for programs that read OpenAI's names",
    "prepare": "make lists of videos from a dataset's folder and its official files",
    "check": "decode every listed video and write the lists without the bad ones",
    "captions": "make one indexed caption file from captions in .pt, .json, .jsonl or .csv",
    "make-captions": "write captions of videos with an image-to-text model",
    "derive": "derive results of splits and halves from predictions on the full list",
    "summarize": "make tables of test results next to the published numbers",
    "backbones": "list open_clip's towers: size, cost, input, temporal variants",
    "demo": "make the quickstart's videos, CLIP and table",
}
# Commands that are in the module of another.
_MODULES = {"merge": "average"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code.

    Only that command's module is imported, so that ``--help`` needs no torch.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        return run_tool(lambda: _parse_own(arguments or ["--help"]))
    name = arguments[0]
    sys.argv[0] = f"openvclip {name}"  # what usage lines begin with
    module = _MODULES.get(name, name.replace("-", "_"))
    return import_module(f"{__name__}.{module}").main(arguments[1:])


def _parse_own(arguments: list[str]) -> None:
    """Show the help or the version; refuse what is neither an option nor a command."""
    if not arguments[0].startswith("-"):
        raise ConfigError(not_a_choice("command", arguments[0], COMMANDS))
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="openvclip", usage="openvclip COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="CLIP turned into an open-vocabulary video classifier (Open-VCLIP).",
        epilog=f"commands:\n{listed}\n\nopenvclip COMMAND -h shows the options of one.",
    )
    parser.add_argument("--version", action="version", version=f"openvclip {__version__}")
    parser.parse_args(arguments)
