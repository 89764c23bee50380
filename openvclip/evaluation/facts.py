"""What results say about how they came about, and what a resumed test must have in common."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from typing import Any

import torch

from openvclip import __version__
from openvclip.checkpoints.files import read_content
from openvclip.checkpoints.held import CURRENT, name_weights
from openvclip.checkpoints.loading import build_dtype, name_dtype
from openvclip.checkpoints.training_config import find_overlap, find_training
from openvclip.clip.towers import TowerSpec
from openvclip.config.defaults import flatten
from openvclip.data.loader import Loader
from openvclip.models.build import build_clip_source
from openvclip.utils import distributed
from openvclip.utils.files import compute_file_hash

# Keys of DATA and TEST, by their beginnings, that scores do not depend on.
NOT_IN_SCORES = ("DATA.CACHE_", "DATA.MAX_BAD_FRACTION", "TEST.BATCH_SIZE", "TEST.RESUME",
                 "TEST.SAVE_RESULTS_PATH", "TEST.NUM_TEMPORAL_CLIPS")
# Keys that logs of earlier versions lack, and the values at which they computed.
NEW_KEYS = {"DATA.RESIZE_MODE": "shortest", "DATA.INTERPOLATION": "bilinear", "DATA.FILL_COLOR": 0,
            "TEST.WEIGHTS": "current"}
# Facts on which scores do not depend.
NO_CAUSE = ("config_sha256", "draw", "trained_on", "tested_on_training")


def build_facts(
    cfg, checkpoint: str | None, device: torch.device, paths: Sequence[str],
    tower: TowerSpec | None = None,
) -> dict[str, Any]:
    """Return what is needed for comparing results: weights, sampling, versions.

    ``paths`` are those of the tested videos, to determine which of them were trained on; ``tower``
    says how the model computes, which its weights do not tell.
    """
    source = build_clip_source(cfg)
    return {
        "arch": cfg.MODEL.ARCH,
        "clip": {"source": str(source), "sha256": compute_file_hash(source)},
        "tower": tower and {"name": tower.label, "family": tower.family, "sha256": tower.digest()},
        "checkpoint": checkpoint and _describe_checkpoint(checkpoint, cfg.TEST.WEIGHTS),
        "trained_on": find_training(checkpoint),
        "tested_on_training": find_overlap(checkpoint, paths, cfg.DATA.PATH_PREFIX)
        if distributed.is_main() else None,
        "temporal_modeling": cfg.MODEL.TEMPORAL_MODELING_TYPE,
        "frames": cfg.DATA.NUM_FRAMES,
        "sampling_rate": cfg.DATA.SAMPLING_RATE,
        "views": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
        # Share of the raw model's logits; None: they are the model's own.
        "raw_model_ratio": cfg.MODEL.ENSEMBLE_RAWMODEL_RATIO if cfg.MODEL.ENSEMBLE_PRED else None,
        "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
        "seed": cfg.RNG_SEED,
        "precision": name_dtype(build_dtype(cfg, device, "TEST")),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "openvclip": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _describe_checkpoint(file: str, which: str) -> dict[str, Any]:
    """File, digest, and if they are not the current ones of a training, whose weights they are."""
    weights = name_weights(read_content(file), which)
    return {"file": file, "sha256": compute_file_hash(file),
            **({} if weights == CURRENT else {"weights": weights})}


def build_resume_key(
    cfg, facts: dict[str, Any], loader: Loader, ratios: Sequence[float]
) -> dict[str, Any]:
    """Return everything that the outputs of a test depend on.

    The videos' contents are not read for this: their paths represent them.
    """
    keys = {name: value for name, value in flatten(cfg).items()
            if name.startswith(("DATA.", "TEST.", "MODEL.MODEL_NAME", "MODEL.CONTEXT_LENGTH"))
            and not name.startswith(NOT_IN_SCORES)}
    for name, usual in NEW_KEYS.items():  # logs of versions without the key stand for the default
        if keys[name] == usual:
            del keys[name]
    # Logs of versions without these keys stand for the usual values.
    if cfg.MODEL.BACKBONE not in ("clip", "auto"):
        keys["MODEL.BACKBONE"] = cfg.MODEL.BACKBONE
    if cfg.MODEL.TEMPORAL_EDGES != "zeros":
        keys["MODEL.TEMPORAL_EDGES"] = cfg.MODEL.TEMPORAL_EDGES
    if cfg.MODEL.NUM_EXPERTS:
        keys |= {name: flatten(cfg)[name] for name in (
            "MODEL.NUM_EXPERTS", "MODEL.EXPERT_INSERT_LAYERS", "MODEL.ROUTING_TYPE")}
    causes = {name: value for name, value in facts.items() if name not in NO_CAUSE}
    if not causes["tower"] or causes["tower"]["family"] == "clip":  # whose weights tell all
        del causes["tower"]
    if causes["raw_model_ratio"] is None:  # as in logs of versions that had no raw model
        del causes["raw_model_ratio"]
    rows = "\n".join(loader.dataset.videos.paths)
    return {
        "facts": causes,
        "keys": keys,
        "compiled": cfg.MODEL.COMPILE,
        "rows": hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest(),
        "group": loader.group,
        "ratios": ratios,
        "patched_with": compute_file_hash(cfg.TEST.CLIP_ORI_PATH) if cfg.TEST.CLIP_ORI_PATH
        else facts["clip"]["sha256"],
    }
