"""Families of towers: one per file, each named in openvclip/config/doors.py."""

from openvclip.models.backbone.backbone import Backbone
from openvclip.models.backbone.clip import CLIP, CLIPConfig, VisionTransformer

__all__ = ["CLIP", "Backbone", "CLIPConfig", "VisionTransformer"]
