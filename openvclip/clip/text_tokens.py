"""The tokenizer of a text tower, as its config names it: CLIP's own, or one of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from openvclip.clip.open_clip_names import hub_without_retries
from openvclip.clip.tokenizer import count_tokens, tokenize
from openvclip.utils.errors import CheckpointError, DataError, first_line
from openvclip.utils.torchvision_ops import import_torchvision


class TextTokenizer(Protocol):
    """Turns texts into what a text tower reads."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text of any length, with those that are added."""

    def tokenize(
        self, texts: Sequence[str], context_length: int, truncate: bool = False
    ) -> torch.Tensor:
        """Return int64 (N, context_length).

        Raises:
            DataError: a text is longer, and ``truncate`` is off.
        """


class ClipTokenizer:
    """CLIP's byte-pair encoder, see :mod:`openvclip.clip.tokenizer`."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return count_tokens(text)

    def tokenize(
        self, texts: Sequence[str], context_length: int, truncate: bool = False
    ) -> torch.Tensor:
        """Return int64 (N, context_length): start, text, end, then zeros."""
        return tokenize(texts, context_length, truncate=truncate)


class HubTokenizer:
    """One of open_clip's tokenizers of Hugging Face: SigLIP's, those of multilingual towers.

    Args:
        own: open_clip's ``HFTokenizer``, or what works as it does.
    """

    def __init__(self, own: Any) -> None:
        self.own = own
        # open_clip adds a start, an end and a class token by itself in this mode.
        self.added = 3 if getattr(own, "tokenizer_mode", "") == "clips" else 0

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        ids = self.own.tokenizer([self.own.clean_fn(text)], add_special_tokens=not self.added)
        return len(ids["input_ids"][0]) + self.added

    def tokenize(
        self, texts: Sequence[str], context_length: int, truncate: bool = False
    ) -> torch.Tensor:
        """Return int64 (N, context_length), padded as the tower was trained with."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return torch.zeros(0, context_length, dtype=torch.int64)
        if not truncate:
            for text in texts:
                count = self.count(text)
                if count > context_length:
                    shown = text if len(text) <= 80 else text[:77] + "..."
                    raise DataError(
                        f"text of {count} tokens does not fit into the context of "
                        f"{context_length}: {shown!r}; shorten the class name"
                    )
        return self.own(texts, context_length).long()


def load_tokenizer(text: Mapping[str, Any], folder: str | Path | None = None) -> TextTokenizer:
    """Load the tokenizer that a model's ``text_cfg`` names, as open_clip does.

    Args:
        text: the section ``text_cfg`` of the model's config.
        folder: where its files are, for a model saved in a folder; None: on the hub, or kept from
            an earlier download.

    Raises:
        CheckpointError: its files are not on this machine, and cannot be downloaded.
    """
    name = text.get("hf_tokenizer_name")
    if not name:
        return ClipTokenizer()
    import_torchvision()
    try:
        from open_clip.tokenizer import HFTokenizer

        with hub_without_retries():
            return HubTokenizer(HFTokenizer(
                str(folder or name), context_length=text.get("context_length", 77),
                tokenizer_mode=text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})))
    except Exception as error:  # any error of the network, the hub, the disk or a package
        where = f"in {folder}" if folder else f"({name} on the Hugging Face hub)"
        raise CheckpointError(
            f"the tokenizer of these towers {where} could not be loaded ({type(error).__name__}: "
            f"{first_line(error)}); without a network, download it on another machine and put "
            "its files where they are looked for"
        ) from error
