"""List the towers that MODEL.CLIP_PATH and --clip take by name: ``openvclip backbones [NAME ...]``.

Prints a table in Markdown: for each model its weights, parameters of the image tower, floating-
point operations of a clip of 8 frames, input, tokens, and which temporal variants can be used.
Nothing is downloaded and no weights are made. With --check it counts instead for how many pairs of
a model and its weights the temporal view can be built, and says why not for the others.
"""

from __future__ import annotations

import argparse
import fnmatch

from openvclip.utils.command_line import Parser, run_tool
from openvclip.utils.errors import ConfigError
from openvclip.utils.text import clean_lines


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="list only models of this name; * stands for anything: 'PE-Core*'")
    parser.add_argument("--check", action="store_true",
                        help="count the pairs that can be used, and give the others' reasons")
    parser.add_argument("--results", metavar="FILE.csv",
                        help="open_clip's own table of results, docs/openclip_results.csv of its "
                        "repository: adds a column with the accuracies on ImageNet that it gives")
    return parser.parse_args(argv)


def backbones(argv: list[str] | None) -> None:
    args = parse_args(argv)
    from openvclip.models.backbone import listing
    from openvclip.models.backbone.survey import list_pairs, survey

    pairs = list_pairs()
    if args.names:
        pairs = [pair for pair in pairs if any(
            fnmatch.fnmatchcase(pair.split("/")[0].lower(), name.lower()) for name in args.names)]
    if not pairs:
        raise ConfigError(f"open_clip has no weights for {' or '.join(args.names)}; "
                          "`openvclip backbones --check '*'` goes through all, and names may have "
                          "a *, such as 'ViT-B-16*'")
    results = None if args.results is None else listing.read_results(args.results)
    if args.check:
        count, frames, clips, reasons = listing.summarize(survey(pairs))
        print(clean_lines(f"{count} pairs of a model and its weights: frames alone {frames}, "
                          f"temporal view {clips}"))
        for reason, refused in sorted(reasons.items()):
            print(clean_lines(f"{len(refused)}: {reason}: {', '.join(refused)}"))
        return
    print(clean_lines(listing.format_head(results)))
    for row in listing.list_towers(survey(pairs)):
        print(clean_lines(listing.format_row(row, results)), flush=True)


def main(argv: list[str] | None = None) -> int:
    return run_tool(lambda: backbones(argv), "nothing was written")
