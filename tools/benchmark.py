#!/usr/bin/env python3
"""Measure parts of the project: ``benchmark.py data --videos FOLDER``, ``benchmark.py step``.

data     the data path, against a bare decode of the same frames and a straightforward
         implementation; single items, their stages, and the whole loader
model    the forward pass, without and with the temporal view
step     one training step, plain and interpolated: time, gradients, memory; rates on a GPU
methods  one training step of each method, plain, interpolated, distilled and others
against  plain and interpolated steps of this checkout and of another one
text     the text classifier, from class names to embeddings
average  the mean of checkpoints: time and memory
class-texts  a training step whose class sentences are encoded with gradients, against one with a
         frozen text tower

Each of model, step, text and average runs the library against a straightforward implementation,
both with the same random weights in real sizes, alternating, and checks that the results agree.
"""

from __future__ import annotations

import argparse
import sys

from openvclip.utils.command_line import Parser, read_int, run_tool


def _positive(text: str) -> int:
    number = read_int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _natural(text: str) -> int:
    number = read_int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _add_data(commands) -> None:
    parser = commands.add_parser("data", help="the data path, from files to batches")
    add = parser.add_argument
    add("--videos", nargs="+", default=[], metavar="PATH",
        help="files, and folders to search; files that cannot be decoded are left out")
    add("--generate", type=_natural, default=0, metavar="N",
        help="make N clips of 10 s, 340x256, H.264, in a temporary folder")
    add("--views", type=_positive, default=3, help="views of a test video; default: 3")
    add("--frames", type=_positive, default=8, help="frames of a clip; default: 8")
    add("--sampling-rate", type=_positive, default=16,
        help="frames of the video from one frame of a clip to the next; default: 16")
    add("--scale", type=_positive, default=224, help="short side in testing; default: 224")
    add("--crop", type=_positive, default=224, help="side of the crop; default: 224")
    add("--train-scales", type=_positive, nargs=2, default=(224, 256), metavar=("LOW", "HIGH"),
        help="range of the short side in training; default: 224 256")
    add("--seed", type=int, default=0, help="of the random clips; default: 0")
    add("--repeats", type=_positive, default=5, help="times everything is timed; default: 5")
    add("--draws", type=_positive, default=5,
        help="random training clips timed of each video; default: 5")
    add("--workers", type=_positive, default=2,
        help="processes of the loader that is compared with one without; default: 2")
    add("--loader-seconds", type=float, default=5.0, metavar="SECONDS",
        help="how long an epoch of the loader should take, about; default: 5")
    add("--only", nargs="+", choices=("test", "train", "stages", "loader"),
        help="measure only these; default: all")
    add("--output", metavar="FILE.json", help="write everything measured there")
    parser.set_defaults(run=_run_data)


def _run_data(args: argparse.Namespace) -> None:
    from benchmarks.data import run_data

    run_data(args)


def _add_compute(commands, name: str, about: str, *, repeats: int) -> argparse.ArgumentParser:
    """Add a subcommand of the compute path, with the options that all of them have."""
    parser = commands.add_parser(name, help=about)
    add = parser.add_argument
    add("--arch", choices=("vitb32", "vitb16", "vitl14", "tiny"), default="vitb16",
        help="sizes of the CLIP; tiny is for trying the tool; default: vitb16")
    add("--repeats", type=_positive, default=repeats,
        help=f"times everything is timed; default: {repeats}")
    add("--threads", type=_natural, default=0,
        help="threads of torch on the CPU; default: 0, what torch chooses")
    add("--output", metavar="FILE.json", help="write everything measured there")
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="default: auto, the GPU where there is one")


def _add_clips(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--clips", type=_positive, default=1, help="of a batch; default: 1")
    add("--frames", type=_positive, default=8, help="of a clip; default: 8")
    add("--dtype", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"],
        help="precisions, the lower ones by autocast; default: fp32 bf16")
    _add_device(parser)


def _add_model(commands) -> None:
    parser = _add_compute(commands, "model", "the forward pass", repeats=5)
    _add_clips(parser)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    parser.set_defaults(run=_run_model)


def _add_step(commands) -> None:
    parser = _add_compute(commands, "step", "one training step", repeats=3)
    _add_clips(parser)
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--with", nargs="+", dest="ways", default=[],
                        choices=("compile", "checkpoint", "accumulate"),
                        help="measure the plain step in these ways as well")
    parser.set_defaults(run=_run_step)


