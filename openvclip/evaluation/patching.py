"""Patching the tested or validated weights with the original CLIP's, as ``TEST.PATCHING_*`` say."""

from __future__ import annotations

from torch import nn

from openvclip.checkpoints.loading import load_original_clip
from openvclip.interpolation import WeightPatcher
from openvclip.models.build import resolve_clip
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


def find_ratios(cfg) -> list[float]:
    """Return the ratios that ``TEST.PATCHING_RATIOS``, or else ``TEST.PATCHING_MODEL`` asks for."""
    ratios = list(cfg.TEST.PATCHING_RATIOS)
    if not ratios and cfg.TEST.PATCHING_MODEL:
        ratios = [cfg.TEST.PATCHING_RATIO]
    return ratios


def build_patcher(
    cfg, model: nn.Module, checkpoint: str | None
) -> tuple[WeightPatcher | None, list[float]]:
    """Build what the config asks for, and the ratios; or (None, []).

    Args:
        cfg: the resolved config.
        model: holds the weights to patch.
        checkpoint: the file that they are from; None: they are CLIP's.

    Raises:
        ConfigError: there is nothing to patch.
    """
    ratios = find_ratios(cfg)
    if not ratios:
        return None, []
    if checkpoint is None and set(ratios) != {1.0}:  # CLIP at ratio 1 is CLIP: published scripts
        section = "TRAIN" if cfg.VAL_MODE else "TEST"
        raise ConfigError(
            "patching is on (TEST.PATCHING_MODEL or TEST.PATCHING_RATIOS) but there is nothing "
            f"to patch: give {section}.CUSTOM_LOAD True with {section}.CUSTOM_LOAD_FILE, or "
            f"{section}.CHECKPOINT_FILE_PATH"
        )
    source = cfg.TEST.CLIP_ORI_PATH or resolve_clip(cfg)
    patcher = WeightPatcher(dict(model.named_parameters()), load_original_clip(source))
    logger.info(
        "patching %d tensors of %s with %s at %s", len(patcher.names), checkpoint or "CLIP", source,
        ", ".join(f"{r:g}" for r in ratios),
    )
    return patcher, ratios
