"""Settings that may be ``auto``: what the CLIP itself says of its input is then used.

A run resolves them before anything else reads them (:mod:`openvclip.models.resolve`), so that the
config that it stores has numbers.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config.defaults import flatten

AUTO = "auto"
KEYS = (
    "DATA.MEAN", "DATA.STD", "DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE",
    "DATA.TRAIN_JITTER_SCALES", "DATA.RESIZE_MODE", "DATA.INTERPOLATION", "DATA.FILL_COLOR",
    "MODEL.CONTEXT_LENGTH",
)


def is_auto(value: Any) -> bool:
    """Whether a setting is still to be resolved."""
    return isinstance(value, str) and value == AUTO


def find_auto(cfg: CfgNode) -> list[str]:
    """Return the keys that are ``auto``."""
    flat = flatten(cfg)
    return [key for key in KEYS if is_auto(flat[key])]
