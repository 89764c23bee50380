"""open_clip's own model classes: built from a config, and filled with the weights of a source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvclip.clip.open_clip_names import HUB, LOCAL, hub_without_retries, import_open_clip
from openvclip.clip.open_clip_towers import is_folder
from openvclip.clip.tower_spec import TowerSpec, clean_config
from openvclip.utils.errors import CheckpointError, first_line


def build_open_clip(
    config: Mapping[str, Any], where: str, device: str = "meta", image_only: bool = False
) -> nn.Module:
    """Build the model that open_clip builds from a config, without what draws random numbers.

    Args:
        config: a model config of open_clip.
        where: what to call it in errors.
        device: ``meta``: parameters without memory, to be assigned; ``cpu``: random values.
        image_only: with a text tower of the smallest size instead of the config's, which may have
            to be downloaded.

    Raises:
        CheckpointError: it cannot be built, for example because a text tower's config must be
            downloaded and there is no network.
    """
    open_clip = import_open_clip()
    from open_clip.coca_model import CoCa

    made = clean_config(config)
    if image_only:
        made["text_cfg"] = {"width": 64, "heads": 1, "layers": 1}
    custom = made.pop("custom_text", False) or "hf_model_name" in made["text_cfg"]
    if "hf_model_name" in made["text_cfg"]:
        made["text_cfg"]["hf_model_pretrained"] = False
    coca = CoCa if "multimodal_cfg" in made else open_clip.CustomTextCLIP
    register_small(made["vision_cfg"].get("timm_model_name") or "")
    try:
        with torch.device(device), hub_without_retries():
            model = (coca if custom else open_clip.CLIP)(**made)
    except Exception as error:  # timm, transformers and the network have errors of many kinds
        raise CheckpointError(
            f"open_clip cannot build {where} ({type(error).__name__}: {first_line(error)})"
            + ("; its text tower is Hugging Face's, whose config is downloaded once"
               if "hf_model_name" in made["text_cfg"] else "")
        ) from error
    if device == "meta":
        fill_buffers(model, where)
    return model


# How the names of small relatives of timm's models end, see name_small.
SMALL = re.compile(r"(.+)__(\d+)x(\d+)$")


def name_small(name: str, layers: int | None, width: int | None) -> str:
    """Return the name of a timm model like another one, with other layers and width, for tests."""
    if layers is None and width is None:
        return name
    return f"{name}__{layers or 0}x{width or 0}"


def register_small(name: str) -> None:
    """Let timm build the model of :func:`name_small`, in this process; other names do nothing."""
    found = SMALL.match(name)
    if found is None:
        return
    import timm
    from timm.models import register_model

    if timm.is_model(name):
        return
    build, layers, width = timm.model_entrypoint(found[1]), int(found[2]), int(found[3])

    def small(pretrained: bool = False, **settings: Any) -> nn.Module:
        if "convnext" in name:
            sizes: dict[str, Any] = {"depths": (layers,) * 4, "dims": (width,) * 4}
        elif "fastvit" in name:
            stages = 5 if name.startswith(("fastvit_mci3", "fastvit_mci4")) else 4
            sizes = {"layers": (layers,) * stages, "embed_dims": (width,) * stages}
        else:
            sizes = {"depth": layers, "embed_dim": width, "num_heads": max(1, width // 64)}
        return build(pretrained=False, **{k: v for k, v in sizes.items() if v}, **settings)

    small.__name__ = name
    small.__module__ = build.__module__
    register_model(small)


def fill_buffers(model: nn.Module, where: str) -> None:
    """Compute the buffers of a model on ``meta`` that no checkpoint contains.

    Raises:
        CheckpointError: one of them cannot be computed again.
    """
    module: Any
    for module in model.modules():
        buffers: dict[str, Any] = module._buffers
        empty = [name for name in module._non_persistent_buffers_set
                 if buffers.get(name) is not None and buffers[name].is_meta]
        for name in empty:
            buffers[name] = torch.empty_like(buffers[name], device="cpu")
        if empty == ["attn_mask"]:  # of a causal text tower
            buffers["attn_mask"] = torch.full(
                buffers["attn_mask"].shape, float("-inf")).triu_(1)
        elif empty == ["position_ids"]:
            buffers["position_ids"] = torch.arange(buffers["position_ids"].shape[-1])[None]
        elif empty == ["token_type_ids"]:
            buffers["token_type_ids"].zero_()
        elif empty and hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
        elif empty:
            raise CheckpointError(f"{where}: {type(module).__name__} has the buffers "
                                  f"{', '.join(empty)}, which only open_clip itself can fill")


def load_open_clip(
    spec: TowerSpec, read: Callable[[Path], Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Load the weights of towers that are not from a file, downloading them if need be.

    They are converted as open_clip does it: from other programs' names, and with the positions of
    a downloaded file resized to the config's image; those of a folder must be of its size.

    Args:
        spec: from :func:`openvclip.clip.open_clip_towers.describe_open_clip`.
        read: reads the tensors of a file.

    Returns:
        fp32 tensors under the names that open_clip's model has; they may still not fit it.

    Raises:
        CheckpointError: the weights cannot be had, or are not those of such a model.
    """
    path = find_weights(spec)
    state = {name: tensor.to(torch.float32, copy=True) for name, tensor in read(path).items()}
    model: Any = build_open_clip(spec.config, spec.label)
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for name in ("logit_scale", "logit_bias"):
            parameter = getattr(model, name)
            if parameter is not None and name in state:
                state[name] = state[name].reshape(parameter.shape)
        if model.logit_bias is not None and "logit_scale" in state:
            state.setdefault("logit_bias", torch.zeros_like(state["logit_scale"]))
        if not is_folder(spec.source):
            resize_pos_embed(state, model)
            resize_text_pos_embed(state, model)
    except Exception as error:  # tensors of any shape, under names that promise others
        raise CheckpointError(f"{path} does not have the weights of {spec.label} "
                              f"({first_line(error)})") from error
    return state


def find_weights(spec: TowerSpec) -> Path:
    """Return the file of the weights of a tower, downloaded if need be."""
    open_clip = import_open_clip()
    from open_clip.factory import _find_checkpoint_in_dir

    if is_folder(spec.source):
        folder = Path(spec.source.removeprefix(LOCAL)).expanduser()
        found = _find_checkpoint_in_dir(folder)
        if not found:
            raise CheckpointError(f"{folder} has a config but no weights (.safetensors, .bin or "
                                  ".pth); save the model again")
        return Path(found)
    try:
        with hub_without_retries():
            if spec.source.startswith(HUB):
                return Path(open_clip.pretrained.download_pretrained_from_hf(spec.name))
            settings = open_clip.get_pretrained_cfg(spec.name, spec.tag)
            return Path(open_clip.pretrained.download_pretrained(settings))
    except Exception as error:  # any error of the network, the hub or the disk
        raise CheckpointError(
            f"open_clip could not load {spec.label} ({type(error).__name__}: {first_line(error)}); "
            "without a network, put the file in place and give its path"
        ) from error
