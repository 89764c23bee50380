"""Families of towers: one per file, each named in openvclip/config/doors.py."""

from importlib import import_module
from typing import Any

from openvclip.clip.sizes import CLIPConfig
from openvclip.models.backbone.backbone import Backbone
from openvclip.models.backbone.clip import CLIP, VisionTransformer

__all__ = ["CLIP", "Backbone", "CLIPConfig", "VisionTransformer", "build_backbone"]


def __getattr__(name: str) -> Any:
    if name == "build_backbone":  # which needs the temporal variants, and they this module
        return import_module("openvclip.models.backbone.build").build_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
