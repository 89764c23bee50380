"""Make one indexed caption file of captions in .pt, .json, .jsonl or .csv files.

Training opens the result as TRAIN.CAPTION.FILE. A video's captions are found by its file name
without folders and extension; spaces count as underscores. Problems with entries are counted and
named, the first few on the terminal, all in --report. For the formats, and where the published
captions go, see blip_llama2_caption/README.md.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, through_run_tool
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--captions", nargs="+", required=True, metavar="FILE",
        help="captions; those that several files have of a video are put together")
    add("--output", required=True, metavar="FILE",
        help="caption file to write; replaces an old one once it is complete")
    add("--list", nargs="+", default=[], metavar="CSV", dest="lists",
        help="lists of 'path,label' rows: which videos have captions?")
    add("--separator", default=",",
        help="text between path and label (DATA.PATH_LABEL_SEPARATOR); the last one in a row "
        "counts; default: a comma")
    add("--report", metavar="JSON", help="file for all that was found")
    return parser


@through_run_tool("nothing was written")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.clip.tokenizer import count_tokens
    from openvclip.data.captions.prepare import describe_preparation, prepare_captions

    result = prepare_captions(count_tokens=count_tokens, **vars(args))
    print(clean_lines("\n".join(describe_preparation(result))))
