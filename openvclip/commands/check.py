"""Decode every listed video, report the bad ones and write the lists without them.

Written to --output:
  videos.csv    path, status, codec, frames, size, duration, ... of each file, in list order
  clean/        each list without the rows of files that are not ok, other rows unchanged; lists
                have the same paths as in the folder that they all share: clean/test.csv for one
                list, clean/split1/test.csv and clean/split2/test.csv for two. Such a folder can
                be given to a run: DATA.PATH_TO_DATA_DIR DIR/clean. It also has label maps,
                draw.json, and other lists from the same folder that equal one of the given lists
  summary.json  counts by status and by codec, frames, hours, bytes

Statuses:
  ok            decodes to the end
  damaged       gives frames, but decoding breaks off, gives less than 90 % of the declared frames
                or time, or the frame size changes midway
  unreadable    gives no frame
  missing       does not exist
  crashed       ended the process that decoded it, twice: a decoder crash, or out of memory
  timeout       took longer than --timeout

A run that was stopped, for any reason, resumes when it is started again with the same --output.
Files that were checked before are decoded again only if size or modification time changed.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, through_run_tool


def build_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--list", nargs="+", required=True, metavar="CSV", dest="lists",
        help="lists of 'path,label' rows; each file is decoded once")
    add("--prefix", default="", metavar="DIR",
        help="folder that the listed paths start from (DATA.PATH_PREFIX)")
    add("--separator", default=",",
        help="text between path and label (DATA.PATH_LABEL_SEPARATOR); the last one of a row "
        "counts; default: a comma")
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add("--workers", type=int, metavar="N",
        help="processes that decode, one thread each; default: one per core")
    add("--timeout", type=float, default=300.0, metavar="SECONDS",
        help="give up on a file after this long; default: 300")
    add("--keep-damaged", action="store_true", help="leave damaged files in the cleaned lists")
    add("--recheck", nargs="*", metavar="STATUS",
        help="decode files again that were checked before: all, or those of the statuses named, "
        "such as: --recheck crashed timeout")
    return parser


@through_run_tool("what was decoded is kept; start again to resume")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.data.check.run import check_lists

    check_lists(**vars(args))
