"""The run's settings: defaults, reading of yaml files and command lines, checks."""

from openvclip.config.defaults import get_cfg
from openvclip.config.parser import default_output_dir, load_cfg, parse_args

__all__ = ["default_output_dir", "get_cfg", "load_cfg", "parse_args"]
