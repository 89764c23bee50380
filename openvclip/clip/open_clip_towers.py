"""Describing the towers that open_clip knows by name, on the hub, or in a folder as it saves it."""

from __future__ import annotations

from pathlib import Path

from openvclip.clip.open_clip_names import (
    HUB,
    LOCAL,
    hub_without_retries,
    import_open_clip,
    read_config,
)
from openvclip.clip.tower_spec import TowerSpec, describe_config
from openvclip.utils.errors import CheckpointError, first_line
from openvclip.utils.files import read_text
from openvclip.utils.json_text import parse_json

FOLDER_CONFIG = "open_clip_config.json"


def describe_name(spec: str) -> TowerSpec:
    """Describe ``name``, ``name/tag`` or ``name:tag`` of open_clip.

    Without a tag it is ``openai``, or the only one that there is.

    Raises:
        CheckpointError: there is no such name (the nearest are named) or tag.
    """
    name, _, tag = spec.replace(":", "/").partition("/")
    config = read_config(name)
    open_clip = import_open_clip()
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = tag or ("openai" if "openai" in tags or len(tags) != 1 else tags[0])
    if tag not in tags:
        raise CheckpointError(
            f"open_clip has no weights {tag!r} for {name}; give {name}/TAG with one of: "
            f"{', '.join(tags) or '(it has none)'}"
        )
    settings = open_clip.get_pretrained_cfg(name, tag)
    return describe_config(config, settings, source=spec, name=name, tag=tag,
                           quick_gelu=tag == "openai" or bool(settings.get("quick_gelu")))


def describe_hub(spec: str) -> TowerSpec:
    """Describe ``hf-hub:owner/name``, whose config is downloaded.

    Raises:
        CheckpointError: there is no such model, or no network.
    """
    import_open_clip()
    from open_clip.factory import _get_hf_config

    name = spec.removeprefix(HUB)
    try:
        with hub_without_retries():
            found = _get_hf_config(name)
    except Exception as error:  # any error of the network, the hub or the disk
        raise CheckpointError(
            f"the config of {spec} could not be had ({type(error).__name__}: {first_line(error)}); "
            "check the name, or without a network give a folder that has its files"
        ) from error
    return describe_config(found.get("model_cfg", {}), found.get("preprocess_cfg", {}),
                           source=spec, name=name)


def describe_folder(folder: Path, source: str) -> TowerSpec:
    """Describe a folder as open_clip saves it: ``open_clip_config.json`` and the weights.

    Raises:
        CheckpointError: the config is missing or is not one.
    """
    path = folder / FOLDER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is a folder without {FOLDER_CONFIG}; give a folder as "
                              "open_clip saves it, or the checkpoint file in it")
    try:
        found = parse_json(read_text(path))
        model, preprocess = found["model_cfg"], found.get("preprocess_cfg") or {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a config of open_clip ({first_line(error)}); save "
                              "the model again") from error
    return describe_config(model, preprocess, source=source, name=folder.resolve().name)


def is_folder(source: str) -> bool:
    """Whether a source is a folder, or says that it is."""
    return source.startswith(LOCAL) or Path(source).expanduser().is_dir()


def describe_open_clip(source: str) -> TowerSpec:
    """Describe a source that is no file: a name, ``hf-hub:owner/name`` or a folder.

    Raises:
        CheckpointError: it is not there, or its config cannot be read.
    """
    if source.startswith(HUB):
        return describe_hub(source)
    if is_folder(source):
        return describe_folder(Path(source.removeprefix(LOCAL)).expanduser(), source)
    return describe_name(source)
