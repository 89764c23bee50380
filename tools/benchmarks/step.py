"""``benchmark.py step``: one training step, plain and interpolated."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.apart import run_apart
from benchmarks.compute import (
    VIEW,
    Case,
    build_model,
    check_agreement,
    finish_report,
    start_report,
    synchronize,
    time_variants,
    timed_rows,
)
from benchmarks.rates import judge_rates, measure_rates
from benchmarks.straightforward_compute import ManualViewBlock, StateDictStep
from benchmarks.targets import (
    BF16_TARGET,
    COPIES_TARGET,
    INTERPOLATED_TARGET,
    SAVED_TARGET,
    STEP_TARGETS,
    judge_least,
    judge_most,
    state_ratio,
)
from openvclip.interpolation import WeightInterpolator
from openvclip.models.build import compile_blocks
from openvclip.training.objectives.losses import soft_cross_entropy
from openvclip.training.optim import build_optimizer
from openvclip.training.step import InterpolatedStep, PlainStep
from openvclip.utils.logging import get_logger

PLAIN, INTERPOLATED, STRAIGHT = "plain", "interpolated", "interpolated, straightforward"
VARIANTS = (PLAIN, INTERPOLATED, STRAIGHT)
# Ways to take a step that the command line offers, as in the names of the variants.
WAYS = {"compile": "compiled", "checkpoint": "checkpointed", "accumulate": "in 2 parts"}
# Largest difference of a gradient tensor over its largest entry.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.3, "fp16": 0.1}
# The published recipe.
RECIPE = {"low": 0.0, "high": 0.6, "loss_ratio": 0.5}
CLIP_NORM = 1.0
# The second has the optimizer's state from its beginning.
MEMORY_STEPS = 2

logger = get_logger(__name__)


def run_step(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the tables and write the JSON.

    Raises:
        ConfigError: there is no such device.
        DataError: the gradients of the two ways disagree.
    """
    case = Case.from_args(args, dtype=args.dtype[0])
    result = start_report("step", case, {
        "arch": args.arch, "clips": args.clips, "frames": args.frames, "dtypes": args.dtype,
        "repeats": args.repeats, "with": args.ways, "temporal_type": VIEW,
        "memory_steps": MEMORY_STEPS, **RECIPE,
    })
    result.update(rows=[], memory=[], rates=[], ratios=[], agreement={})
    for dtype in args.dtype:
        _measure_dtype(Case.from_args(args, dtype=dtype), args, result)
    result["ratios"] += _between_precisions(result["rows"])
    return finish_report(result, compute_text.step_lines, args.output)


