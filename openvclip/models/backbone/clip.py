"""CLIP's two towers under OpenAI's parameter names, of any size (Radford et al., arXiv 2103.00020).

Sizes are read from the shapes in a state dict, so one class covers ViT-B/32, B/16, L/14, L/14@336px
and the small models of the demo and the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from openvclip.clip.sizes import CLIPConfig
from openvclip.clip.towers import TowerSpec, describe_sizes
from openvclip.models.backbone.backbone import Backbone
from openvclip.models.layers import LayerNorm, ResidualAttentionBlock
from openvclip.utils.errors import DataError


class Transformer(nn.Module):
    """A stack of residual blocks.

    Args:
        blocks: the blocks, called one after another.
        use_checkpoint: in training, keep only the blocks' inputs and recompute the rest in the
            backward pass (activation checkpointing).
    """

    def __init__(self, blocks: list[nn.Module], use_checkpoint: bool = False) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*blocks)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.resblocks:
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                # No block draws random numbers, so their state need not be kept.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


class VisionTransformer(nn.Module):
    """The image tower: (N, 3, H, W) -> (N, embed_dim)."""

    def __init__(
        self, config: CLIPConfig, block: Callable[[int], nn.Module], use_checkpoint: bool
    ) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        tokens = (config.image_size // patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            [block(width) for _ in range(config.vision_layers)], use_checkpoint
        )
        self.ln_post = LayerNorm(width)

    def embed_patches(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, patches, D): ``conv1``, whose patches do not overlap, as a product.

        Its backward pass is several times faster than a convolution's.
        """
        patch = self.conv1.kernel_size[0]
        x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (N, 3, rows, p, columns, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, patches, 3·p·p)
        return F.linear(x, self.conv1.weight.flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed_patches(x)
        cls = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([cls, x], dim=1) + self.positional_embedding.to(x.dtype)  # (N, L, D)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(Backbone):
    """CLIP: an image and a text tower that share an embedding space.

    A new instance has OpenAI's initialisation and trains all its parameters; one made by
    :meth:`from_state_dict` has its text tower frozen.

    Args:
        config: sizes of the towers.
        vision_block: makes a block of the image tower from its width; temporal variants from
            openvclip/models/temporal are passed here.
        use_checkpoint: activation checkpointing in the image tower.
    """

    def __init__(
        self,
        config: CLIPConfig,
        vision_block: Callable[[int], nn.Module] = ResidualAttentionBlock,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.tower = config, describe_sizes(config, "")
        self.preprocess, self.prefix_tokens, self.logit_bias = self.tower.preprocess, 1, None
        self.image_size, self.patch_size = config.image_size, config.patch_size
        self.embed_dim, self.context_length = config.embed_dim, config.context_length
        width = config.text_width
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.visual = VisionTransformer(config, vision_block, use_checkpoint)
        self.transformer = Transformer(
            [ResidualAttentionBlock(width, causal=True) for _ in range(config.text_layers)]
        )
        self.token_embedding = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, width), freeze=False
        )
        self.ln_final = LayerNorm(width)
        if not self.logit_scale.is_meta:
            self.init_weights()

    def init_weights(self) -> None:
        """Draw OpenAI's initial values; blocks of the image tower keep torch's defaults."""
        normal, visual = nn.init.normal_, self.visual
        for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
            normal(parameter, std=self.config.vision_width**-0.5)
        width = self.config.text_width
        residual = width**-0.5 * (2 * self.config.text_layers) ** -0.5
        normal(self.token_embedding.weight, std=0.02)
        normal(self.positional_embedding, std=0.01)
        normal(self.text_projection, std=width**-0.5)
        block: Any
        for block in self.transformer.resblocks:
            normal(block.attn.in_proj_weight, std=width**-0.5)
            normal(block.attn.out_proj.weight, std=residual)
            normal(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            normal(block.mlp.c_proj.weight, std=residual)

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
    ) -> CLIP:
        """Build the CLIP whose weights ``state`` holds, in fp32, its text tower frozen.

        Args:
            state: OpenAI's names to tensors, from :func:`openvclip.clip.weights.load_clip`;
                they are copied, so the caller's do not change when the model trains.
            vision_block, use_checkpoint: see the class.
            tower: where the weights are from; its sizes are those of the weights.
            allow_missing: whether a name may keep its initial value.
            where: what to call ``state`` in errors.

        Raises:
            CheckpointError: names or shapes do not make a CLIP, with the names counted.
            ConfigError: a block has parameters without initial values.
        """
        config = CLIPConfig.from_state_dict(state, where)
        # Weights that are about to be replaced need neither memory nor random numbers.
        with torch.device("meta"):
            model = cls(config, vision_block, use_checkpoint)
        model.take_weights(state, where, allow_missing)
        model.freeze_text()
        if tower is not None:
            model.tower, model.preprocess = tower, tower.preprocess
        return model

    def vision_blocks(self) -> Iterable[nn.Module]:
        """The residual blocks of the image tower."""
        return self.visual.transformer.resblocks

    def text_blocks(self) -> Iterable[nn.Module]:
        """The residual blocks of the text tower."""
        return self.transformer.resblocks

    def describe(self) -> str:
        """Sizes of both towers."""
        size = self.config
        return (f"{size.image_size} px, patch {size.patch_size}, image tower {size.vision_layers} "
                f"x {size.vision_width}, text tower {size.text_layers} x {size.text_width}")

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, image_size, image_size) normalised images -> (N, embed_dim), not normalised."""
        return self.visual(images)

    def add_prompts(self, count: int, seed: int = 0) -> None:
        """Give class sentences ``count`` trained vectors of initial values N(0, 0.01²)."""
        values = torch.randn(count, self.config.text_width,
                             generator=torch.Generator().manual_seed(seed))
        scale = self.logit_scale
        self.prompt_embed = nn.Parameter((0.01 * values).to(scale.device, scale.dtype))

    def prompted_parameters(self) -> set[str]:
        """As published: all but the blocks and the token embedding."""
        return {name for name in self.text_parameters()
                if not name.startswith(("transformer.", "token_embedding."))}

    def encode_classes(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :meth:`encode_text`; the first tokens after the start are those of ``prompts``."""
        return self.encode_text(tokens, self.prompts)

    def encode_text(
        self, tokens: torch.Tensor, prompts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode token ids; the feature is that of the (first) end-of-text token.

        The tower is causal, so nothing after the batch's last end-of-text token can reach a
        feature: those columns are left out, which is exact and makes short texts cheap.

        Args:
            tokens: int64 (N, columns) from ``tokenize``; end-of-text is the largest id.
            prompts: (n, width), used as the embeddings of tokens 1 to n.

        Returns:
            (N, embed_dim), not normalised.

        Raises:
            DataError: a text ends beyond the tower's context length.
        """
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        if length > self.context_length:
            raise DataError(
                f"a text has {length} tokens, but this CLIP's context length is "
                f"{self.context_length}; shorten the class name"
            )
        x = self.token_embedding(tokens[:, :length])
        if prompts is not None:
            own = prompts.to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], own, x[:, 1 + len(prompts):]], dim=1)
        x = x + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x))  # (N, length, D)
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection
