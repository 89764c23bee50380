"""The sizes of a CLIP built like OpenAI's ViT, read from the shapes in a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from openvclip.clip.open_clip_names import HEAD_WIDTH
from openvclip.clip.weights import count_layers, require_keys
from openvclip.utils.errors import CheckpointError


def num_heads(width: int) -> int:
    """Return CLIP's number of attention heads: one for every 64 channels, at least one.

    Raises:
        ValueError: ``width`` cannot be divided among that many heads.
    """
    heads = max(1, width // 64)
    if width % heads:
        raise ValueError(
            f"width {width} gives {heads} heads (one for every 64 channels), which do not divide "
            "it; use a multiple of 64, or a width under 128"
        )
    return heads


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of a CLIP; image and patch sizes in pixels. Heads follow from the widths."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = 49408

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, torch.Tensor], where: str = "the state dict"
    ) -> CLIPConfig:
        """Read the sizes from the tensors' shapes.

        Raises:
            CheckpointError: tensors that show the sizes are missing or have impossible shapes.
        """
        require_keys(state, where)
        vision_width, _, patch, _ = state["visual.conv1.weight"].shape
        tokens = state["visual.positional_embedding"].shape[0]
        grid = math.isqrt(max(tokens - 1, 0))
        if tokens < 2 or grid * grid != tokens - 1:
            raise CheckpointError(
                f"{where}: visual.positional_embedding has {tokens} positions, which is not one "
                "plus a square: not the tower of square images"
            )
        vocab_size, text_width = state["token_embedding.weight"].shape
        for name, width in (("visual.conv1.weight", vision_width),
                            ("token_embedding.weight", text_width)):
            try:
                num_heads(width)
            except ValueError as error:
                raise CheckpointError(f"{where}: {name}: {error}") from error
        layers = [count_layers(state, prefix) for prefix in
                  ("visual.transformer.resblocks.", "transformer.resblocks.")]
        if min(layers) < 1:
            raise CheckpointError(f"{where}: a tower has no transformer blocks, so this is not a "
                                  "CLIP with OpenAI's names")
        return cls(
            embed_dim=state["text_projection"].shape[1],
            image_size=grid * patch,
            patch_size=patch,
            vision_width=vision_width,
            vision_layers=layers[0],
            text_width=text_width,
            text_layers=layers[1],
            context_length=state["positional_embedding"].shape[0],
            vocab_size=vocab_size,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> CLIPConfig:
        """Read the sizes from a config of open_clip; the opposite of :meth:`describe`."""
        vision, text = config["vision_cfg"], config["text_cfg"]
        return cls(config["embed_dim"], vision["image_size"], vision["patch_size"],
                   vision["width"], vision["layers"], text["width"], text["layers"],
                   text["context_length"], text["vocab_size"])

    def describe(self) -> dict[str, Any]:
        """Return the config from which open_clip builds a CLIP of these sizes (``NAME.json``)."""
        vision_heads, text_heads = num_heads(self.vision_width), num_heads(self.text_width)
        vision = {"image_size": self.image_size, "layers": self.vision_layers,
                  "width": self.vision_width, "patch_size": self.patch_size}
        if self.vision_width // vision_heads != HEAD_WIDTH:
            vision["head_width"] = self.vision_width // vision_heads
        return {
            "embed_dim": self.embed_dim,
            "quick_gelu": True,
            "vision_cfg": vision,
            "text_cfg": {"context_length": self.context_length, "vocab_size": self.vocab_size,
                         "width": self.text_width, "heads": text_heads,
                         "layers": self.text_layers},
        }