def _measure_dtype(case: Case, args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Add the figures of one precision to the report."""
    dtype = case.dtype
    variants = [*VARIANTS, *(f"{PLAIN}, {WAYS[way]}" for way in args.ways)]
    if not args.no_memory:
        memory = []
        for variant in variants:
            logger.info("memory of a step of %s, %s, %s", case.arch, dtype, variant)
            memory.append(measure_memory(case, variant))
        result["memory"] += memory
    logger.info("time of a step of %s, %s", case.arch, dtype)
    rows, result["agreement"][dtype] = measure_steps(case, args.repeats, variants)
    result["rows"] += rows
    result["ratios"] += _time_ratios(dtype, {row["variant"]: row["median_ms"] for row in rows})
    if not args.no_memory:
        result["ratios"] += _memory_ratios(dtype, memory)
    if case.device == "cuda":
        logger.info("rates of a step of %s, %s", case.arch, dtype)
        for base in (PLAIN, INTERPOLATED):
            variant = f"{base}, {WAYS['compile']}" if "compile" in args.ways else base
            rates = run_apart(
                rates_apart, threads=case.threads, case=dataclasses.asdict(case), variant=variant,
                repeats=args.repeats,
            )
            result["rates"] += rates["rows"]
            result["ratios"] += judge_rates(rates["rows"], dtype, base == INTERPOLATED)


class Stepper:
    """Builds training steps of a case: forward, backward, clipping and update, as a run has them.

    All variants share parameters, gradients and optimizer.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = build_model(case, VIEW).train()
        self.optimizer = build_optimizer(self.model, case.config())
        self.autocast, self.scaler = case.precision()
        self.steps = 0

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that train, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def original(self) -> dict[str, torch.Tensor]:
        """Return weights near the model's, in fp16 as OpenAI's archives have them."""
        torch.manual_seed(self.case.seed + 3)
        return {
            name: (tensor + 0.01 * tensor.std(correction=0) * torch.randn_like(tensor)).half()
            for name, tensor in self.model.state_dict().items()
        }

    def gradients(self, variant: str) -> Callable:
        """Return a function that leaves a batch's gradients on the parameters.

        Args:
            variant: one of ``VARIANTS``; the first two also with one of ``WAYS`` behind a comma.
        """
        how = {"autocast": self.autocast, "scaler": self.scaler}
        recipe = {**RECIPE, "seed": self.case.seed}
        if variant == STRAIGHT:
            block = partial(ManualViewBlock, num_frames=self.case.frames)
            model: Callable = build_model(self.case, block=block, like=self.model).train()
            clip = {name: tensor.float() for name, tensor in self.original().items()}
            return StateDictStep(model, soft_cross_entropy, clip, **recipe, **how)
        base, _, way = variant.partition(", ")
        how["accumulate"] = 2 if way == WAYS["accumulate"] else 1
        model = self.model
        if way in (WAYS["compile"], WAYS["checkpoint"]):
            model = build_model(self.case, VIEW, like=self.model).train()
            model.model.visual.transformer.use_checkpoint = way == WAYS["checkpoint"]
        if way == WAYS["compile"]:
            compile_blocks(model.model)
        if base == PLAIN:
            return PlainStep(model, soft_cross_entropy, **how)
        mixer = WeightInterpolator(self.trained, self.original())
        return InterpolatedStep(model, soft_cross_entropy, mixer, **recipe, **how)

    def run(self, gradients: Callable, video: torch.Tensor, label: torch.Tensor) -> None:
        """One iteration as the trainer has it."""
        self.optimizer.zero_grad(set_to_none=True)
        gradients(video, label, self.steps)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        float(torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1

    def copy_gradients(self, gradients: Callable) -> dict[str, torch.Tensor]:
        """Return the gradients of the case's batch before clipping; the weights stay."""
        self.optimizer.zero_grad(set_to_none=True)
        gradients(*self.case.batch(), 0)
        return {name: p.grad.clone() for name, p in self.trained.items() if p.grad is not None}


def measure_steps(
    case: Case, repeats: int, variants: Sequence[str] = VARIANTS
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time the variants of a step on the same weights and batch.

    Returns:
        A row for each variant, and how far the gradients of the two interpolated ones agree.

    Raises:
        DataError: they disagree.
    """
    stepper = Stepper(case)
    steps = {variant: stepper.gradients(variant) for variant in variants}
    agreement = check_agreement(
        f"gradients, {case.dtype}",
        relative_difference(*(stepper.copy_gradients(steps[v]) for v in (INTERPOLATED, STRAIGHT))),
        TOLERANCES[case.dtype],
    )
    video, label = case.batch()
    times = time_variants(
        {name: partial(stepper.run, step, video, label) for name, step in steps.items()},
        case, repeats,
    )
    return timed_rows(times, case), agreement


def relative_difference(
    ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> float:
    """Return the largest difference of a tensor over its largest entry, of all tensors."""
    if ours.keys() != other.keys():
        return float("inf")
    return max(float((ours[name] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-12))
               for name, tensor in other.items())


def measure_memory(case: Case, variant: str) -> dict[str, Any]:
    """Return the peak of a variant's memory in a process of its own."""
    memory = run_apart(
        steps_apart, threads=case.threads, case=dataclasses.asdict(case), variant=variant
    )
    peak = memory["cuda_peak_bytes"] if case.device == "cuda" else memory["peak_bytes"]
    return {"variant": variant, "dtype": case.dtype, "clips": case.clips,
            "peak_gib": peak / 2**30, "trained_gib": memory["trained_bytes"] / 2**30}


def steps_apart(case: dict[str, Any], variant: str) -> dict[str, Any]:
    """Run a few steps of a variant (in a process of its own); return what cannot be seen outside.
    """
    stepper = Stepper(Case(**case))
    gradients = stepper.gradients(variant)
    batch = stepper.case.batch()
    for _ in range(MEMORY_STEPS):
        stepper.run(gradients, *batch)
    synchronize(stepper.case.device)
    trained = sum(p.numel() * p.element_size() for p in stepper.trained.values())
    cuda = torch.cuda.max_memory_allocated() if stepper.case.device == "cuda" else 0
    return {"trained_bytes": trained, "cuda_peak_bytes": cuda}


def rates_apart(case: dict[str, Any], variant: str, repeats: int) -> dict[str, Any]:
    """Measure a variant's rates on a GPU (in a process of its own)."""
    stepper = Stepper(Case(**case))
    gradients = stepper.gradients(variant)

    def prepare(clips: int) -> Callable[[], None]:
        batch = dataclasses.replace(stepper.case, clips=clips).batch()
        return partial(stepper.run, gradients, *batch)

    rows = measure_rates(stepper.case, prepare, gradients, repeats)
    return {"rows": [{"variant": variant, **row} for row in rows]}


def _time_ratios(dtype: str, ms: dict[str, float]) -> list[dict[str, Any]]:
    ratios = [
        judge_most("interpolated / plain", ms[INTERPOLATED] / ms[PLAIN], INTERPOLATED_TARGET,
                   dtype=dtype),
        judge_least("straightforward / interpolated", ms[STRAIGHT] / ms[INTERPOLATED],
                    STEP_TARGETS.get(dtype), dtype=dtype),
    ]
    return ratios + [
        state_ratio(f"{variant} / {PLAIN}", ms[variant] / ms[PLAIN], dtype=dtype)
        for variant in ms if variant not in VARIANTS
    ]


def _memory_ratios(dtype: str, memory: list[dict[str, Any]]) -> list[dict[str, Any]]:
    peak = {row["variant"]: row["peak_gib"] for row in memory}
    copy = memory[0]["trained_gib"]
    for row in memory:
        row["copies_above_plain"] = (row["peak_gib"] - peak[PLAIN]) / copy
    return [
        judge_most("copies of the trainable parameters above plain",
                   (peak[INTERPOLATED] - peak[PLAIN]) / copy, COPIES_TARGET, dtype=dtype),
        judge_least("GiB below straightforward", peak[STRAIGHT] - peak[INTERPOLATED], SAVED_TARGET,
                    dtype=dtype),
    ]


def _between_precisions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare lower precisions with fp32, where both were measured."""
    ms = {(row["variant"], row["dtype"]): row["median_ms"] for row in rows}
    ratios = []
    for variant, target in ((PLAIN, BF16_TARGET), (INTERPOLATED, None), (STRAIGHT, None)):
        for dtype in ("bf16", "fp16"):
            if (variant, dtype) in ms and (variant, "fp32") in ms:
                ratios.append(judge_least(
                    f"{variant}: fp32 / {dtype}", ms[variant, "fp32"] / ms[variant, dtype],
                    target if dtype == "bf16" else None, dtype=dtype,
                ))
    # Published code asks for CUDA's autocast, which leaves a CPU at fp32.
    if (STRAIGHT, "fp32") in ms and (INTERPOLATED, "bf16") in ms:
        ratios.append(state_ratio(
            "straightforward in fp32 / interpolated in bf16",
            ms[STRAIGHT, "fp32"] / ms[INTERPOLATED, "bf16"], dtype="bf16",
        ))
    return ratios
