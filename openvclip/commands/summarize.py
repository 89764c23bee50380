"""Make tables of test results: ``openvclip summarize DIR [DIR ...]``.

Prints the zero-shot table next to published numbers, the tables of few-shot, base-to-novel,
supervised and retrieval tests, and notes on results that are missing, failed or were tested
differently. Saves them as summary.md, summary.csv (with summary_protocols.csv and retrieval.csv)
and summary.json, and with --html also as summary.html. Tests at several patching ratios are drawn
in accuracy_vs_ratio.png: every set against the ratio, and trained against zero-shot sets. Exit
code: 0, or 2 if there are no results at all.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, through_run_tool
from openvclip.utils.text import clean_lines


def build_parser() -> Parser:
    from openvclip.data.lists.label_maps import SHIPPED

    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", metavar="DIR", help="folder with test results, at any depth")
    add("--output", metavar="DIR", help="where to save; default: the first DIR")
    add("--html", action="store_true", help="save summary.html, too: the same for a browser")
    add("--protocols", nargs="+", metavar="NAME",
        help="show only these: protocols (ucf101_split1), columns (ucf101_split) or datasets "
        "(ucf101, hmdb51, kinetics600, kinetics400, ssv2)")
    add("--trained", nargs="+", metavar="SET",
        help="sets in the picture whose classes the checkpoints were trained on, by their names "
        "there; default: from the results, else the config next to the checkpoint, else K400")
    add("--root", default=str(SHIPPED), metavar="DIR",
        help="folder with label_db and zs_label_db, whose label maps results are compared with; "
        "default: those that come with openvclip")
    return parser


@through_run_tool("the tests' results are untouched")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.report.summary import collect
    from openvclip.report.summary.files import save_summary
    from openvclip.report.summary.formats import format_text

    summary = collect.summarize(
        args.folders, root=args.root, protocols=args.protocols, trained=args.trained
    )
    try:
        paths = save_summary(summary, args.output or args.folders[0], page=args.html)
    finally:  # The table is worth seeing even if it cannot be saved.
        print(clean_lines(format_text(summary)))
    print(clean_lines("\n".join(f"wrote {path}" for path in paths)))
