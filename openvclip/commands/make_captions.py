"""Write captions of videos with an image-to-text model and, if wanted, a language model.

Needs the package transformers: pip install openvclip[captions]. Each video becomes a line of a
JSONL file, which ``openvclip captions`` reads. A run that was stopped resumes when it is started
again; videos that failed are tried again. The recipe is in docs/captions.md.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, through_run_tool
from openvclip.utils.errors import ConfigError
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    model = "a model's folder, or its name on the hub (owner/name), which is downloaded"
    add("--videos", required=True, metavar="CSV_OR_DIR",
        help="list of 'path,label' rows, or a folder")
    add("--prefix", default="", metavar="DIR",
        help="folder that a list's paths start from (DATA.PATH_PREFIX)")
    add("--separator", default=",", help="text between a list's path and label; default: a comma")
    add("--captioner", required=True, metavar="MODEL",
        help=f"describes frames, such as BLIP-2: {model}")
    add("--prompt", default="", metavar="TEXT",
        help="beginning that the captioner continues; default: none")
    add("--summariser", metavar="MODEL",
        help=f"makes one sentence of the frames' captions: {model}; without it each different "
        "caption of a frame is a caption of the video")
    add("--frames", type=int, default=3, metavar="N",
        help="frames per video, spread over it; default: 3")
    add("--device", metavar="NAME", help="such as cuda:1 or cpu; default: a GPU if there is one")
    add("--output", required=True, metavar="JSONL", help="file to append to")
    return parser


@through_run_tool("what was written is kept; start again to resume")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.data.captions.captioners import load_captioner, load_summariser, pick_device
    from openvclip.data.captions.generate import caption_videos, list_videos

    if args.frames < 1:
        raise ConfigError(f"--frames is {args.frames}; it must be at least 1")
    videos = list_videos(args.videos, prefix=args.prefix, separator=args.separator)
    device = pick_device(args.device)
    captioner = load_captioner(args.captioner, device, args.prompt)
    summariser = load_summariser(args.summariser, device) if args.summariser else None
    parts = [args.captioner, args.prompt, f"{args.frames} frames", args.summariser]
    counts = caption_videos(
        videos, args.output, frames=args.frames, describe=captioner.describe,
        summarise=summariser.summarise if summariser else None,
        made_by=", ".join(part for part in parts if part),
    )
    print(clean_lines(f"{args.output}: {counts['done']:,} videos captioned, {counts['known']:,} "
                      f"known from before, {counts['failed']:,} failed"))
