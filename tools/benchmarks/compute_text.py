"""The tables of the compute path's benchmarks as text of at most 120 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.text import format_table, machine_lines, met_or_missed

UNITS = {"peak_gib": "peak GiB", "copies_above_plain": "copies above plain",
         "clips_per_s": "clips/s", "sentences_per_s": "sentences/s", "median_ms": "median ms",
         "min_ms": "least ms", "cpu_ms": "processor ms", "tflops": "TFLOP/s",
         "matmul_tflops": "matmul TFLOP/s",
         "share": "share", "plain_ms": "plain ms", "over_plain": "/ plain",
         "floor_over_plain": "floor", "trained_millions": "trained M", "tflop": "TFLOP"}
FORMATS = {"peak_gib": ".2f", "copies_above_plain": ".2f", "share": ".0%",
           "over_plain": ".3f", "floor_over_plain": ".3f"}
TIMED = ("variant", "dtype", "median_ms", "min_ms", "clips_per_s")


def device_lines(result: dict[str, Any]) -> Iterator[str]:
    """Describe the machine of the measurement."""
    machine = result["machine"]
    yield from machine_lines(machine)
    flags = ", ".join(machine["cpu_matrix_flags"]) or "no bf16 or fp16 products"
    line = (f"device {machine['device_name']}, {machine['threads']} torch threads, "
            f"{machine['cpu_capability']} ({flags})")
    if machine["device"] == "cuda":
        line += f", CUDA {machine['cuda']}"
    yield line


def _rows(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """Show the columns of some rows; empty where a row has none."""
    header = [UNITS.get(column, column) for column in columns]
    return format_table(header, [[_cell(column, row.get(column)) for column in columns]
                                 for row in rows])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, FORMATS.get(column, ".1f"))
    return str(value)


def ratio_lines(ratios: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Show figures next to their targets."""
    yield ""
    yield from format_table(("figure", "dtype", "value", "target", ""), [
        (row["name"], row.get("dtype", "fp32"), f"{row['value']:.3f}",
         "" if row["target"] is None else f"{row['sign']} {row['target']:g}",
         "" if row["met"] is None else met_or_missed(row["met"]))
        for row in ratios
    ])


def _section(
    result: dict[str, Any], title: str, columns: Sequence[str], compared: str
) -> Iterator[str]:
    """Show the machine, the timed rows, and how closely the two ways agree."""
    yield from device_lines(result)
    yield ""
    yield title
    yield from _rows(result["rows"], columns)
    for dtype, agreement in result["agreement"].items():
        yield (f"{compared}, {dtype}: differ from the straightforward ones by "
               f"{agreement['max_difference']:.2g}, {agreement['tolerance']:g} allowed")


def model_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the forward pass."""
    title = f"forward pass of {_clips(result['settings'])}, no gradients"
    yield from _section(result, title, TIMED, "logits")
    yield from ratio_lines(result["ratios"])


def step_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the training step."""
    title = f"training step of {_clips(result['settings'])}"
    yield from _section(result, title, TIMED, "gradients, relative")
    if result["memory"]:
        yield ""
        yield (f"peak memory above the imports, each in a process of its own; trainable parameters "
               f"{result['memory'][0]['trained_gib']:.3f} GiB")
        yield from _rows(result["memory"], ("variant", "dtype", "peak_gib", "copies_above_plain"))
    if result["rates"]:
        yield ""
        yield "rates; share of the card's measured rate of bf16 products; last the largest batch"
        yield from _rows(result["rates"], (
            "variant", "dtype", "clips", "median_ms", "clips_per_s", "tflops", "matmul_tflops",
            "share", "peak_gib",
        ))
    yield from ratio_lines(result["ratios"])


def methods_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the methods next to a plain step."""
    title = f"training step of {_clips(result['settings'])}, each with a plain step"
    columns = ("variant", "median_ms", "plain_ms", "over_plain", "floor_over_plain", "tflop",
               "trained_millions", *(["peak_gib"] if "peak_gib" in result["rows"][0] else []))
    yield from _section(result, title, columns, "")
    yield (f"floor: operations, and what must be read and written for each weight at "
           f"{result['memory_gb_per_s']:.1f} GB/s")
    yield from ratio_lines(result["ratios"])


def against_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the steps of this checkout next to those of another."""
    title = (f"training step of {_clips(result['settings'])}; there: "
             f"{result['settings']['checkout'][-40:]}")
    columns = (*TIMED, *(["peak_gib"] if "peak_gib" in result["rows"][0] else []))
    yield from _section(result, title, columns, "")
    yield from ratio_lines(result["ratios"])


def text_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the text classifier."""
    settings = result["settings"]
    title = (f"text classifier of {settings['arch']}, {settings['classes_computed']} classes x "
             f"{settings['templates']} templates, in turn {settings['repeats']} times")
    if settings["fraction"] > 1:
        title += (f"\nonly one in {settings['fraction']} of {settings['classes']} classes was "
                  "computed (--fraction)")
    columns = ("variant", "median_ms", "min_ms", "sentences_per_s")
    yield from _section(result, title, columns, "embeddings")
    yield from ratio_lines(result["ratios"])


def class_texts_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the step whose classes are encoded with gradients."""
    settings = result["settings"]
    title = (f"training step of {_clips(settings)}; {settings['classes']} classes, chunks of "
             f"{settings['chunk']} sentences")
    columns = ("variant", "dtype", "sentences", "median_ms", "min_ms", "cpu_ms")
    yield from _section(result, title, columns, "")
    yield from ratio_lines(result["ratios"])


def average_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show the averaging of checkpoints."""
    settings = result["settings"]
    title = (f"mean of checkpoints of {settings['arch']}, {settings['checkpoint_gib']:.3f} GiB "
             f"each, in turn {settings['repeats']} times, each in a process of its own")
    yield from _section(result, title, ("variant", "count", "median_ms", "min_ms", "peak_gib"),
                        "means")
    yield from ratio_lines(result["ratios"])


def _clips(settings: dict[str, Any]) -> str:
    return (f"{settings['arch']}, {settings['clips']} clips of {settings['frames']} frames, in "
            f"turn {settings['repeats']} times")
