"""Table and picture of the comparison of methods, from the results of its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from openvclip.demo.bench import CLIP, RESULTS
from openvclip.demo.costs import FILE as COSTS
from openvclip.demo.methods import METHODS, PLAIN, Bench
from openvclip.demo.table import CHOOSE_ON, SETS, Sweep, choose_ratio, read_sweep
from openvclip.report.plots import save_figure
from openvclip.report.tradeoffs import Tradeoff, draw_tradeoffs, mean_and_spread
from openvclip.report.writers import write_csv, write_json
from openvclip.utils.files import MOST_JSON_BYTES, read_text, replacing
from openvclip.utils.json_text import parse_json

TABLE, CONTENT, ROWS, PICTURE = "table.md", "results.json", "results.csv", "tradeoffs.png"
RETAINED = 0.85  # Share of what CLIP knew at which the curves are compared.
Sweeps = dict[str, list[Sweep]]  # List of videos -> per seed: ratio -> accuracy.


def read_sweeps(bench: Bench) -> tuple[dict[str, Sweeps], dict[str, float]]:
    """Read every method's accuracies, with CLIP's at ratio 1, and CLIP's alone.

    Raises:
        DataError: results are missing.
    """
    tests = bench.root / "test"
    clip = {name: read_sweep(tests / CLIP / name / RESULTS)[0.0] for name in (*CHOOSE_ON, *SETS)}
    return {
        method: {name: [{1.0: clip[name],
                         **read_sweep(tests / f"seed{seed}" / method / name / RESULTS)}
                        for seed in bench.seeds]
                 for name in (*CHOOSE_ON, *SETS)}
        for method in bench.methods
    }, clip


def average(sweeps: Sequence[Sweep]) -> Sweep:
    """Return ratio -> mean accuracy over seeds."""
    return {ratio: fmean(sweep[ratio] for sweep in sweeps) for ratio in sweeps[0]}


def read_off(kept: Sweep, sweep: Sweep, level: float) -> float:
    """Return the accuracy where what CLIP knew comes to ``level``, between two ratios linearly.

    It is taken at the smallest ratio from which on ``kept`` stays at or above the level.
    """
    ratios = sorted(kept)
    place = len(ratios) - 1
    while place > 0 and kept[ratios[place - 1]] >= level:
        place -= 1
    if place == 0 or kept[ratios[place]] < level:
        return sweep[ratios[place]]
    low, high = ratios[place - 1], ratios[place]
    share = (level - kept[low]) / (kept[high] - kept[low])
    return sweep[low] + share * (sweep[high] - sweep[low])


def collect(bench: Bench) -> dict[str, Any]:
    """Gather the comparison: per method the chosen ratio, accuracies (mean, spread) and costs."""
    measured, clip = read_sweeps(bench)
    costs = parse_json(read_text(bench.root / COSTS, most=MOST_JSON_BYTES))
    plain = costs["methods"][PLAIN]
    methods = {}
    for name, sweeps in measured.items():
        ratio = choose_ratio([average(sweeps[val]) for val in CHOOSE_ON])
        cost = costs["methods"][name]

        def at(place: float, sweeps: Sweeps = sweeps) -> dict[str, tuple[float, float]]:
            return {key: mean_and_spread([sweep[place] for sweep in sweeps[key]]) for key in SETS}

        methods[name] = {
            "title": METHODS[name].title,
            "ratio": ratio,
            "patched": at(ratio),
            "unpatched": at(min(bench.ratios)),
            "retained": {key: mean_and_spread([
                read_off(kept, sweep, RETAINED * clip["knew"])
                for kept, sweep in zip(sweeps["knew"], sweeps[key], strict=True)])
                for key in ("trained", "unseen")},
            "seconds_per_step": cost["seconds_per_step"],
            "seconds_before": cost["seconds_before"],
            "extra_bytes": cost["peak_bytes"] - plain["peak_bytes"],
        }
    return {"seeds": list(bench.seeds), "ratios": list(bench.ratios), "clip": clip,
            "threads": costs["threads"], "methods": methods, "sweeps": measured}


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Format rows, the first being the heading, as Markdown that reads well in a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w)
                               in enumerate(zip(row, widths, strict=True))) + " |" for row in rows]
    rule = "|".join(f"{'-' * (w + 1)}{'-' if i == 0 else ':'}" for i, w in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _show(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def format_tables(content: Mapping[str, Any]) -> str:
    """Format the main table, at the chosen ratios, and that of the curves."""
    clip, methods = content["clip"], content["methods"]
    plain = methods[PLAIN]
    heads = list(SETS.values())
    main = [["averaged, top-1 (%)", "ratio", *heads, "s per step", "extra memory"],
            ["CLIP", "1", *(f"{clip[key]:.1f}" for key in SETS), "", ""]]
    first = min(content["ratios"])
    main.append([plain["title"], f"{first:g}", *(_show(plain["unpatched"][key]) for key in SETS),
                 f"{plain['seconds_per_step']:.3f}", "0.0 MB"])
    for name, row in methods.items():
        title = f"{row['title']} + patching" if name == PLAIN else row["title"]
        main.append([title, f"{row['ratio']:g}", *(_show(row["patched"][key]) for key in SETS),
                     f"{row['seconds_per_step']:.3f}", f"{row['extra_bytes'] / 2**20:.1f} MB"])
    more = [["", *(f"{head}, ratio {first:g}" for head in heads),
             *(f"{SETS[key]} at {RETAINED:.0%}" for key in ("trained", "unseen"))]]
    for row in methods.values():
        more.append([row["title"], *(_show(row["unpatched"][key]) for key in SETS),
                     *(_show(row["retained"][key]) for key in ("trained", "unseen"))])
    return (f"{format_rows(main)}\n\n"
            f"Not patched, and read off each curve where {RETAINED:.0%} of what CLIP knew is left:"
            f"\n\n{format_rows(more)}")


def draw(content: Mapping[str, Any]):
    """Draw trained and unseen classes against what CLIP knew."""
    heights = ("trained", "unseen")

    def by_ratio(sweeps: Sequence[Sweep]) -> dict[float, list[float]]:
        return {ratio: [sweep[ratio] for sweep in sweeps] for ratio in sweeps[0]}

    curves = {
        content["methods"][name]["title"]: Tradeoff(
            by_ratio(sweeps["knew"]), [by_ratio(sweeps[key]) for key in heights],
            content["methods"][name]["ratio"])
        for name, sweeps in content["sweeps"].items()
    }
    clip, seeds = content["clip"], len(content["seeds"])
    return draw_tradeoffs(
        curves, across=f"{SETS['knew']}, top-1 (%)",
        up=[f"{SETS[key]}, top-1 (%)" for key in heights],
        point=("CLIP", clip["knew"], [clip[key] for key in heights]),
        title=f"Averaged weights at patching ratios {min(content['ratios']):g} to 1, mean of "
              f"{seeds} seed{'s' if seeds > 1 else ''}; large: the ratio chosen on validation")


def write_report(bench: Bench) -> str:
    """Write table, numbers and picture into ``bench.root``; return the tables as text."""
    content = collect(bench)
    text = format_tables(content)
    write_json(bench.root / CONTENT, content)
    with replacing(bench.root / TABLE) as file:
        file.write(text + "\n")
    write_csv(bench.root / ROWS, ["method", "seed", "list", "patching_ratio", "top1"], [
        [method, seed, name, f"{ratio:g}", f"{top1:.4f}"]
        for method, sweeps in content["sweeps"].items() for name, found in sweeps.items()
        for seed, sweep in zip(bench.seeds, found, strict=True)
        for ratio, top1 in sorted(sweep.items())])
    save_figure(draw(content), bench.root / PICTURE)
    return text
