"""Every tower that open_clip builds: its own model classes, with their parameters and names.

OpenAI's architecture has a class of its own (openvclip/models/backbone/clip.py), which computes the
same faster: patches by a product, texts cut off at their end, attention in bf16 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn

from openvclip.clip.open_clip_names import LOCAL
from openvclip.clip.open_clip_towers import is_folder
from openvclip.clip.open_clip_weights import build_open_clip
from openvclip.clip.text_tokens import TextTokenizer, load_tokenizer
from openvclip.clip.towers import TowerSpec
from openvclip.models.backbone.backbone import Backbone
from openvclip.models.backbone.opened import View
from openvclip.models.layers import ResidualAttentionBlock
from openvclip.utils.errors import ConfigError, DataError

# Layers that draw random numbers or change without a gradient in training; here they never do.
STEADY = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
# Attributes of open_clip's CLIP that its text tower's class has under shorter names.
TEXT_POOLING = {"pool_type": "text_pool_type", "eos_id": "text_eos_id"}


class OpenCLIP(Backbone):
    """The towers of an open_clip model, whose children and parameters it takes over.

    Args:
        model: open_clip's ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.
        tower: what it was built from.
    """

    visual: Any
    attn_mask: torch.Tensor | None

    def __init__(self, model: Any, tower: TowerSpec) -> None:
        super().__init__()
        self.tower, self.preprocess = tower, tower.preprocess
        self.image_size = tower.preprocess.size[0]
        self.embed_dim = int(tower.config["embed_dim"])
        self.context_length = int(tower.config["text_cfg"].get("context_length", 77))
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model._parameters.items():
            self.register_parameter(name, parameter)
        self.logit_bias = model.logit_bias
        for name, buffer in model._buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        text = getattr(model, "text", None)
        self.pooling: dict[str, Any] = {short: getattr(model if text is None else text,
                                       long if text is None else short, None)
                        for short, long in TEXT_POOLING.items()}
        trunk = getattr(self.visual, "trunk", None)
        self.prefix_tokens = int(getattr(trunk, "num_prefix_tokens", 0 if trunk else 1))
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.num_batches_tracked = None  # counts what never happens
        if self.logit_bias is not None:
            self.logit_bias.requires_grad_(False)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, torch.Tensor],
        *,
        vision_block: Callable[[int], nn.Module] = ResidualAttentionBlock,
        tower: TowerSpec | None = None,
        use_checkpoint: bool = False,
        allow_missing: Callable[[str], bool] | None = None,
        where: str = "the state dict",
    ) -> OpenCLIP:
        """Build the towers whose weights ``state`` holds, in fp32, the text tower frozen.

        Args:
            state: open_clip's names to tensors, which are copied.
            vision_block: a :class:`View` opens the blocks to a temporal variant.
            tower: what to build; weights alone do not tell it.
            use_checkpoint: activation checkpointing in the image tower.
            allow_missing, where: see :class:`Backbone`.

        Raises:
            CheckpointError: names or shapes do not fit, or the towers cannot be built.
            ConfigError: the image tower has no attention that ``vision_block`` could open, or no
                activation checkpointing.
        """
        if tower is None:
            raise ConfigError(f"{where}: MODEL.BACKBONE open_clip needs to know which tower it is; "
                              "give a name of open_clip or a folder that it saved")
        model = cls(build_open_clip(tower.config, tower.label), tower)
        if isinstance(vision_block, View):
            model.open(vision_block)
        if use_checkpoint:
            model.use_checkpoint()
        model.take_weights(state, where, allow_missing)
        for name, parameter in model.named_parameters():
            if not name.startswith("visual.") and name != "logit_scale":
                parameter.requires_grad_(False)
        return model

    def open(self, view: View) -> None:
        """Let frames see each other in the image tower's blocks.

        Raises:
            ConfigError: it has none with attention.
        """
        if not self.has_attention:
            raise ConfigError(
                f"the frames of {self.tower.label} cannot see each other: its image tower "
                f"({self._name_trunk()}) has no blocks of attention; use MODEL.MODEL_NAME "
                "BasicClipVideo, which takes frames alone"
            )
        blocks = list(self.vision_blocks())
        width = getattr(self._trunk, "embed_dim", None) or self._trunk.transformer.width
        view.open(blocks, int(width), self.prefix_tokens, self.tower.label)

    def use_checkpoint(self) -> None:
        """Keep only the blocks' inputs in training, and compute the rest again."""
        if not hasattr(self._trunk, "set_grad_checkpointing") or hasattr(self.visual, "layer1"):
            raise ConfigError(f"MODEL.USE_CHECKPOINT is True, but {self.tower.label} "
                              f"({self._name_trunk()}) has no activation checkpointing; set it "
                              "False")
        self._trunk.set_grad_checkpointing(True)

    @property
    def _trunk(self) -> Any:
        return getattr(self.visual, "trunk", self.visual)

    def _name_trunk(self) -> str:
        name = self.tower.config["vision_cfg"].get("timm_model_name")
        return f"timm's {name}" if name else type(self.visual).__name__

    @property
    def has_attention(self) -> bool:
        """Whether the image tower is a stack of transformer blocks."""
        return hasattr(self._trunk, "blocks") or hasattr(self._trunk, "transformer")

    def vision_blocks(self) -> Iterable[nn.Module]:
        """The transformer's blocks, or the stages of a convolutional tower."""
        trunk = self._trunk
        if hasattr(trunk, "transformer"):
            return trunk.transformer.resblocks
        for name in ("blocks", "stages"):
            if hasattr(trunk, name):
                return getattr(trunk, name)
        return [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]

    def text_blocks(self) -> Iterable[nn.Module]:
        """The blocks of open_clip's own text transformer; none of one by Hugging Face."""
        text: Any = getattr(self, "text", self)
        return getattr(getattr(text, "transformer", None), "resblocks", ())

    def train(self, mode: bool = True) -> OpenCLIP:
        """Set the mode of all layers but those that would draw random numbers or keep statistics.

        So a step is a function of weights and batch, and weights are all that is interpolated.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, STEADY):
                module.eval()
        return self

    def describe(self) -> str:
        """The tower's name and sizes."""
        height, width = self.preprocess.size
        return f"{self.tower.label}, {height}x{width} px, embeddings of {self.embed_dim}"

    def text_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters of the text tower; CoCa's captioner is not part of it."""
        return {name: p for name, p in super().text_parameters().items()
                if not name.startswith("text_decoder.")}

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """What the config names; for a folder its files are in it."""
        source = self.tower.source
        folder = source.removeprefix(LOCAL) if is_folder(source) else None
        return load_tokenizer(self.tower.config["text_cfg"], folder)

    @property
    def ends_early(self) -> bool:
        """Whether nothing after a text's end can reach its feature."""
        text: Any = getattr(self, "text", self)
        return (getattr(text, "attn_mask", None) is not None
                and getattr(text, "cls_emb", None) is None
                and self.pooling["pool_type"] in ("argmax", "eos"))

    def count_columns(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how many columns of token ids (N, columns) each text needs, int64 (N,)."""
        if not self.ends_early:
            return torch.full((len(tokens),), tokens.shape[1])
        end = self.pooling["eos_id"] if self.pooling["pool_type"] == "eos" else None
        return (tokens if end is None else tokens.eq(end).int()).argmax(dim=-1) + 1

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images -> (N, embed_dim), not normalised."""
        features = self.visual(images)
        return features[0] if isinstance(features, tuple) else features

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, columns) token ids -> (N, embed_dim), not normalised.

        In a causal tower nothing after the batch's last end of text can reach a feature: those
        columns are left out.

        Raises:
            DataError: a text is longer than the tower's context.
        """
        text: Any = getattr(self, "text", self)
        if text is not self and not self.ends_early:
            features = text(tokens)
            return features[0] if isinstance(features, tuple) else features
        from open_clip.transformer import text_global_pool

        kind, mask = self.pooling["pool_type"], text.attn_mask
        if self.ends_early:
            tokens = tokens[:, :int(self.count_columns(tokens).max())]
        length = tokens.shape[1]
        if length > self.context_length:
            raise DataError(f"a text has {length} tokens, but the context length of "
                            f"{self.tower.label} is {self.context_length}; shorten the class name")
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
        x = text_global_pool(text.ln_final(x), tokens, kind, eos_token_id=self.pooling["eos_id"])
        out = getattr(text, "text_projection", None)
        if out is None:
            return x
        return out(x) if isinstance(out, nn.Linear) else x @ out
