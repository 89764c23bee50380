"""Name what your own videos show, in your own words.

  openvclip predict --video clip.mp4 --labels "archery, arm wrestling" --clip ViT-B-16.pt
  openvclip predict --video FOLDER 'more/*.mp4' --label-file labels.txt --clip ViT-B-16.pt \\
      --checkpoint swa_2_22.pth --patching-ratio 0.5 --save-figure

Prints a ranked table for each video and writes predictions.json and predictions.csv to --output.
Files that cannot be read are reported and skipped. Exit code: 0, or 2 if no video could be
predicted or an argument cannot be used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from openvclip.utils.command_line import Parser, add_weights_option, run_tool
from openvclip.utils.errors import DataError
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--video", nargs="+", required=True, metavar="PATH", dest="videos",
        help="videos, folders (at any depth) or patterns such as 'clips/*.mp4'")
    add("--labels", nargs="+", metavar="TEXT", help='labels separated by commas: "archery, golf"')
    add("--label-file", metavar="FILE",
        help="labels, one per line, or a label map (*-index2cls.json)")
    add("--clip", required=True, metavar="FILE",
        help="the original CLIP: a file, an open_clip name (ViT-B-16), or vitb16 and the like for "
        "the file in ~/.cache/clip")
    add("--checkpoint", metavar="FILE", help="fine-tuned weights; default: the original CLIP")
    add("--patching-ratio", type=float, metavar="R",
        help="share of CLIP in the weights, 0 to 1; default: the unpatched checkpoint")
    add_weights_option(add)
    add("--config", metavar="YAML",
        help="config.yaml of the training; default: the checkpoint's config, else the config.yaml "
        "next to it, else the Kinetics recipe (expand_temporal_view, 8 frames, sampling rate 16)")
    add("--temporal-type", metavar="NAME", help="MODEL.TEMPORAL_MODELING_TYPE or none, instead")
    add("--num-frames", type=int, metavar="N", help="frames of a clip, instead")
    add("--sampling-rate", type=float, metavar="N",
        help="frames between two of them at 30 frames per second, instead")
    add("--views", type=int, default=3, metavar="N", help="clips per video; default: 3")
    add("--as-tested", action="store_true",
        help="read videos exactly as tests do: in short ones repeat the last frame, do not turn "
        "those back that a phone stored turned")
    add("--top-k", type=int, default=5, metavar="N", help="labels per ranking; default: 5")
    add("--output", default="predictions", metavar="DIR", help="default: ./predictions")
    add("--save-figure", action="store_true", dest="save_figures",
        help="draw the frames and the ranking of each video")
    add("--timeline", action="store_true", help="draw and write the labels over time")
    add("--window", type=float, metavar="SECONDS",
        help="of --timeline; default: what a clip covers in training")
    add("--stride", type=float, metavar="SECONDS",
        help="of --timeline, from one window to the next; default: half a window")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--precision", default="float32",
        help="float32, bfloat16, float16 or auto; default: float32")
    add("--batch-size", type=int, default=8, metavar="N", help="clips at a time; default: 8")
    add("--workers", type=int, default=2, metavar="N",
        help="threads that read videos ahead; default: 2")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE",
        help="EXTENSIONS '[\"my_package.my_module\"]': modules that the checkpoint's config names")
    return parser


def predict(argv: list[str] | None, show: Callable[[str], None]) -> None:
    args = vars(build_parser().parse_args(argv))
    from openvclip.config import load_opts
    from openvclip.predict.find_videos import find_videos

    load_opts(args.pop("opts"))
    args["videos"] = find_videos(args["videos"])  # before torch is loaded, which takes seconds
    from openvclip.predict.label_set import read_labels
    from openvclip.predict.videos import predict_videos

    labels = read_labels(args.pop("labels"), args.pop("label_file"))
    predictions = predict_videos(
        labels=labels, show=show, columns=shutil.get_terminal_size().columns, **args,
    )
    if all(prediction.error for prediction in predictions):
        raise DataError(f"none of the {len(predictions)} videos could be read; see above")


def main(argv: list[str] | None = None) -> int:
    predicted = False

    def show(text: str) -> None:
        nonlocal predicted
        predicted = True
        print(clean_lines(text), flush=True)

    return run_tool(
        lambda: predict(argv, show),
        lambda: "what was predicted is kept" if predicted else "nothing was predicted yet",
    )
