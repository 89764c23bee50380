"""The quickstart's table and picture, from the ``results.json`` files of its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openvclip.report.plots import draw_ratio_sweep, save_figure
from openvclip.report.summary.sweeps import PICTURE
from openvclip.report.writers import write_json
from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_text, replacing
from openvclip.utils.json_text import parse_json

# Columns of the table: folder of a test set -> heading.
SETS = {"trained": "trained classes", "unseen": "unseen classes", "knew": "what CLIP knew"}
# Validation sets on which the patching ratio is chosen; unseen classes play no part.
CHOOSE_ON = ("val_trained", "val_knew")

Sweep = dict[float, float]


def read_sweep(path: str | Path) -> Sweep:
    """Read patching ratio -> top-1 accuracy (%) from a ``results.json``.

    Raises:
        DataError: the file is missing or does not have a test's results.
    """
    try:
        content: dict[str, Any] = parse_json(read_text(path, most=MOST_JSON_BYTES))
        return {row["patching_ratio"] or 0.0: row["top1"] for row in content["results"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read the results {path}: {type(error).__name__}: {error}; run the test again"
        ) from error


def choose_ratio(validation: list[Sweep]) -> float:
    """Return the ratio whose mean accuracy over the validation sets is highest.

    What was learned and what CLIP knew count equally; the smallest ratio wins a tie.
    """
    common = sorted(set.intersection(*(set(sweep) for sweep in validation)))
    return max(common, key=lambda r: (sum(sweep[r] for sweep in validation), -r))


def collect(root: str | Path) -> dict[str, Any]:
    """Gather the tests below ``root/test`` into the table's rows and the plot's curves.

    Expects ``test/RUN/SET/results.json`` for RUN ``plain`` and ``interpolated`` (last epoch),
    ``plain_swa`` and ``interpolated_swa`` (averaged, swept over ratios 0 to 1, so that ratio 1 is
    CLIP itself).
    """
    tests = Path(root) / "test"

    def sweep(run: str, name: str) -> Sweep:
        return read_sweep(tests / run / name / "results.json")

    averaged = {
        run: {name: sweep(f"{run}_swa", name) for name in SETS} for run in ("plain", "interpolated")
    }
    chosen = {
        run: choose_ratio([sweep(f"{run}_swa", name) for name in CHOOSE_ON]) for run in averaged
    }
    ours, ratio = averaged["interpolated"], chosen["interpolated"]
    rows = {
        "CLIP": {name: ours[name][1.0] for name in SETS},
        "fine-tuned": {name: sweep("plain", name)[0.0] for name in SETS},
        "+ interpolated training": {name: sweep("interpolated", name)[0.0] for name in SETS},
        "+ averaging": {name: ours[name][0.0] for name in SETS},
        f"+ patching at {ratio:g}": {name: ours[name][ratio] for name in SETS},
    }
    return {"rows": rows, "sweeps": averaged, "chosen_ratio": chosen}


def format_table(rows: dict[str, dict[str, float]]) -> str:
    """Format rows of accuracies as a Markdown table that also reads well in a terminal."""
    width = max(len(name) for name in rows)
    heads = list(SETS.values())
    lines = [
        f"| {'top-1 accuracy (%)':<{max(width, 18)}} | " + " | ".join(heads) + " |",
        f"|{'-' * (max(width, 18) + 2)}|" + "|".join(f"{'-' * (len(h) + 1)}:" for h in heads) + "|",
    ]
    for name, values in rows.items():
        cells = [f"{values[key]:>{len(head)}.1f}" for key, head in SETS.items()]
        lines.append(f"| {name:<{max(width, 18)}} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(root: str | Path) -> str:
    """Write ``table.md``, ``table.json`` and ``accuracy_vs_ratio.png`` into ``root``.

    Returns:
        The table as text.
    """
    root = Path(root)
    content = collect(root)
    table = format_table(content["rows"])
    write_json(root / "table.json", content)
    with replacing(root / "table.md") as file:
        file.write(table + "\n")
    names = {"plain": "fine-tuned", "interpolated": "interpolated training"}
    curves = {
        names[run]: {SETS[name]: points for name, points in sets.items()}
        for run, sets in content["sweeps"].items()
    }
    figure = draw_ratio_sweep(
        curves,
        trained=[SETS["trained"]],
        zero_shot=[SETS["knew"]],
        chosen={names[run]: ratio for run, ratio in content["chosen_ratio"].items()},
        kinds={name: run for run, name in names.items()},
    )
    save_figure(figure, root / PICTURE)
    return table
