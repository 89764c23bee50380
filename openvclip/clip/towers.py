"""What MODEL.CLIP_PATH may name: which towers that is, and their weights, by one way for all.

A source is a name of open_clip (``ViT-B-16``, ``ViT-B-16-SigLIP2/webli``), ``hf-hub:owner/name``, a
folder as open_clip saves it, or a file: with OpenAI's names, or written by openvclip for any tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from openvclip.clip.open_clip_towers import describe_open_clip
from openvclip.clip.sizes import CLIPConfig
from openvclip.clip.tower_spec import TOWER, Preprocess, TowerSpec
from openvclip.clip.weights import find_clip, is_named, load_named, read_file

__all__ = ["TOWER", "Preprocess", "TowerSpec", "describe_sizes", "describe_tower", "load_tower"]


def describe_tower(source: str | Path) -> TowerSpec:
    """Describe the towers that a source names, without building them.

    Raises:
        CheckpointError: there is nothing of that name, or it is not a CLIP.
    """
    if is_named(source):
        return describe_open_clip(str(source))
    content = read_file(source)
    return _describe_content(content, lambda: find_clip(content, source), str(source))


def load_tower(source: str | Path) -> tuple[TowerSpec, dict[str, torch.Tensor]]:
    """Describe the towers that a source names, and load their weights.

    Returns:
        The description, and fp32 tensors on the CPU under the towers' names, without prefix.

    Raises:
        CheckpointError: as :func:`openvclip.clip.weights.load_clip`.
    """
    if is_named(source):
        spec = describe_open_clip(str(source))
        return spec, load_named(spec)
    content = read_file(source)
    state = find_clip(content, source)
    return _describe_content(content, lambda: state, str(source)), state


def describe_sizes(sizes: CLIPConfig, source: str) -> TowerSpec:
    """Describe a CLIP built like OpenAI's ViT, from its sizes."""
    size = (sizes.image_size, sizes.image_size)
    return TowerSpec(source, "", "", "clip", sizes.describe(), Preprocess(size))


def _describe_content(
    content: object, find_state: Callable[[], dict[str, torch.Tensor]], source: str
) -> TowerSpec:
    if isinstance(content, Mapping) and isinstance(content.get(TOWER), Mapping):
        return TowerSpec.from_dict(content[TOWER], source)
    return describe_sizes(CLIPConfig.from_state_dict(find_state(), source), source)
