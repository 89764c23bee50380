"""What share of an accelerator's speed a training step reaches, and how many clips per second."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compute import Case, synchronize
from benchmarks.measure import time_call
from benchmarks.targets import MATMUL_SHARE_TARGET, judge_least, state_ratio

# Clips per GPU and batch in the published recipe.
RECIPE_CLIPS = 8
MATMUL_SIZE = 8192
TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matmul_tflops(device: str, dtype: str = "bf16", size: int = MATMUL_SIZE) -> float:
    """Return the rate of products of two square matrices in TFLOP/s: the median of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=TORCH_TYPES[dtype]) for _ in range(2))
    product = a @ b
    synchronize(device)

    def multiply() -> None:
        torch.mm(a, b, out=product)
        synchronize(device)

    ms = statistics.median([time_call(multiply) for _ in range(25)][5:])
    return 2 * size**3 / ms / 1e9


class _Untracked(nullcontext):
    """Stands for a tracker of modules; all is of one, whose name torch expects."""

    parents = frozenset({"Global"})


def count_flops(function: Callable[[], Any]) -> int:
    """Return the floating-point operations of a call's matrix products and convolutions.

    The attention is counted as its products without what fused ones compute twice.
    """
    counter: Any = FlopCounterMode(display=False)
    # It would attach hooks to modules' inputs, with which no gradient at a leaf can be asked for.
    counter.mod_tracker = _Untracked()
    eager = torch.compiler.set_stance("force_eager")
    with eager, sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops()


def measure_rates(
    case: Case,
    prepare: Callable[[int], Callable[[], Any]],
    gradients: Callable,
    repeats: int,
    *,
    most: int = 4096,
    matmul_size: int = MATMUL_SIZE,
) -> list[dict[str, Any]]:
    """Measure a step at the case's batch, at 8 clips, and at the largest batch that fits.

    Args:
        case: what runs.
        prepare: returns one step on a batch of so many clips.
        gradients: forward and backward alone, in which operations are counted.
        repeats: timed steps of each batch.
        most: largest batch to try, in clips.
        matmul_size: side of the matrices for measuring the card's rate.

    Returns:
        A row for each batch, ``largest`` in the last that fitted; times are medians.
    """
    peak = matmul_tflops(case.device, size=matmul_size)
    single = dataclasses.replace(case, clips=1).batch()
    flops = count_flops(lambda: gradients(*single, 0))
    rows = []
    sizes = sorted({case.clips, RECIPE_CLIPS})
    while sizes and (row := _try(case, prepare, sizes[0], repeats)):
        clips = sizes.pop(0)
        achieved = flops * clips / row["median_ms"] / 1e9
        rows.append({**row, "tflops": achieved, "matmul_tflops": peak,
                     "share": achieved / peak, "largest": False})
        if not sizes and 2 * clips <= most:
            sizes.append(2 * clips)
    if rows:
        rows[-1]["largest"] = True
    return rows


def _try(
    case: Case, prepare: Callable[[int], Callable[[], Any]], clips: int, repeats: int
) -> dict[str, Any] | None:
    """Time steps on batches of some clips; None if memory runs out."""
    cuda = case.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def finish() -> None:
        step()
        synchronize(case.device)

    try:
        step = prepare(clips)
        finish()
        ms = statistics.median(time_call(finish) for _ in range(repeats))
    except RuntimeError as error:
        # cuBLAS reports in its own words that no memory is left for it.
        if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
            return None
        raise
    return {
        "dtype": case.dtype, "clips": clips, "median_ms": ms, "clips_per_s": clips / ms * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def judge_rates(
    rows: list[dict[str, Any]], dtype: str, interpolated: bool
) -> list[dict[str, Any]]:
    """Return the best share of the card's rate, with its target for the interpolated step."""
    if not rows:
        return []
    name, share = rows[0]["variant"], max(row["share"] for row in rows)
    label = f"{name}: best share of the bf16 matmul rate"
    if interpolated and dtype == "bf16":
        return [judge_least(label, share, MATMUL_SHARE_TARGET, dtype=dtype)]
    return [state_ratio(label, share, dtype=dtype)]
