"""open_clip's model names and configs, and which are built like OpenAI's ViT.

Heads and activation are not in a state dict, so they are read from open_clip's model configs:
a model whose activation or head width differs would load without an error and give wrong features.
"""

from __future__ import annotations

import difflib
import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from openvclip.utils.errors import CheckpointError
from openvclip.utils.json_text import parse_json
from openvclip.utils.torchvision_ops import import_torchvision

# Settings that leave a tower like OpenAI's; any other one changes how it computes.
VISION_KEYS = frozenset({"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"})
TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers"})
TOP_KEYS = frozenset({"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
HUB, LOCAL = "hf-hub:", "local-dir:"  # How open_clip marks sources that are no names.
CONNECT_SECONDS = 5.0  # After which the hub counts as out of reach.
HEAD_WIDTH = 64  # Channels of an attention head if a config does not say.


def import_open_clip() -> ModuleType:
    """Import open_clip, which takes seconds, where torchvision's operators may be missing."""
    model_configs()  # says so if it is not installed
    import_torchvision()
    import open_clip

    return open_clip


@contextmanager
def hub_without_retries() -> Iterator[None]:
    """Let the Hugging Face hub's client use what it has kept if the hub cannot be reached.

    It would try again for a minute, file by file. A machine with a proxy is not asked.
    """
    from huggingface_hub import constants

    kept = constants.HF_HUB_OFFLINE
    if not kept and "https" not in getproxies() and not _can_connect(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = kept


def _can_connect(address: str) -> bool:
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def model_configs() -> dict[str, Path]:
    """Return open_clip's model names with their config files, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise CheckpointError("open_clip is not installed: `pip install open_clip_torch`, "
                              "or give the path of a CLIP file")
    return {p.stem: p for p in sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))}


def why_refused(config: dict) -> str | None:
    """Return why a model of open_clip is not built like OpenAI's ViT, or None if it is."""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if "timm_model_name" in vision:
        return f"its image tower is timm's {vision['timm_model_name']}"
    if isinstance(vision.get("layers"), list):
        return "its image tower is a ResNet"
    if "hf_model_name" in text:
        return f"its text tower is Hugging Face's {text['hf_model_name']}"
    extra = sorted({*config} - TOP_KEYS) + [f"vision_cfg.{k}" for k in {*vision} - VISION_KEYS]
    extra += [f"text_cfg.{k}" for k in {*text} - TEXT_KEYS]
    if extra:
        return f"it is built with {', '.join(sorted(extra))}"
    if vision.get("head_width", HEAD_WIDTH) != HEAD_WIDTH:
        return f"its attention heads have {vision['head_width']} channels instead of 64"
    if vision.get("mlp_ratio", 4) != 4 or vision.get("width", 0) % 64:
        return "its image tower's widths are not OpenAI's"
    if text.get("heads") != text.get("width", 0) // 64:
        return f"its text tower has {text.get('heads')} heads for {text.get('width')} channels"
    return None


def find_name(description: dict) -> str | None:
    """Return the open_clip model that has exactly this config, such as ViT-B-16-quickgelu."""
    return next((name for name, path in model_configs().items()
                 if parse_json(path.read_text(encoding="utf-8")) == description), None)


def read_config(name: str) -> dict[str, Any]:
    """Return the model config that open_clip has under ``name``.

    Raises:
        CheckpointError: there is none; the nearest names are given.
    """
    configs = model_configs()
    if name not in configs:
        lower = {n.lower(): n for n in configs}
        near = difflib.get_close_matches(name.lower(), lower, n=3)
        hint = f"; nearest names: {', '.join(lower[n] for n in near)}" if near else ""
        raise CheckpointError(
            f"{name!r} is neither a file nor a model of open_clip{hint}. Give the path of a CLIP "
            "file or a name such as ViT-B-16"
        )
    return parse_json(configs[name].read_text(encoding="utf-8"))
