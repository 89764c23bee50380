"""``benchmark.py class-texts``: a training step whose classes are encoded with gradients."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import compute_text
from benchmarks.compute import VIEW, Case, build_clip, finish_report, start_report, time_variants
from benchmarks.targets import state_ratio
from benchmarks.text_classifier import choose_names
from openvclip.models.text import class_texts, prompt_templates
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.class_texts import ClassTextTraining, TextDraw
from openvclip.training.objectives.live_classifier import LiveClassifier, tokenize_classes
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.optim import build_optimizer
from openvclip.training.step import PlainStep
from openvclip.utils.logging import get_logger

FROZEN, ALL, PROMPTS = "frozen", "all templates", "4 prompts"

logger = get_logger(__name__)


def run_class_texts(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the arguments ask for, print the table and write the JSON.

    Raises:
        ConfigError: more classes than there are names, or no such device.
    """
    names = choose_names(args.classes, 1)
    case = Case.from_args(args, dtype=args.dtype[0])
    result = start_report("class-texts", case, {
        "arch": args.arch, "clips": args.clips, "frames": args.frames, "dtypes": args.dtype,
        "repeats": args.repeats, "classes": args.classes, "samples": args.samples,
        "chunk": args.chunk, "temporal_type": VIEW,
    })
    result.update(rows=[], ratios=[], agreement={})
    for dtype in args.dtype:
        logger.info("time of a step of %s, %s, with class texts", args.arch, dtype)
        rows = measure(Case.from_args(args, dtype=dtype), args, names)
        result["rows"] += rows
        ms = {row["variant"]: row["median_ms"] for row in rows}
        result["ratios"] += [{**state_ratio(f"{name} / {FROZEN}", own / ms[FROZEN]),
                              "dtype": dtype} for name, own in ms.items() if name != FROZEN]
    return finish_report(result, compute_text.class_texts_lines, args.output)


def measure(case: Case, args: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """Time a step of each variant in turn; return a row for each."""
    samples = {FROZEN: None, **{f"{n} a step": n for n in args.samples}, PROMPTS: PROMPTS,
               **({} if args.no_all else {ALL: 0})}
    steps, sentences, spent = {}, {}, {name: [] for name in samples}
    for variant, sample in samples.items():
        step, sentences[variant] = build_step(case, names, sample, args.chunk)
        steps[variant] = partial(_time_cpu, step, spent[variant])
    times = time_variants(steps, case, args.repeats)
    return [{"variant": name, "dtype": case.dtype, "sentences": sentences[name], **own,
             "cpu_ms": statistics.median(spent[name][1:])} for name, own in times.items()]


def _time_cpu(step: Callable[[], None], spent: list[float]) -> None:
    """Take a step; add its time on the processor, which other programs do not lengthen."""
    before = time.process_time()
    step()
    spent.append((time.process_time() - before) * 1e3)


def build_step(case: Case, names: list[str], sample: int | str | None, chunk: int) -> Any:
    """Return a function that takes a whole step, and how many sentences it encodes.

    Args:
        case: says what is run.
        names: of the classes.
        sample: templates drawn a step, 0: all, ``PROMPTS``: prompts instead; None: the text tower
            is frozen.
        chunk: most sentences whose activations are held.
    """
    clip = build_clip(case, VIEW)
    if sample == PROMPTS:
        clip.add_prompts(4)
    classifier = torch.nn.functional.normalize(torch.ones(len(names), clip.embed_dim), dim=-1)
    model = VideoCLIP(clip, case.frames, classifier, train_text=sample is not None).train()
    autocast, scaler = case.precision()
    objectives, count = [], 0
    if sample is not None:
        texts = class_texts(names, *[prompt_templates(4)] * (sample == PROMPTS))
        counts = [len(own) for own in texts]
        draw = TextDraw(counts, sample, True, case.seed) if isinstance(sample, int) and sample \
            else None
        live = LiveClassifier(model, tokenize_classes(clip, texts, 77), chunk, autocast)
        objectives = [ClassTextTraining(live, draw)]
        count = sum(min(own, sample) for own in counts) if draw else sum(counts)
    step = PlainStep(model, cross_entropy, autocast=autocast, scaler=scaler, objectives=objectives)
    optimizer = build_optimizer(model, case.config())
    video, label = case.batch()
    return partial(_take, step, optimizer, video, label % len(names)), count


def _take(
    step: PlainStep, optimizer: torch.optim.Optimizer, video: torch.Tensor, label: torch.Tensor
) -> None:
    optimizer.zero_grad(set_to_none=True)
    step(video, label, 0)
    step.scaler.unscale_(optimizer)
    parameters = [p for p in step.model.parameters() if p.grad is not None]
    float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
    step.scaler.step(optimizer)
    step.scaler.update()
