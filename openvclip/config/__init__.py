"""The run's settings: defaults, reading of yaml files and command lines, checks."""

from openvclip.config.defaults import get_cfg
from openvclip.config.parser import load_cfg, parse_args

__all__ = ["get_cfg", "load_cfg", "parse_args"]
