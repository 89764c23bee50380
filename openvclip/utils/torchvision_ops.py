"""Importing torchvision with a torch that its compiled operators were not built for."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

# Libraries that define operators must outlive their definitions.
_LIBRARIES: list[torch.library.Library] = []
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Import torchvision even if its compiled operators cannot be loaded.

    A CUDA build of torchvision with a CPU build of torch (what ``pip install torchvision`` gives
    after a CPU torch) fails at import, because it registers shape functions for box operators that
    its library would have defined. The project uses none of them, so they are declared here and
    the import is repeated. Call this before anything that imports torchvision, open_clip included.

    Returns:
        The module ``torchvision``.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _BOXES)
    _LIBRARIES.append(library)
    return importlib.import_module("torchvision")
