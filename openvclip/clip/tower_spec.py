"""What a pair of towers is, apart from its weights: its config and what it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from openvclip.clip.open_clip_names import why_refused
from openvclip.utils.errors import CheckpointError, first_line
from openvclip.utils.json_text import parse_json

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "random")
RESIZE_MODES = ("shortest", "longest", "squash")
TOWER = "tower"  # The key of a checkpoint under which the description of its tower is kept.


@dataclass(frozen=True)
class Preprocess:
    """What an image tower takes.

    Attributes:
        size: height and width, in pixels.
        mean: of each channel of pixels in 0 .. 1.
        std: likewise.
        interpolation: ``bicubic``, ``bilinear``, ``nearest`` or ``random``.
        resize_mode: ``shortest`` scales the short side to ``size`` and crops the centre;
            ``squash`` scales both sides and so changes the aspect; ``longest`` scales the long side
            and pads the rest.
        fill_color: the grey of that padding, 0 .. 255.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], size: Any, where: str) -> Preprocess:
        """Read open_clip's ``preprocess_cfg``; ``size`` is the image tower's own.

        Raises:
            CheckpointError: a value is not one that can be.
        """
        known = {key: settings[key] for key in ("interpolation", "resize_mode", "fill_color")
                 if settings.get(key) is not None}
        try:
            height, width = (size, size) if isinstance(size, int) else size
            mean, std = (tuple(map(float, settings.get(key) or default)) for key, default in
                         (("mean", OPENAI_MEAN), ("std", OPENAI_STD)))
            made = cls((int(height), int(width)), (mean[0], mean[1], mean[2]),
                       (std[0], std[1], std[2]), **known)
        except (TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{where}: its preprocessing cannot be read "
                                  f"({first_line(error)})") from error
        if (made.interpolation not in INTERPOLATIONS or made.resize_mode not in RESIZE_MODES
                or (len(mean), len(std)) != (3, 3)):
            raise CheckpointError(f"{where}: its preprocessing is not one of open_clip's: {made}")
        return made


@dataclass(frozen=True)
class TowerSpec:
    """Towers without their weights: enough to build them, and to prepare what they are given.

    Attributes:
        source: where they are from, as it was asked for.
        name: open_clip's name, ``owner/name`` on the hub or the folder's; "" for a file.
        tag: of the weights; "" where there is only one kind.
        family: a name in ``BACKBONES``: ``clip`` for a ViT built like OpenAI's (QuickGELU, heads
            of 64 channels), else ``open_clip``.
        config: the model's config as open_clip writes it (``NAME.json``).
        preprocess: what the image tower takes.
    """

    source: str
    name: str
    tag: str
    family: str
    config: Mapping[str, Any] = field(hash=False)
    preprocess: Preprocess

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and JSON; :meth:`from_dict` is the way back."""
        values = parse_json(json.dumps(asdict(self)))  # lists instead of tuples
        assert isinstance(values, dict)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> TowerSpec:
        """Read what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            given = dict(values)
            preprocess = given.pop("preprocess")
            made = cls(**given, preprocess=Preprocess.from_dict(
                preprocess, preprocess["size"], where))
            texts = (made.source, made.name, made.tag, made.family)
            if not all(isinstance(text, str) for text in texts) or not made.config["vision_cfg"]:
                raise ValueError("values of other types")
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{where}: its description of the towers cannot be read "
                                  f"({first_line(error)})") from error
        return made

    def digest(self) -> str:
        """SHA-256, in hex, of what decides how the towers compute; not of where they are from."""
        sizes = {f.name: getattr(self.preprocess, f.name) for f in fields(self.preprocess)}
        text = json.dumps([clean_config(self.config), sizes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def fits(self, other: TowerSpec) -> bool:
        """Whether weights of one can be mixed with those of the other, as far as configs tell.

        Of towers built like OpenAI's the shapes of the weights tell it all.
        """
        return (self.family == other.family == "clip"
                or clean_config(self.config) == clean_config(other.config))

    @property
    def label(self) -> str:
        """A short name for messages: ``ViT-B-16-SigLIP2/webli``."""
        return f"{self.name}/{self.tag}" if self.tag else self.name or self.source


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a model config without what only says where weights or random numbers come from."""
    made = deepcopy(dict(config))
    for section, keys in (("vision_cfg", ("timm_model_pretrained", "patch_dropout", "timm_drop",
                                          "timm_drop_path")),
                          ("text_cfg", ("hf_model_pretrained",))):
        made[section] = {k: v for k, v in made.get(section, {}).items() if k not in keys}
    return made


def describe_config(
    config: Mapping[str, Any], preprocess: Mapping[str, Any], *, source: str, name: str,
    tag: str = "", quick_gelu: bool = False,
) -> TowerSpec:
    """Describe the towers of a model config of open_clip.

    Args:
        config: the config; it is copied.
        preprocess: open_clip's ``preprocess_cfg``.
        source, name, tag: see :class:`TowerSpec`.
        quick_gelu: the weights were trained with QuickGELU even if the config does not say so.
    """
    made = deepcopy(dict(config))
    vision = made.get("vision_cfg")
    if not isinstance(vision, dict) or not isinstance(made.get("text_cfg"), dict):
        raise CheckpointError(f"{source}: its config has no vision_cfg and text_cfg, so it is not "
                              "one of open_clip's models")
    if quick_gelu and "timm_model_name" not in vision:
        made["quick_gelu"] = True
    family = "clip" if made.get("quick_gelu") and why_refused(made) is None else "open_clip"
    size = vision.get("image_size", 224)
    return TowerSpec(source, name, tag, family, made,
                     Preprocess.from_dict(preprocess, size, source))
