"""The one way to ``torch.load``: no code is unpickled, nothing unpacks to more than its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openvclip.utils.archives import check_weights
from openvclip.utils.files import open_regular
from openvclip.utils.paths import local
from openvclip.utils.pickles import MOST_STEPS


def load_torch(path: str | Path, *, mmap: bool = True, most_steps: int = MOST_STEPS) -> Any:
    """Read tensors and plain values that ``torch.save`` wrote, onto the CPU.

    Args:
        path: a file in either format of torch.
        mmap: map the tensors of the newer format into memory rather than read them.
        most_steps: most operations that its pickle may have.

    Raises:
        UnfitFileError: it is not a regular file.
        ArchiveError: it would unpack to far more than its size.
        Exception: of many kinds, for damaged files and those that contain Python objects.
    """
    where = Path(local(path))
    with open_regular(where) as file:
        zipped = check_weights(file, most_steps)
    return torch.load(where, map_location="cpu", weights_only=True, mmap=mmap and zipped)
