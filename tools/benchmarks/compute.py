"""What the benchmarks of the compute path share: models of the real sizes, inputs, the device."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import describe_machine, load_average, time_in_turn
from openvclip.checkpoints.loading import build_autocast, build_scaler
from openvclip.config import load_cfg
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.temporal import temporal_block
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.writers import write_json
from openvclip.utils.errors import ConfigError, DataError

ARCHS = {
    "vitb32": CLIPConfig(512, 224, 32, 768, 12, 512, 12),
    "vitb16": CLIPConfig(512, 224, 16, 768, 12, 512, 12),
    "vitl14": CLIPConfig(768, 224, 14, 1024, 24, 768, 12),
    "tiny": CLIPConfig(32, 32, 16, 128, 2, 64, 2),
}
VIEW = "expand_temporal_view"
CLASSES = 400
AMP_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
# Flags of a CPU that multiplies bf16 or fp16 matrices itself.
MATRIX_FLAGS = ("amx_bf16", "avx512_bf16", "amx_fp16", "avx512_fp16", "bf16")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run, in words and numbers only, so that another process can build the same.

    Attributes:
        arch: a name in ``ARCHS``.
        clips: of a batch.
        frames: of a clip.
        dtype: ``fp32``, or ``bf16`` or ``fp16`` for mixed precision as a run has it.
        device: ``cpu`` or ``cuda``.
        threads: of torch on the CPU.
        seed: of weights and inputs.
    """

    arch: str = "vitb16"
    clips: int = 1
    frames: int = 8
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0

    @classmethod
    def from_args(cls, args: argparse.Namespace, **changes: Any) -> Case:
        """Build it from the command line; ``changes`` take precedence.

        Raises:
            ConfigError: a GPU is asked for but there is none.
        """
        given = {f.name: getattr(args, f.name) for f in dataclasses.fields(cls)
                 if hasattr(args, f.name)}
        given["device"] = select_device(args.device)
        given["threads"] = args.threads or torch.get_num_threads()
        return cls(**{**given, **changes})

    def config(self):
        """The configuration of a run of the published recipe in this precision."""
        amp = self.dtype != "fp32"
        return load_cfg(None, [
            "TRAIN.MIXED_PRECISION", str(amp),
            "TRAIN.AMP_DTYPE", AMP_NAMES.get(self.dtype, "auto"),  # the default without
            "SOLVER.OPTIMIZING_METHOD", "adamw",
            "SOLVER.BASE_LR", "3.33e-6",
            "SOLVER.WEIGHT_DECAY", "0.01",
            "SOLVER.ZERO_WD_1D_PARAM", "True",
        ])

    def precision(self) -> tuple[Callable, torch.amp.GradScaler]:
        """Return the maker of the forward passes' context, and the gradient scaler."""
        cfg, device = self.config(), torch.device(self.device)
        return build_autocast(cfg, device, "TRAIN"), build_scaler(cfg, device)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random videos (clips, 3, T, H, W) and labels (clips,) on the device."""
        draws = torch.Generator().manual_seed(self.seed + 1)
        size = ARCHS[self.arch].image_size
        video = torch.randn(self.clips, 3, self.frames, size, size, generator=draws)
        label = torch.randint(CLASSES, (self.clips,), generator=draws)
        return video.to(self.device), label.to(self.device)


def select_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: there is no GPU that torch can use.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("--device cuda: torch sees no GPU here; use --device cpu, or auto")
    return name if name != "auto" else "cuda" if there else "cpu"


def build_clip(
    case: Case,
    temporal_type: str | None = None,
    *,
    block: Callable[[int], nn.Module] | None = None,
    weights: Mapping[str, nn.Parameter] | None = None,
) -> CLIP:
    """Build a CLIP of random weights on the case's device.

    Args:
        case: says the sizes.
        temporal_type: of the image tower.
        block: makes the image tower's blocks instead of the library's temporal type.
        weights: parameters that the CLIP shares with another; None draws them.
    """
    block = block or temporal_block(temporal_type, case.frames)
    if weights is None:
        torch.manual_seed(case.seed)
        return CLIP(ARCHS[case.arch], block).to(case.device)
    with torch.device("meta"):
        clip = CLIP(ARCHS[case.arch], block)
    clip.load_state_dict(weights, assign=True)
    return clip


def build_model(
    case: Case,
    temporal_type: str | None = None,
    *,
    block: Callable[[int], nn.Module] | None = None,
    like: VideoCLIP | None = None,
) -> VideoCLIP:
    """Build a classifier among 400 classes; ``like`` shares all its parameters with it.

    The other arguments are those of :func:`build_clip`.
    """
    weights = None if like is None else like.model.state_dict(keep_vars=True)
    clip = build_clip(case, temporal_type, block=block, weights=weights)
    draws = torch.Generator().manual_seed(case.seed + 2)
    classifier = torch.randn(CLASSES, clip.embed_dim, generator=draws)
    return VideoCLIP(clip, case.frames, nn.functional.normalize(classifier, dim=-1))


def synchronize(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def time_variants(
    variants: Mapping[str, Callable[[], Any]], case: Case, repeats: int
) -> dict[str, dict[str, Any]]:
    """Time variants in turn, after one untimed run of each.

    Returns:
        For each variant the ``median_ms``, the ``min_ms`` and all ``runs_ms``.
    """

    def finish(function: Callable[[], Any]) -> None:
        function()
        synchronize(case.device)

    waiting = {name: partial(finish, function) for name, function in variants.items()}
    time_in_turn(waiting, 1, case.threads)
    return {name: summarize_runs(runs)
            for name, runs in time_in_turn(waiting, repeats, case.threads).items()}


def timed_rows(times: Mapping[str, dict[str, Any]], case: Case) -> list[dict[str, Any]]:
    """Return a table row for each variant, with its clips per second."""
    return [{"variant": name, "dtype": case.dtype, "clips": case.clips, **time,
             "clips_per_s": case.clips / time["median_ms"] * 1e3}
            for name, time in times.items()]


def summarize_runs(runs: list[float]) -> dict[str, Any]:
    """Return the median and the minimum of some times in ms, and the times."""
    return {"median_ms": statistics.median(runs), "min_ms": min(runs), "runs_ms": runs}


def max_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest absolute difference between two tensors."""
    return float((one.float() - other.float()).abs().max())


