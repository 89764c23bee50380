"""Processes that share one sharded model must run the same forward passes, whatever they have left.

A block's weights are gathered from all processes while it computes, so a process that has evaluated
its own videos goes on with empty ones until the others are done, at the same patching ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from openvclip.utils import distributed
from openvclip.utils.shards import is_sharded

Part = TypeVar("Part")


def find_idle_input(model: nn.Module) -> Tensor | None:
    """Return a video (1, 3, T, H, W) for a sharded model to pass the time with; else None."""
    if not any(is_sharded(p) for p in model.parameters()):
        return None
    size, device = model.model.image_size, next(model.parameters()).device
    return torch.zeros(1, 3, model.num_frames, size, size, device=device)


def iterate_in_step(
    batches: Iterable[dict], split: Callable[[dict], list[Part]], *, together: bool
) -> Iterator[tuple[dict | None, list[Part], int]]:
    """Yield each batch, its parts, and how many more parts another process has at this moment.

    Args:
        batches: those of this process.
        split: cuts a batch into the parts that go through the model at once.
        together: whether processes wait for each other. Those that have none left then get None
            and no parts until all have none.
    """
    remaining = iter(batches)
    while True:
        batch = next(remaining, None)
        parts = [] if batch is None else split(batch)
        most, anyone = len(parts), batch is not None
        if together:
            counts, alive = zip(*distributed.all_gather_object((most, anyone)), strict=True)
            most, anyone = max(counts), any(alive)
        if not anyone:
            return
        yield batch, parts, most - len(parts)
