"""openvclip: CLIP turned into an open-vocabulary video classifier (Open-VCLIP)."""

__version__ = "0.1.0"
