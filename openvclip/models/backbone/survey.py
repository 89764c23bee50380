"""Which towers of open_clip run on clips: each built on real sizes, without memory for weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from openvclip.clip.open_clip_names import import_open_clip
from openvclip.clip.open_clip_towers import describe_name
from openvclip.clip.open_clip_weights import build_open_clip
from openvclip.clip.tower_spec import TowerSpec
from openvclip.models.backbone.open_clip import OpenCLIP
from openvclip.models.temporal import temporal_block
from openvclip.utils.errors import OpenVCLIPError


@dataclass(frozen=True)
class Surveyed:
    """One pair of a model and its weights.

    Attributes:
        tower: what it is.
        frames: why frames alone cannot be encoded; "": they can.
        clips: why frames cannot see each other; "": they can.
        model: the towers without memory, on the device ``meta``; its text tower is left out, since
            some need a download. None where ``frames`` says why.
    """

    tower: TowerSpec
    frames: str
    clips: str
    model: OpenCLIP | None


def list_pairs() -> list[str]:
    """Return every model and weights that open_clip lists, as ``name/tag``."""
    return ["/".join(pair) for pair in import_open_clip().list_pretrained()]


def survey(
    pairs: Iterable[str], temporal_type: str = "expand_temporal_view"
) -> Iterator[Surveyed]:
    """Build the image tower of each pair, and open it to a temporal variant.

    Args:
        pairs: as ``name/tag``; models that differ in their weights only are built once.
        temporal_type: a name in ``TEMPORAL``.
    """
    built: dict[str, Surveyed] = {}
    for pair in pairs:
        tower = describe_name(pair)
        key = tower.digest()
        if key not in built:
            built[key] = survey_tower(tower, temporal_type)
        found = built[key]
        yield Surveyed(tower, found.frames, found.clips, found.model)


def survey_tower(tower: TowerSpec, temporal_type: str) -> Surveyed:
    """Build one image tower on ``meta`` and open it to a temporal variant."""
    view = temporal_block(temporal_type, num_frames=8)
    try:
        model = OpenCLIP(build_open_clip(tower.config, tower.label, image_only=True), tower)
    except OpenVCLIPError as error:
        return Surveyed(tower, str(error), str(error), None)
    try:
        model.open(view)  # type: ignore[arg-type]
    except OpenVCLIPError as error:
        return Surveyed(tower, "", str(error), model)
    return Surveyed(tower, "", "", model)


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of parameters of a module, as on ``meta``."""
    return sum(parameter.numel() for parameter in model.parameters())