def check_agreement(what: str, difference: float, tolerance: float) -> dict[str, float]:
    """Return the JSON entry for two results that must be the same.

    Raises:
        DataError: they differ by more than ``tolerance``, so their times compare nothing.
    """
    if not difference <= tolerance:
        raise DataError(
            f"{what}: the library's result and the straightforward one differ by {difference:.3g}, "
            f"more than {tolerance:g}; one of them computes something else, so no times are given"
        )
    return {"max_difference": difference, "tolerance": tolerance}


def start_report(command: str, case: Case, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the beginning of a subcommand's JSON: the machine, the device, what is measured."""
    machine = {**describe_machine(), **_describe_device(case)}
    return {"command": command, "machine": machine, "settings": dict(settings)}


def finish_report(
    result: dict[str, Any], lines: Callable[[dict[str, Any]], Iterable[str]], output: str | None
) -> dict[str, Any]:
    """Note the load, print the tables, write the JSON if ``output`` names a file."""
    result["machine"]["load_average_after"] = load_average()
    for line in lines(result):
        print(line)
    if output:
        write_json(output, result)
    return result


def _describe_device(case: Case) -> dict[str, Any]:
    about: dict[str, Any] = {
        "device": case.device, "device_name": "CPU", "threads": case.threads,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cpu_matrix_flags": _flags(),
    }
    if case.device == "cuda":
        about.update(
            device_name=torch.cuda.get_device_name(),
            device_memory_gib=torch.cuda.get_device_properties(0).total_memory / 2**30,
            cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        )
    return about


def _flags() -> list[str]:
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return [flag for flag in MATRIX_FLAGS if flag in words]
