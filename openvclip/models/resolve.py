"""``auto`` in a config becomes what the CLIP says of its own input."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from openvclip.clip.towers import Preprocess, TowerSpec, describe_tower
from openvclip.config.auto import find_auto
from openvclip.config.validate import find_problems
from openvclip.models.build import build_clip_source
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# open_clip's names of filters, which are Pillow's; it has no other for tests than bicubic where
# training draws one at random.
FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear_antialias", "random": "bicubic"}
# The published recipe's largest short side in training, in crops: 256 pixels for 224.
LARGEST = 8 / 7


def find_side(preprocess: Preprocess, where: str) -> int:
    """Return the side of a tower's square input in pixels.

    Raises:
        ConfigError: the tower takes images that are not square.
    """
    height, width = preprocess.size
    if height != width:
        raise ConfigError(f"{where} takes images of {height}x{width} pixels; only towers of square "
                          "images can be used")
    return height


def find_filter(preprocess: Preprocess, where: str) -> str:
    """Return the value of DATA.INTERPOLATION that resizes as a tower's own preprocessing does.

    Raises:
        ConfigError: there is none.
    """
    if preprocess.interpolation not in FILTERS:
        raise ConfigError(f"{where} resizes images by {preprocess.interpolation!r}, which is not "
                          "available; set DATA.INTERPOLATION to bicubic")
    return FILTERS[preprocess.interpolation]


def resolve_auto(keys: list[str], tower: TowerSpec) -> dict[str, Any]:
    """Return the values of ``keys`` that are ``auto``, see :mod:`openvclip.config.auto`.

    Raises:
        ConfigError: the tower's input is not one that can be.
    """
    preprocess, where = tower.preprocess, tower.label
    side = find_side(preprocess, where)
    padded = preprocess.resize_mode == "longest"
    values: dict[str, Any] = {
        "DATA.MEAN": list(preprocess.mean),
        "DATA.STD": list(preprocess.std),
        "DATA.TRAIN_CROP_SIZE": side,
        "DATA.TEST_CROP_SIZE": side,
        "DATA.TRAIN_JITTER_SCALES": [side, round(side * LARGEST)],
        "DATA.RESIZE_MODE": preprocess.resize_mode,
        "DATA.FILL_COLOR": preprocess.fill_color if padded else 0,
        "MODEL.CONTEXT_LENGTH": tower.config["text_cfg"].get("context_length", 77),
    }
    if "DATA.INTERPOLATION" in keys:
        values["DATA.INTERPOLATION"] = find_filter(preprocess, where)
    return {key: values[key] for key in keys}


def build_resolved(cfg: CfgNode, tower: TowerSpec | None = None) -> CfgNode:
    """Return the config with numbers for every ``auto``; the same config if it has none.

    Args:
        cfg: the config tree.
        tower: what is asked; None: the CLIP that ``cfg`` names.

    Raises:
        ConfigError: the numbers do not fit the other settings.
        CheckpointError: the CLIP is not there.
    """
    keys = find_auto(cfg)
    if not keys:
        return cfg
    tower = tower or describe_tower(build_clip_source(cfg))
    resolved = cfg.clone()
    resolved.defrost()
    values = resolve_auto(keys, tower)
    for key, value in values.items():
        section, name = key.split(".")
        resolved[section][name] = value
    logger.info("auto, according to %s: %s", tower.label,
                ", ".join(f"{key} {value}" for key, value in values.items()))
    problems = find_problems(resolved)
    if problems:
        raise ConfigError(f"{problems[0]} (after auto became what {tower.label} takes)")
    resolved.freeze()
    return resolved
