"""Scores and embeddings must be finite, or the run stops: finite weights may still overflow."""

from __future__ import annotations

from torch import Tensor

from openvclip.utils.errors import CheckpointError


def require_finite(values: Tensor, what: str) -> Tensor:
    """Return what a model computed, if it is all finite; on the CPU: a device is not waited for.

    Raises:
        CheckpointError: it holds NaN or infinity, which would count as a wrong answer, or a right
            one, without a word.
    """
    if values.isfinite().all():
        return values
    raise CheckpointError(
        f"{what} NaN or infinity, although the weights are finite: numbers overflow on the way. "
        "Use an earlier checkpoint or another patching ratio, or float32 where half precision "
        "was asked for"
    )
