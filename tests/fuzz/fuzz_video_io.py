#!/usr/bin/env python3
"""Damage videos in thousands of ways and read them: ``fuzz_video_io.py --videos FOLDER``.

Each damaged file is read as three test views and as a random training clip, by processes that
are watched. Reading must give frames or one DataError of one line. A crash, a hang, another
exception or too much memory makes the exit code 1, and the files stay in ``--keep``; each is
made again, and read again, by ``--only SEED``. ``--leak`` reads undamaged files again and again
and compares the memory early with the memory at the end. ``--through`` takes the files, a third
of them with other times, through items of training and testing and through ``predict --timeline``
with a tiny model instead.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openvclip.utils.logging import Progress, get_logger, setup_logging
from tests.fuzz.corruption import KINDS

GOOD = ("frames", "partly", "error")
BAD = ("crash", "hang", "exception", "memory")
# A leak shows from the 200th video on: by then every buffer has had its greatest size.
SETTLED = 200


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", nargs="+", type=Path, metavar="PATH",
                        help="files or folders to damage; small ones are made without it, and with "
                        "--through in any case")
    parser.add_argument("--count", type=int, help="damaged files, 10000; or reads of --leak, 2000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first damaged file")
    parser.add_argument("--only", type=int, nargs="+", metavar="SEED", help="only these seeds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds that are a hang")
    parser.add_argument("--max-memory", type=int, default=1500, metavar="MB",
                        help="memory that reading one file may take")
    parser.add_argument("--max-growth", type=float, default=8.0, metavar="MB",
                        help="memory that a process may have more at the end of --leak")
    parser.add_argument("--keep", type=Path, help="folder of the files that did harm")
    parser.add_argument("--output", type=Path, help="JSON file for the summary")
    parser.add_argument("--through", action="store_true",
                        help="take files through training, testing and predict --timeline, which "
                        "also have their times damaged")
    parser.add_argument("--leak", action="store_true", help="look for leaks instead")
    return parser.parse_args(argv)


def fuzz(args: argparse.Namespace, paths: list[Path], keep: Path) -> dict:
    """Read all damaged files; return the summary."""
    from openvclip.data.check.pool import run_isolated
    from tests.fuzz.reading import read_case

    if args.through:
        from tests.fuzz.pipelines import read_case_through as read_case

    seeds = args.only or range(args.seed, args.seed + (args.count or 10_000))
    # A file that lies there already means, to read_case, that a process died of it in this run.
    for path in keep.glob("[0-9]*-*"):
        if int(path.name.split("-")[0]) in seeds:
            path.unlink()
    read = functools.partial(read_case, paths, keep, args.max_memory)
    progress = Progress(len(seeds), "fuzz", "files")
    results = []
    for outcome in run_isolated(
        read, (str(seed) for seed in seeds), workers=args.jobs, timeout=args.timeout
    ):
        result = outcome.value
        if outcome.failure:
            result = dict(
                result="hang" if outcome.failure == "timeout" else "crash", kind="?",
                file=f"{int(outcome.item):06d}-*", reason=outcome.reason,
            )
        result["seed"] = int(outcome.item)
        results.append(result)
        if result["result"] in BAD:
            get_logger().error("%(result)s: seed %(seed)d, %(file)s: %(reason)s", result)
        progress.update(note=f"{sum(r['result'] in BAD for r in results)} bad")
    return summarise(name_kinds(results, keep))


def name_kinds(results: list[dict], keep: Path) -> list[dict]:
    """Complete the results of processes that died from the names of the files they left."""
    for result in results:
        if result["kind"] == "?":
            left = sorted(keep.glob(result["file"]))
            if left:
                result.update(file=left[0].name, kind=left[0].name.split("-")[1])
    return sorted(results, key=lambda result: result["seed"])


def summarise(results: list[dict]) -> dict:
    """Return counts by kind and outcome, the bad ones and the extremes."""
    table = {kind: Counter() for kind in KINDS}
    for result in results:
        table.setdefault(result["kind"], Counter())[result["result"]] += 1
    timed = sorted((r for r in results if "seconds" in r), key=lambda r: -r["seconds"])
    greedy = sorted((r for r in results if "peak_mb" in r), key=lambda r: -r["peak_mb"])
    return {
        "files": len(results),
        "table": {kind: dict(counts) for kind, counts in table.items() if counts},
        "bad": [r for r in results if r["result"] in BAD],
        "slowest": timed[:5],
        "greediest": greedy[:5],
        "most_mb": max((r["most_mb"] for r in results if "most_mb" in r), default=0.0),
        "memory_mb": memory_by_tenth(results),
    }


def memory_by_tenth(results: list[dict]) -> dict[str, list[float]]:
    """Return by process the memory in MB that it held after a file, averaged over each tenth."""
    held: dict[int, list[float]] = {}
    for result in results:
        if "rss_mb" in result:
            held.setdefault(result["process"], []).append(result["rss_mb"])
    return {
        str(process): [
            round(sum(values[i * n : (i + 1) * n]) / n, 1) for i in range(10)
        ]
        for process, values in held.items()
        if (n := len(values) // 10)
    }


def show(summary: dict) -> None:
    """Print the summary as a table."""
    columns = [
        name for name in GOOD + BAD
        if name in GOOD or any(name in counts for counts in summary["table"].values())
    ]
    rows = [*summary["table"].items()]
    total: Counter = Counter()
    for _, counts in rows:
        total.update(counts)
    print(f"{'kind':14s}" + "".join(f"{name:>11s}" for name in columns))
    for kind, counts in [*rows, ("all", total)]:
        print(f"{kind:14s}" + "".join(f"{counts.get(name, 0):11d}" for name in columns))
    for title, key in (("slowest", "seconds"), ("greediest", "peak_mb")):
        print(f"{title}: " + ", ".join(f"{r['file']} {r[key]:.1f}" for r in summary[title]))
    print(f"most memory that a process held: {summary['most_mb']:.0f} MB")
    for process, tenths in summary["memory_mb"].items():
        print(f"memory of process {process} in MB, by tenths of its files: {tenths}")


def run(args: argparse.Namespace, folder: Path) -> bool:
    """Do what the options say; return whether all went well."""
    from tests.fuzz.reading import find_leak
    from tests.fuzz.sources import make_sources

    paths = args.videos or []
    if args.through or not paths:
        paths = [*paths, *make_sources(folder)]
    if args.leak:
        summary = find_leak(paths, args.count or 2000, SETTLED)
        print("memory of the process: {early_mb:.1f} MB after {early} videos, {late_mb:.1f} MB "
              "after {late}".format(**summary))
        good = summary["late_mb"] - summary["early_mb"] <= args.max_growth
    else:
        keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz_video_io_"))
        keep.mkdir(parents=True, exist_ok=True)
        summary = fuzz(args, paths, keep)
        show(summary)
        good = not summary["bad"]
        print(f"{len(summary['bad'])} of {summary['files']} did harm"
              + ("" if good else f"; their files are in {keep}"))
    if args.output:
        args.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return good


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    setup_logging()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(args, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
