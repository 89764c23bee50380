"""Encoding text with open_clip's towers, without the positions that cannot reach a feature."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

AT_END = ("argmax", "eos")  # kinds of pooling that take the token at which a text ends


def find_ends(tokens: torch.Tensor, kind: str, eos: int | None) -> torch.Tensor:
    """Return the position whose feature is taken of each text, int64 (N,)."""
    marked = tokens if kind == "argmax" else torch.eq(tokens, eos or 0).int()
    return marked.argmax(dim=-1)


def text_tower(model: nn.Module) -> Any:
    """Return the module that has the text tower's parts: the model itself or its ``text``."""
    return getattr(model, "text", model)


def is_causal(model: nn.Module) -> bool:
    """Whether positions after a text's end reach no feature, so that they can be left out."""
    tower = text_tower(model)
    kind = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (getattr(tower, "attn_mask", None) is not None and kind in AT_END
            and getattr(tower, "cls_emb", None) is None)


def count_columns(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return how many columns of token ids (N, columns) each text needs, int64 (N,)."""
    if not is_causal(model):
        return tokens.new_full((len(tokens),), tokens.shape[1])
    return _find_ends(model, tokens) + 1


def _find_ends(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    tower = text_tower(model)
    kind = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
    return find_ends(tokens, kind, getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)))


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Encode token ids as open_clip's model does.

    A causal tower is given the columns up to the batch's last end of a text only, which is exact.

    Args:
        model: open_clip's ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.
        tokens: int64 (N, columns); all of the context length unless the tower is causal.

    Returns:
        (N, D), not normalised.
    """
    if not is_causal(model):
        return model.encode_text(tokens, normalize=False)
    tower = text_tower(model)
    ends = _find_ends(model, tokens)
    length = int(ends.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length]).to(dtype)  # (N, length, W)
    x = x + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)[torch.arange(len(x), device=x.device), ends]  # (N, W)
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
