from __future__ import annotations

import subprocess
import sys

CODE = """
import torch
from openvclip.utils.torchvision_ops import import_torchvision
torchvision = import_torchvision()
assert import_torchvision() is torchvision
from torchvision.transforms.v2.functional import horizontal_flip
assert horizontal_flip(torch.tensor([[[1, 2]]])).tolist() == [[[2, 1]]]
import open_clip
"""


def test_torchvision_and_open_clip_import_whatever_torchvision_was_built_for():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
