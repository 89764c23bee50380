"""Training steps as a run makes them of its config, on a CLIP of random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.compute import AMP_NAMES, ARCHS, CLASSES, VIEW, Case, build_clip, synchronize
from openvclip.config import load_cfg
from openvclip.config.doors import OBJECTIVES
from openvclip.data.lists.labels import build_label_space
from openvclip.models.build import build_model
from openvclip.models.video_clip import VideoCLIP
from openvclip.training import build
from openvclip.training.optim import freeze_parameters
from openvclip.training.step import PlainStep
from openvclip.utils.logging import get_logger

# The second has the optimizer's state from its beginning.
MEMORY_STEPS = 2
CLIP_FILE, LABELS = "clip.pt", "labels.json"

logger = get_logger(__name__)


def write_world(case: Case, folder: Path, classes: int = CLASSES) -> None:
    """Write the CLIP of a case, in fp16 as OpenAI's archives are, and names of classes."""
    state = build_clip(case).state_dict()
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / CLIP_FILE)
    names = {str(number): f"class {number}" for number in range(classes)}
    (folder / LABELS).write_text(json.dumps(names), encoding="utf-8")


def list_options(case: Case, folder: str | Path, options: Mapping[str, Any]) -> list[str]:
    """Return KEY VALUE pairs of the published recipe in that world, changed by ``options``."""
    folder = Path(folder)
    size = ARCHS[case.arch].image_size
    names = json.loads((folder / LABELS).read_text(encoding="utf-8"))
    values = {
        "NUM_GPUS": int(case.device == "cuda"), "OUTPUT_DIR": folder / "out",
        "RNG_SEED": case.seed,
        "DATA.INDEX_LABEL_MAPPING_FILE": folder / LABELS, "DATA.NUM_FRAMES": case.frames,
        "DATA.TRAIN_CROP_SIZE": size, "DATA.TEST_CROP_SIZE": size,
        "DATA.TRAIN_JITTER_SCALES": [size, size],
        "MODEL.CLIP_PATH": folder / CLIP_FILE, "MODEL.ARCH": "auto",
        "MODEL.NUM_CLASSES": len(names), "MODEL.TEMPORAL_MODELING_TYPE": VIEW,
        "MODEL.LOSS_FUNC": "soft_cross_entropy",
        # Encoded once for all: one sentence for each class, not 28.
        "MODEL.TEXT_TEMPLATES": "name_only", "MODEL.TEXT_CACHE_DIR": folder / "texts",
        "TRAIN.BATCH_SIZE": case.clips,
        "TRAIN.MIXED_PRECISION": case.dtype != "fp32",
        "SOLVER.OPTIMIZING_METHOD": "adamw", "SOLVER.BASE_LR": 3.33e-6,
        "SOLVER.WARMUP_START_LR": 3.33e-8, "SOLVER.WEIGHT_DECAY": 0.01,
        "SOLVER.ZERO_WD_1D_PARAM": True, "SOLVER.CLIP_GRAD_L2NORM": 1.0,
        **options,
    }
    if case.dtype != "fp32":
        values["TRAIN.AMP_DTYPE"] = AMP_NAMES[case.dtype]
    return [str(word) for pair in values.items() for word in pair]


def _build_updates(
    cfg: Any, model: VideoCLIP, device: torch.device
) -> tuple[PlainStep, torch.optim.Optimizer]:
    """Build what changes the weights, as ``build_trainer`` does before its first epoch."""
    if not hasattr(build, "build_updates"):  # a checkout from before objectives had these hooks
        freeze_parameters(model, cfg)
        return build._build_updates(cfg, model, device)
    for name in build.build_objective_names(cfg):
        OBJECTIVES.get(name).extend_model(cfg, model)
    freeze_parameters(model, cfg)
    step, optimizer = build.build_updates(cfg, model, device)
    for objective in step.objectives:
        objective.prepare()
        objective.begin_epoch(0)
    return step, optimizer


class ConfiguredStep:
    """A model, its step and its optimizer, and iterations as the trainer takes them.

    Args:
        case: sizes, device and batch.
        folder: where :func:`write_world` wrote.
        options: config keys and values beside those of :func:`list_options`.
    """

    def __init__(self, case: Case, folder: str | Path, options: Mapping[str, Any]) -> None:
        self.case = case
        cfg = load_cfg(None, list_options(case, folder, options))
        torch.manual_seed(case.seed)
        self.model = build_model(cfg, build_label_space(cfg).names)
        self.step, self.optimizer = _build_updates(cfg, self.model, torch.device(case.device))
        self.clip_norm = cfg.SOLVER.CLIP_GRAD_L2NORM
        self.model.train()
        video, label = case.batch()
        self.batch = video, label % cfg.MODEL.NUM_CLASSES
        self.steps = 0
        self.loss = 0.0

    @property
    def trained(self) -> int:
        """The number of weights that train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def compute_gradients(self) -> None:
        """Forward and backward passes of the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = float(self.step(*self.batch, self.steps).loss)

    def iterate(self) -> None:
        """One iteration as the trainer has it."""
        self.compute_gradients()
        scaler = self.step.scaler
        scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        scaler.step(self.optimizer)
        scaler.update()
        for objective in self.step.objectives:
            objective.after_update(self.steps)
        synchronize(self.case.device)
        self.steps += 1


def iterate_apart(case: dict[str, Any], folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take a few iterations (in a process of its own); return what cannot be seen outside."""
    configured = ConfiguredStep(Case(**case), folder, options)
    for _ in range(MEMORY_STEPS):
        configured.iterate()
    cuda = torch.cuda.max_memory_allocated() if case["device"] == "cuda" else 0
    return {"trained": configured.trained, "loss": configured.loss, "cuda_peak_bytes": cuda}
