"""Which patching ratios a config asks for, and whether there is something to patch."""

from __future__ import annotations

from openvclip.utils.errors import ConfigError


def find_ratios(cfg) -> list[float]:
    """Return the ratios of ``TEST.PATCHING_RATIOS``, or else of ``TEST.PATCHING_MODEL``."""
    ratios = list(cfg.TEST.PATCHING_RATIOS)
    if not ratios and cfg.TEST.PATCHING_MODEL:
        ratios = [cfg.TEST.PATCHING_RATIO]
    return ratios


def check_patched(cfg, given: bool) -> None:
    """Check that patching, if it is on, has weights to patch.

    Args:
        cfg: the resolved config.
        given: whether the weights are other than the original CLIP's.

    Raises:
        ConfigError: there is nothing to patch.
    """
    ratios = find_ratios(cfg)
    if given or not ratios or set(ratios) == {1.0}:  # CLIP at ratio 1 is CLIP: published scripts
        return
    section = "TRAIN" if cfg.VAL_MODE else "TEST"
    raise ConfigError(
        "patching is on (TEST.PATCHING_MODEL or TEST.PATCHING_RATIOS) but there is nothing "
        f"to patch: give {section}.CUSTOM_LOAD True with {section}.CUSTOM_LOAD_FILE, or "
        f"{section}.CHECKPOINT_FILE_PATH"
    )
