"""What the ``report.html`` of a retrieval test shows, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openvclip.report.retrieval_numbers import COLUMNS, TITLES
from openvclip.report.run.details import MISTAKES, describe_run, make_pictures, say_ratio

# A query's own video and, text to video, the one that came first: these have pictures.
PICTURED = {"text_to_video": ("video", "first"), "video_to_text": ("video",)}


def build_retrieval_details(
    results: Mapping[str, Any], paths: Sequence[str], dataset: Any = None
) -> dict[str, Any]:
    """Gather what the report shows; the numbers are those of the results.

    The ratio shown first has the best mean of both directions' R@1; ties go to the first ratio.

    Args:
        results: the content of ``results.json``, see ``docs/retrieval.md``.
        paths: the videos' paths in the order of the list, all distinct.
        dataset: gives ``frames(row)``; None for a report without pictures.
    """
    tested = [
        {
            **row,
            "mean_r1": (row["t2v_r1"] + row["v2t_r1"]) / 2,
            "examples": {way: shown[:MISTAKES] for way, shown in row["examples"].items()},
        }
        for row in results["results"]
    ]
    best = max(range(len(tested)), key=lambda i: (tested[i]["mean_r1"], -i))
    rows = {path: row for row, path in enumerate(paths)}
    # Pictures are bounded, and those of the ratio shown first come first.
    shown = [path for row in [tested[best], *tested] for path in _list_pictured(row["examples"])]
    return {
        **describe_run(results, "; they and their captions count as wrong"),
        "title": f"openvclip retrieval test of {results['list']}",
        "headline": _say_headline(tested[best]),
        "metrics": [["T2V R@1", "t2v_r1"], ["V2T R@1", "v2t_r1"], ["mean", "mean_r1"]],
        "best_by": "mean of T2V and V2T R@1",
        "columns": [[title, column] for title, column in zip(TITLES, COLUMNS, strict=True)],
        "captions": results["captions"]["count"],
        "tested": tested,
        "best": best,
        "rows": {path: rows[path] for path in shown},
        "pictures": make_pictures((rows[path] for path in shown), dataset),
    }


def _list_pictured(examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the videos of the examples, those of the worst first in both directions."""
    for place in range(MISTAKES):
        for way, keys in PICTURED.items():
            for example in examples[way][place:place + 1]:
                yield from (example[key] for key in keys)


def _say_headline(row: Mapping[str, Any]) -> str:
    return (f"text to video R@1 {row['t2v_r1']:.2f}%, video to text R@1 {row['v2t_r1']:.2f}%"
            f"{say_ratio(row)}")
