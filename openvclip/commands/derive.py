"""Results of splits and halves from the saved predictions of the full list, without a new test.

``openvclip derive --from OUT/ucf101_full --protocol all --output OUT`` writes
OUT/ucf101_split1/results.json and so on. HMDB-51's lists are derived from hmdb_union, K600's
splits from one of k600_union. ``--check-lists hmdb_union`` compares the lists before that test.
"""

from __future__ import annotations

from openvclip.utils.command_line import Parser, through_run_tool


def build_parser() -> Parser:
    from openvclip.data.lists.label_maps import default_root

    parser = Parser(description=__doc__)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--from", dest="source", metavar="DIR",
                      help="OUTPUT_DIR of the full list's test, with results and predictions")
    what.add_argument("--check-lists", metavar="NAME",
                      help="only compare lists: whether that of protocol NAME has all videos and "
                           "classes of those that follow from it; needs no test")
    add("--protocol", nargs="+", default=["all"], metavar="NAME",
        help="such as ucf101_split1; all (default): whatever follows from it")
    add("--output", metavar="DIR", help="folder in which a folder is made for each protocol")
    add("--root", default=str(default_root()), metavar="DIR",
        help="folder with label_db and zs_label_db; default: the clone, or the current folder")
    add("--predictions", default="predictions.pth", metavar="NAME",
        help="TEST.SAVE_RESULTS_PATH of that test (default: %(default)s)")
    return parser


@through_run_tool("protocols that were written are complete")
def main(argv: list[str] | None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.source and not args.output:
        parser.error("--from needs --output")
    from openvclip.report.summary.subset_lists import compare_lists
    from openvclip.report.summary.subsets import derive_all

    if args.check_lists:
        compare_lists(args.check_lists, args.root)
        return
    derive_all(
        args.source, args.protocol, root=args.root, output=args.output,
        predictions=args.predictions,
    )
