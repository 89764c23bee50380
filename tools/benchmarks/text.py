"""The tables of a benchmark as text of at most 120 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.stages import STAGES
from benchmarks.targets import LOADER_TARGET

NAME_WIDTH = 32


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]


def _name(row: dict[str, Any]) -> str:
    name = row["video"]
    return name if len(name) <= NAME_WIDTH else f"{name[:NAME_WIDTH - 3]}..."


def met_or_missed(met: bool) -> str:
    """Say whether a target is met."""
    return "met" if met else "missed"


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """Describe the machine of the measurement."""
    yield (f"{machine['date']}, {machine['cpu']}, {machine['usable_cores']} of "
           f"{machine['cores']} cores, load average {machine['load_average']} before, "
           f"{machine['load_average_after']} after")
    yield (f"Python {machine['python']}, torch {machine['torch']}, PyAV {machine['av']}, "
           f"FFmpeg {machine['ffmpeg']}")


def item_lines(mode: str, result: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Show the items of a mode next to the bare decode and the straightforward way."""
    what = f"{settings['views']} views" if mode == "test" else "one random clip"
    yield ""
    yield (f"{mode}: {what} of {settings['frames']} frames, file to float32 tensor, one thread, "
           "medians in ms")
    header = ("video", "size", "codec", "frames", "decoded", "wanted", "floor", "ours",
              "ours/floor", "straight", "straight/ours")
    yield from format_table(header, [
        (_name(row), f"{row['width']}x{row['height']}", row["codec"], str(row["frames"]),
         f"{row['frames_decoded']:.0f}", f"{row['frames_wanted']:.0f}", f"{row['floor_ms']:.1f}",
         f"{row['ours_ms']:.1f}", f"{row['ours_over_floor']:.2f}",
         f"{row['straightforward_ms']:.1f}", f"{row['straightforward_over_ours']:.1f}")
        for row in result["rows"]
    ])
    yield ""
    yield from format_table(
        ("median over", "videos", "ours/floor", "target", "", "straight/ours", "target", ""),
        [(row["clips_of"], str(row["videos"]),
          f"{row['ours_over_floor']:.2f}", f"<= {row['ours_over_floor_target']:g}",
          met_or_missed(row["ours_over_floor_met"]),
          f"{row['straightforward_over_ours']:.1f}",
          f">= {row['straightforward_over_ours_target']:g}",
          met_or_missed(row["straightforward_over_ours_met"]))
         for row in result["summary"]],
    )


def stage_lines(mode: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Show the stages of the library's items: milliseconds and share of each."""
    yield ""
    yield f"{mode}, stages of an item: ms and share; decoded frames and clips per second"
    yield from format_table(("video", *STAGES, "total", "frames/s", "clips/s"), [
        (_name(row),
         *(f"{row['stages_ms'][s]:.1f} {row['shares'][s]:4.0%}" for s in STAGES),
         f"{row['total_ms']:.1f}", f"{row['frames_per_s']:.0f}", f"{row['clips_per_s']:.1f}")
        for row in rows
    ])


def loader_lines(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Show the loader's rates."""
    yield ""
    yield "whole loader, clips per second"
    yield from format_table(
        ("mode", "rows", "in this process", "with workers", "workers", "ratio", "target", ""),
        [(mode, str(row["rows"]), f"{row['clips_per_s']['0']:.1f}",
          f"{row['clips_per_s'][str(row['workers'])]:.1f}", str(row["workers"]),
          f"{row['ratio']:.2f}", f">= {LOADER_TARGET:g}", met_or_missed(row["met"]))
         for mode, row in results.items()],
    )
