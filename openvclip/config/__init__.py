"""The run's settings: defaults, reading yaml files and command lines, checks."""

import importlib

from openvclip.config.defaults import get_cfg
from openvclip.config.doors import KEYS
from openvclip.config.extensions import declare, load_extensions
from openvclip.config.parser import default_output_dir, load_cfg, load_opts, parse_args

__all__ = ["declare", "default_output_dir", "get_cfg", "load_cfg", "load_extensions", "load_opts",
           "parse_args"]

for _module in KEYS:
    importlib.import_module(_module)
