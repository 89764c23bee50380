"""The interface of a family of towers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from openvclip.clip.text_tokens import ClipTokenizer, TextTokenizer
from openvclip.clip.towers import Preprocess, TowerSpec
from openvclip.clip.weights import check_keys
from openvclip.utils.errors import ConfigError


class Backbone(nn.Module):
    """An image and a text tower that share an embedding space.

    Parameters of the image tower are named ``visual.*``; all others but ``logit_scale`` and
    ``logit_bias`` are the text tower's.

    Attributes:
        tower: what the towers are, which every checkpoint keeps: weights do not tell all of it.
        preprocess: what the image tower takes.
        image_size: side of the image tower's input, in pixels.
        prefix_tokens: tokens of the image tower that come before the patches' and belong to no
            place, the class token first; 0 where the patches' are pooled.
        embed_dim: D, size of the embeddings.
        context_length: most tokens of a text.
        logit_scale: logarithm of the factor on cosines, a scalar parameter.
        logit_bias: what is added to the logits of towers trained with a sigmoid loss, a scalar
            parameter that does not train by itself; None for others.
    """

    tower: TowerSpec
    preprocess: Preprocess
    image_size: int
    prefix_tokens: int
    embed_dim: int
    context_length: int
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None  # a value here would hide a family's own

    @classmethod
    @abstractmethod
    def from_state_dict(
        cls,
        state: Mapping[str, torch.Tensor],
        *,
        vision_block: Callable[[int], nn.Module],
        tower: TowerSpec | None = None,
        use_checkpoint: bool = False,
        allow_missing: Callable[[str], bool] | None = None,
        where: str = "the state dict",
    ) -> Backbone:
        """Build the towers whose weights ``state`` holds, in fp32, the text tower frozen.

        Args:
            state: names to tensors.
            vision_block: makes a block of the image tower from its width, which is where a
                temporal variant opens the attention.
            tower: what the towers are; None: as the weights tell.
            use_checkpoint: activation checkpointing in the image tower.
            allow_missing: whether a name may keep its initial value.
            where: what to call ``state`` in errors.

        Raises:
            CheckpointError: names or shapes do not fit.
        """

    def take_weights(
        self, state: Mapping[str, torch.Tensor], where: str,
        allow_missing: Callable[[str], bool] | None = None,
    ) -> None:
        """Let towers that were built without memory hold fp32 copies of the tensors in ``state``.

        See :meth:`from_state_dict`.
        """
        current = self.state_dict()
        check_keys({k: tuple(v.shape) for k, v in current.items()},
                   {k: tuple(v.shape) for k, v in state.items()}, where, allow_missing)
        current.update({k: v.detach().to("cpu", torch.float32, copy=True)
                        for k, v in state.items()})
        self.load_state_dict(current, assign=True)
        empty = [name for name, p in (*self.named_parameters(), *self.named_buffers())
                 if p.is_meta]
        if empty:
            raise ConfigError(f"{empty[0]} has no initial values; a temporal variant makes what no "
                              'CLIP has with device="cpu"')

    @abstractmethod
    def vision_blocks(self) -> Iterable[nn.Module]:
        """The blocks of the image tower, in order."""

    def text_blocks(self) -> Iterable[nn.Module]:
        """The blocks of the text tower, in order; none: it is sharded as one (TRAIN.SHARDING)."""
        return ()

    @abstractmethod
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, image_size, image_size) normalised images -> (N, D), not normalised."""

    @abstractmethod
    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, columns) of :meth:`tokenize` -> (N, D), not normalised."""

    @property
    def prompts(self) -> nn.Parameter | None:
        """(n, width) trained vectors in the sentences of classes, after the start token, or None.

        They are the parameter ``prompt_embed``, which no original CLIP has.
        """
        return self._parameters.get("prompt_embed")

    def add_prompts(self, count: int, seed: int = 0) -> None:
        """Give class sentences ``count`` trained vectors of initial values N(0, 0.01²).

        Raises:
            ConfigError: these towers cannot have them.
        """
        raise ConfigError(f"MODEL.TEXT_PROMPT is True, but the text tower of {self.describe()} "
                          "cannot have prompts; it must be built like OpenAI's")

    def prompted_parameters(self) -> set[str]:
        """Names of the text tower's parameters that train beside the prompts, and of these."""
        return set()

    def encode_classes(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :meth:`encode_text`, for sentences of classes, which have ``prompts`` in them."""
        return self.encode_text(tokens)

    def tokenize(
        self, texts: Sequence[str], context_length: int, *, truncate: bool = False
    ) -> torch.Tensor:
        """Return int64 (N, context_length) token ids.

        Raises:
            DataError: a text is longer, and ``truncate`` is off.
        """
        return self.tokenizer.tokenize(texts, context_length, truncate=truncate)

    @property
    def tokenizer(self) -> TextTokenizer:
        """What turns texts into token ids: CLIP's own, unless the towers have another."""
        return ClipTokenizer()

    def count_columns(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how many columns of token ids (N, columns) each text needs, int64 (N,)."""
        return tokens.argmax(dim=-1) + 1

    def describe(self) -> str:
        """The sizes in words, for the log."""
        return f"{self.image_size} px, embeddings of {self.embed_dim}"

    def text_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters of the text tower."""
        return {name: p for name, p in self.named_parameters()
                if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")}

    def freeze_text(self) -> None:
        """Exclude the text tower from training."""
        for parameter in self.text_parameters().values():
            parameter.requires_grad_(False)
