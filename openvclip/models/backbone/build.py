"""One entry for all towers: from a name to a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from openvclip.clip.open_clip_names import import_open_clip, read_config
from openvclip.clip.open_clip_towers import describe_name
from openvclip.clip.open_clip_weights import build_open_clip, name_small
from openvclip.clip.sizes import CLIPConfig
from openvclip.clip.tower_spec import TowerSpec, describe_config
from openvclip.clip.towers import describe_tower, load_tower
from openvclip.clip.weights import is_named
from openvclip.models.backbone import Backbone
from openvclip.models.backbone.clip import CLIP
from openvclip.models.temporal import build_temporal_clip
from openvclip.utils.errors import ConfigError


def build_backbone(
    name: str, *, pretrained: str | None = None, temporal_type: str | None = None,
    num_frames: int = 8, edges: str = "zeros", overrides: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build towers, their image tower on clips of ``num_frames`` frames.

    Args:
        name: a name of open_clip, with ``/tag`` or without; ``hf-hub:owner/name``; a folder as
            open_clip saves it; or a file.
        pretrained: tag of the weights of a name; other sources have one kind only, which any text
            asks for. None: random weights.
        temporal_type: a name in ``TEMPORAL``, or None for frames that do not see each other.
        num_frames: T, frames in a clip.
        edges: what lies past the ends of a clip: ``zeros`` or ``clamp``.
        overrides: settings to change in open_clip's config, for example
            ``{"embed_dim": 64, "vision_cfg": {"layers": 2, "width": 64}}``; random weights only.

    Raises:
        CheckpointError: there is no such tower, or its weights cannot be had.
        ConfigError: the temporal type is unknown or does not fit the tower, or overrides are given
            with ``pretrained``.
    """
    if pretrained is not None and overrides:
        raise ConfigError("overrides change the sizes of a tower, which its weights then do not "
                          "fit; give pretrained or overrides")
    if pretrained is not None:
        plain = is_named(name) and ":" not in name and "/" not in name
        tower, state = load_tower(f"{name}/{pretrained}" if plain else name)
    else:
        tower = override(describe_any(name), overrides or {})
        state = random_weights(tower)
    return build_temporal_clip(
        state, temporal_type=temporal_type, num_frames=num_frames, edges=edges, tower=tower,
        where=tower.label,
    )


def describe_any(name: str) -> TowerSpec:
    """Describe towers to be built without weights: a name of open_clip may have no tag."""
    if not is_named(name) or any(mark in name for mark in ":/"):
        return describe_tower(name)
    config = read_config(name)
    tags = import_open_clip().list_pretrained_tags_by_model(name)
    if not tags:
        return describe_config(config, {}, source=name, name=name)
    settings = describe_name(f"{name}/{tags[0]}").preprocess
    return describe_config(config, vars(settings), source=name, name=name)


def override(tower: TowerSpec, overrides: Mapping[str, Any]) -> TowerSpec:
    """Change settings of a tower's config; layers and width of a timm tower are its own."""
    if not overrides:
        return tower
    config = deepcopy(dict(tower.config))
    for key, value in overrides.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, Mapping) else value
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_name"] = name_small(
            vision["timm_model_name"], vision.pop("layers", None), vision.pop("width", None))
    return describe_config(config, vars(tower.preprocess), source=tower.source, name=tower.name)


def random_weights(tower: TowerSpec) -> dict[str, torch.Tensor]:
    """Return weights as open_clip draws them."""
    if tower.family == "clip":
        return CLIP(CLIPConfig.from_config(tower.config)).state_dict()
    state = build_open_clip(tower.config, tower.label, "cpu").state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
