"""Combining weights: mixtures for training, patching and validation, and averages."""

from openvclip.interpolation.merging.mean import average_state_dicts
from openvclip.interpolation.mixing import (
    MixedWeights,
    StateDict,
    WeightInterpolator,
    WeightPatcher,
    Weights,
    WeightsAndClassifier,
    check_shape,
    compact,
    draw_ratio,
    patch_state_dict,
)
from openvclip.interpolation.moving_average import AverageWeights, MovingAverage

__all__ = [
    "AverageWeights", "MixedWeights", "MovingAverage", "StateDict", "WeightInterpolator",
    "WeightPatcher", "Weights", "WeightsAndClassifier", "average_state_dicts", "check_shape",
    "compact", "draw_ratio", "patch_state_dict",
]
