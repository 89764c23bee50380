"""openvclip: CLIP turned into an open-vocabulary video classifier (Open-VCLIP)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Public names and their modules, which are imported at first use only: importing openvclip, which
# every command does, must not cost torch's seconds.
_LAZY = {
    "InterpolatedStep": "openvclip.training.step",
    "PlainStep": "openvclip.training.step",
    "VideoCLIP": "openvclip.models.video_clip",
    "WeightInterpolator": "openvclip.interpolation",
    "build_temporal_clip": "openvclip.models.temporal",
    "load_model": "openvclip.predict.classifier",
    "read_clips": "openvclip.data.video.video_io",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
