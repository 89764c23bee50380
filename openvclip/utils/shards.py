"""Tensors of which each process holds a part (torch's DTensor), and whole ones.

Functions that gather must be called by all processes, with the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Any) -> bool:
    """Whether this process holds only its part of the tensor."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part, which shares its memory; of a whole tensor, the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return the part of ``whole`` that this process holds of ``parameter``, on its device."""
    whole = whole.to(parameter.device)
    return local(_distribute(whole, parameter))


def shard_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return ``whole`` cut as ``parameter`` is, or unchanged if that is whole or already cut."""
    if is_sharded(whole) or not is_sharded(parameter) or whole.shape != parameter.shape:
        return whole
    return _distribute(whole.to(parameter.device), parameter)


def _distribute(whole: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return whole
    # Every process has all of it, so that nothing needs to be sent.
    return distribute_tensor(whole.detach(), parameter.device_mesh, parameter.placements,
                             src_data_rank=None)


def gather(content: Any, *, keep: bool = True) -> Any:
    """Return ``content`` with whole tensors on the CPU instead of sharded ones.

    Args:
        content: tensors, and mappings, lists and tuples that contain some.
        keep: whether this process needs them; else they are dropped one by one, to save memory.
    """
    if isinstance(content, DTensor):
        whole = content.full_tensor().detach()
        return whole.cpu() if keep else None
    if isinstance(content, Mapping):
        return {name: gather(value, keep=keep) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)([gather(value, keep=keep) for value in content])
    return content