def _add_methods(commands) -> None:
    from benchmarks.method_table import METHODS

    parser = _add_compute(commands, "methods", "one training step of each method", repeats=7)
    _add_one_precision(parser)
    add = parser.add_argument
    add("--methods", nargs="+", choices=tuple(METHODS), metavar="NAME",
        help=f"measure only these of {', '.join(METHODS)}")
    add("--classes", type=_positive, default=400, help="default: 400")
    parser.set_defaults(run=_run_methods)


def _add_against(commands) -> None:
    parser = _add_compute(commands, "against", "this checkout's steps and another's", repeats=15)
    parser.add_argument("checkout", metavar="FOLDER", help="of the clone to compare with")
    _add_one_precision(parser)
    parser.set_defaults(run=_run_against)


def _add_one_precision(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--clips", type=_positive, default=8, help="of a batch; default: 8, the published share")
    add("--frames", type=_positive, default=8, help="of a clip; default: 8")
    add("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32",
        help="precision, the lower ones by autocast; default: fp32")
    add("--no-memory", action="store_true", help="measure times only")
    _add_device(parser)


def _add_text(commands) -> None:
    parser = _add_compute(commands, "text", "the text classifier", repeats=1)
    add = parser.add_argument
    add("--classes", type=_positive, default=400,
        help="first names of Kinetics-400 to take; default: 400")
    add("--fraction", type=_positive, default=1, metavar="N",
        help="compute only every N-th class, both ways; default: 1")
    _add_device(parser)
    parser.set_defaults(run=_run_text)


def _add_class_texts(commands) -> None:
    parser = _add_compute(commands, "class-texts", "a step that trains the text tower", repeats=3)
    _add_clips(parser)
    add = parser.add_argument
    add("--classes", type=_positive, default=400,
        help="first names of Kinetics-400 to take; default: 400")
    add("--samples", type=_positive, nargs="+", default=[1, 4],
        help="templates drawn a step (MODEL.TEXT_SAMPLE); default: 1 4")
    add("--no-all", action="store_true", help="leave out the step with all templates")
    add("--chunk", type=_positive, default=256, help="MODEL.TEXT_CHUNK; default: 256")
    parser.set_defaults(run=_run_class_texts)


def _add_average(commands) -> None:
    parser = _add_compute(commands, "average", "the mean of checkpoints", repeats=3)
    add = parser.add_argument
    add("--count", type=_positive, default=6, help="checkpoints; default: 6")
    add("--twenty", action="store_true", help="average twenty as well, for the memory")
    add("--folder", metavar="DIR",
        help="where a temporary folder for the checkpoints is made; default: the system's")
    parser.set_defaults(run=_run_average, device="cpu")


def _run_model(args: argparse.Namespace) -> None:
    from benchmarks.model import run_model

    run_model(args)


def _run_step(args: argparse.Namespace) -> None:
    from benchmarks.step import run_step

    run_step(args)


def _run_methods(args: argparse.Namespace) -> None:
    from benchmarks.methods import run_methods

    run_methods(args)


def _run_against(args: argparse.Namespace) -> None:
    from benchmarks.against import run_against

    run_against(args)


def _run_text(args: argparse.Namespace) -> None:
    from benchmarks.text_classifier import run_text

    run_text(args)


def _run_class_texts(args: argparse.Namespace) -> None:
    from benchmarks.class_texts import run_class_texts

    run_class_texts(args)


def _run_average(args: argparse.Namespace) -> None:
    from benchmarks.average import run_average

    run_average(args)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for add_command in (_add_data, _add_model, _add_step, _add_methods, _add_against, _add_text,
                        _add_average, _add_class_texts):
        add_command(commands)
    return parser.parse_args(argv)


def benchmark(argv: list[str] | None) -> None:
    args = parse_args(argv)
    args.run(args)


def main(argv: list[str] | None = None) -> int:
    return run_tool(lambda: benchmark(argv), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
