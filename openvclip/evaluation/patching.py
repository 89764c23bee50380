"""Patching the tested or validated weights with the original CLIP's, as ``TEST.PATCHING_*`` say."""

from __future__ import annotations

from torch import nn

from openvclip.checkpoints.loading import load_original_clip
from openvclip.config.patching import check_patched, find_ratios
from openvclip.interpolation import WeightPatcher, Weights
from openvclip.models.build import resolve_clip
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


def build_weights(cfg, model: nn.Module, checkpoint: str | None) -> tuple[Weights, list[float]]:
    """Build the weights that are tested, and the ratios of their patching; none: as they are.

    Args:
        cfg: the resolved config.
        model: holds the weights to patch.
        checkpoint: the file that they are from; None: they are CLIP's.

    Raises:
        ConfigError: there is nothing to patch.
    """
    ratios = find_ratios(cfg)
    if not ratios:
        return Weights(), []
    check_patched(cfg, given=checkpoint is not None)
    source = cfg.TEST.CLIP_ORI_PATH or resolve_clip(cfg)
    patcher = WeightPatcher(dict(model.named_parameters()), load_original_clip(source))
    logger.info(
        "patching %d tensors of %s with %s at %s", len(patcher.names), checkpoint or "CLIP", source,
        ", ".join(f"{r:g}" for r in ratios),
    )
    return patcher, ratios
