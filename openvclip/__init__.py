"""openvclip: CLIP turned into an open-vocabulary video classifier (Open-VCLIP)."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # At first use only: importing openvclip, which every tool does, must not cost torch's seconds.
    if name == "load_model":
        from openvclip.predict.classifier import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
