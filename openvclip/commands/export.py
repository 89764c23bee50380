"""Export a model for other programs: ``openvclip export --clip FILE ... --output DIR``.

Written to --output:
  NAME.safetensors             the weights under OpenAI's names; MODEL.CLIP_PATH and --clip read it
  NAME-open_clip.pt, .json     the weights for open_clip, and the model config that they belong to
  NAME-classifier.safetensors  the embeddings of class names, with --labels or --label-file
All of them appear, or none. docs/export.md explains how to load them.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, add_weights_option, through_run_tool
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--clip", required=True,
        help="the original CLIP: a file, or a name of open_clip such as ViT-B-16")
    add("--checkpoint", metavar="FILE",
        help="training checkpoint or averaged file; default: export the CLIP itself")
    add("--patching-ratio", type=float, metavar="R",
        help="share of the original CLIP, 0 to 1; default: the unpatched checkpoint")
    add_weights_option(add)
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add("--name", default="openvclip", help="beginning of the file names; default: %(default)s")
    add("--format", choices=("openai", "open_clip", "both"), default="both",
        help="which weights to write; default: both")
    add("--dtype", choices=("fp32", "fp16"), default="fp32",
        help="of the weights; LayerNorm stays in fp32; default: fp32")
    add("--labels", nargs="+", metavar="TEXT",
        help='class names, separated by commas, for the classifier: "archery, golf"')
    add("--label-file", metavar="FILE",
        help="class names: an index2cls.json, or a text file with one per line")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE",
        help="EXTENSIONS '[\"my_package.my_module\"]': modules that the checkpoint's config names")
    return parser


@through_run_tool("unfinished files were removed")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.checkpoints.export import describe_loading, export_model
    from openvclip.config import load_opts
    from openvclip.predict.label_set import read_labels

    load_opts(args.opts)
    given = args.labels is not None or args.label_file is not None
    labels = read_labels(args.labels, args.label_file) if given else ()
    paths = export_model(
        args.clip, args.output, checkpoint=args.checkpoint, patching_ratio=args.patching_ratio,
        labels=labels, name=args.name, layout=args.format,
        dtype=args.dtype, overwrite=args.overwrite, which=args.weights,
    )
    if args.format != "openai":
        print(clean_lines(describe_loading(paths)))
