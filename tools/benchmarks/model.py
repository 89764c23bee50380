"""``benchmark.py model``: the forward pass, without and with the temporal view."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.compute import (
    VIEW,
    Case,
    build_model,
    check_agreement,
    finish_report,
    max_difference,
    start_report,
    time_variants,
    timed_rows,
)
from benchmarks.straightforward_compute import ManualViewBlock
from benchmarks.targets import VIEW_TARGETS, judge_most, state_ratio
from openvclip.models.build import compile_blocks
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.logging import get_logger

# Logits of unit vectors times a scale of 14 differ by at most this much.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
NO_VIEW, OURS, STRAIGHT = "no view", "view", "view, straightforward"

logger = get_logger(__name__)


def run_model(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the tables and write the JSON.

    Raises:
        ConfigError: there is no such device.
        DataError: the two ways disagree.
    """
    case = Case.from_args(args, dtype=args.dtype[0])
    result = start_report("model", case, {
        "arch": args.arch, "clips": args.clips, "frames": args.frames, "dtypes": args.dtype,
        "repeats": args.repeats, "compile": args.compile, "temporal_type": VIEW,
    })
    result["rows"], result["ratios"], result["agreement"] = [], [], {}
    for dtype in args.dtype:
        logger.info("forward pass of %s, %s", args.arch, dtype)
        one = Case.from_args(args, dtype=dtype)
        rows, agreement = measure_forward(one, args.repeats, args.compile)
        result["rows"] += rows
        result["agreement"][dtype] = agreement
        result["ratios"] += _ratios(dtype, {row["variant"]: row["median_ms"] for row in rows})
    return finish_report(result, compute_text.model_lines, args.output)


@torch.no_grad()
def measure_forward(
    case: Case, repeats: int, compiled: bool
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time the variants of the forward pass on the same weights and batch.

    Returns:
        A row for each variant, and how far the two ways to the temporal view agree.

    Raises:
        DataError: they disagree.
    """
    autocast, _ = case.precision()
    video, _ = case.batch()

    def run(model: Callable) -> torch.Tensor:
        with autocast():
            return model(video)

    models = _models(case)
    agreement = check_agreement(
        f"forward pass, {case.dtype}", max_difference(run(models[OURS]), run(models[STRAIGHT])),
        TOLERANCES[case.dtype],
    )
    if compiled:
        for name, kind in ((NO_VIEW, None), (OURS, VIEW)):
            models[f"{name}, compiled"] = build_model(case, kind, like=models[name]).eval()
            compile_blocks(models[f"{name}, compiled"].model)
    times = time_variants({name: partial(run, m) for name, m in models.items()}, case, repeats)
    return timed_rows(times, case), agreement


def _models(case: Case) -> dict[str, VideoCLIP]:
    ours = build_model(case, VIEW).eval()
    block = partial(ManualViewBlock, num_frames=case.frames)
    return {
        NO_VIEW: build_model(case, like=ours).eval(), OURS: ours,
        STRAIGHT: build_model(case, block=block, like=ours).eval(),
    }


def _ratios(dtype: str, ms: dict[str, float]) -> list[dict[str, Any]]:
    ratios = [
        judge_most("view / no view", ms[OURS] / ms[NO_VIEW], VIEW_TARGETS.get(dtype), dtype=dtype),
        state_ratio("view, straightforward / no view", ms[STRAIGHT] / ms[NO_VIEW], dtype=dtype),
        state_ratio("view, straightforward / view", ms[STRAIGHT] / ms[OURS], dtype=dtype),
    ]
    for name in (NO_VIEW, OURS):
        if f"{name}, compiled" in ms:
            ratios.append(state_ratio(
                f"{name}, compiled / {name}", ms[f"{name}, compiled"] / ms[name], dtype=dtype
            ))
    return ratios
