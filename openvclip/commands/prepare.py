"""Make lists of videos and label maps from a dataset's folder and its official split files."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openvclip.utils.command_line import Parser, run_tool
from openvclip.utils.errors import ConfigError
from openvclip.utils.text import clean_lines

if TYPE_CHECKING:
    from openvclip.data.prepare.plan import Preparation

DATASETS = {
    "kinetics400": "class folders in train/ and val/, or official csv files",
    "kinetics600": "the classes that Kinetics-400 lacks, of the validation set",
    "ucf101": "by the official ucfTrainTestlist",
    "hmdb51": "by the official CLASS_test_splitN.txt",
    "ssv2": "Something-Something V2, by labels.json, train.json and validation.json",
    "folders": "any tree class/video or split/class/video",
}
ANNOTATIONS = {
    "kinetics400": "official csv files, or the folder of them; without, the class folders count",
    "kinetics600": "official csv of the validation set; without, the class folders count",
    "ucf101": "folder ucfTrainTestlist",
    "hmdb51": "folder of the CLASS_test_splitN.txt files",
    "ssv2": "folder of labels.json, train.json and validation.json",
}
SUBSETS = {
    "few-shot": "K training videos per class, from a dataset that has its lists",
    "base-to-novel": "half of the classes to train on, the others to test on",
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``-h`` after a subcommand shows its options."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {**DATASETS, **SUBSETS}.items():
        command = commands.add_parser(name, help=text, description=f"Lists of {name}: {text}.")
        if name in DATASETS:
            _add_dataset_options(command, name)
        else:
            _add_subset_options(command, name)
        command.add_argument("--overwrite", action="store_true",
                             help="replace existing lists that differ")
        command.add_argument("--strict", action="store_true",
                             help="write nothing if files are missing or cannot be placed")
    return parser.parse_args(argv)


def _add_dataset_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--videos", required=True, type=Path, metavar="DIR",
                         help="the dataset's folder; lists name files relative to it")
    from openvclip.data.lists.label_maps import default_root

    command.add_argument("--root", type=Path, default=default_root(), metavar="DIR",
                         help="folder with label_db and zs_label_db (default: the clone, or the "
                              "current folder)")
    if name in ANNOTATIONS:
        csv = name.startswith("kinetics")
        command.add_argument(
            "--annotations", type=Path, nargs="+" if csv else None, default=[] if csv else None,
            required=not csv, metavar="FILE" if csv else "DIR", help=ANNOTATIONS[name],
        )
    if name == "kinetics400":
        command.add_argument("--train-folder", metavar="NAME",
                             help="folder of the training videos, if several exist")
    if name.startswith("kinetics"):
        command.add_argument("--val-folder", metavar="NAME",
                             help="folder of the validation videos, if several exist")
    if name == "folders":
        from openvclip.data.prepare.folders import LAYOUTS

        command.add_argument("--name", required=True, help="what to call the dataset")
        command.add_argument("--map", type=Path, metavar="FILE",
                             help="label map to use; else the folders' names, sorted")
        command.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0],
                             help="what the folders directly in --videos are (default: by their "
                                  "names)")
        command.add_argument("--val-share", type=float, default=0.0, metavar="F",
                             help="share of each class for val.csv and test.csv, the rest for "
                                  "train.csv")
        command.add_argument("--seed", type=int, default=1, help="seed of that draw (default: 1)")


def _add_subset_options(command: argparse.ArgumentParser, name: str) -> None:
    several = name == "few-shot"
    command.add_argument("--source", required=True, type=Path, metavar="DIR",
                         help="folder with the dataset's train.csv and test.csv")
    command.add_argument("--map", required=True, type=Path, metavar="FILE",
                         help="its index2cls.json")
    command.add_argument("--output", required=True, type=Path, metavar="DIR",
                         help="folder to write shots_K/ to" if several else
                         "folder to write base/ and novel/ to")
    command.add_argument("--shots", type=int, nargs="+" if several else None, metavar="K",
                         default=[2, 4, 8, 16] if several else 16,
                         help="training videos per class (default: "
                              f"{'2 4 8 16' if several else 16})")
    command.add_argument("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    command.add_argument("--allow-fewer", action="store_true",
                         help="take all videos of a class that has fewer")


def plan(args: argparse.Namespace) -> Preparation:
    """Read and check everything that the command needs; write nothing."""
    function: Callable[..., Preparation]
    if args.command in ("few-shot", "base-to-novel"):
        from openvclip.data.prepare import subsets

        few_shot = args.command == "few-shot"
        function = subsets.plan_few_shot if few_shot else subsets.plan_base_to_novel
        return function(args.source, args.map, args.output, shots=args.shots, seed=args.seed,
                        allow_fewer=args.allow_fewer)
    if not args.videos.is_dir():
        raise ConfigError(f"--videos {args.videos} is not a folder")
    if args.command.startswith("kinetics"):
        from openvclip.data.prepare import kinetics_lists

        folders = {"val_folder": args.val_folder}
        if args.command == "kinetics600":
            function = kinetics_lists.plan_kinetics600
        else:
            function = kinetics_lists.plan_kinetics400
            folders["train_folder"] = args.train_folder
        return function(args.videos, args.annotations, args.root, **folders)
    if args.command == "folders":
        from openvclip.data.prepare.folders import plan_folders

        return plan_folders(args.videos, args.name, args.root, label_map=args.map,
                            val_share=args.val_share, seed=args.seed, layout=args.layout)
    from openvclip.data.prepare import hmdb51, ssv2, ucf101

    official: dict[str, Callable[..., Preparation]] = {
        "ucf101": ucf101.plan_ucf101, "hmdb51": hmdb51.plan_hmdb51, "ssv2": ssv2.plan_ssv2}
    return official[args.command](args.videos, args.annotations, args.root)


def prepare(args: argparse.Namespace) -> None:
    """Plan, show and write."""
    from openvclip.data.prepare.summary import describe_preparation
    from openvclip.data.prepare.writer import write_preparation

    preparation = plan(args)
    root = getattr(args, "root", None)
    width = shutil.get_terminal_size((100, 24)).columns
    print(clean_lines("\n".join(describe_preparation(preparation, root, width))))
    written = write_preparation(preparation, overwrite=args.overwrite, strict=args.strict)
    print(clean_lines(f"{len(written.files)} files written, {written.unchanged} unchanged"))


def main(argv: list[str] | None = None) -> int:
    return run_tool(lambda: prepare(parse_args(argv)), "lists are written all or none")
