"""Processes that share one sharded model must run the same forward passes, whatever they have left.

A block's weights are gathered from all processes while it computes, so a process that has evaluated
its own videos goes on with empty ones until the others are done, at the same patching ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from openvclip.models.video_clip import VideoCLIP
from openvclip.utils import distributed
from openvclip.utils.shards import is_sharded

Part = TypeVar("Part")


def find_idle_input(model: VideoCLIP) -> Tensor | None:
    """Return a video (1, 3, T, H, W) for a sharded model to pass the time with; else None."""
    if not any(is_sharded(p) for p in model.parameters()):
        return None
    size, device = model.model.image_size, next(model.parameters()).device
    return torch.zeros(1, 3, model.num_frames, size, size, device=device)


def iterate_in_step(
    batches: Iterable[dict], split: Callable[[dict], list[Part]], idle: Tensor | None
) -> Iterator[tuple[dict | None, list[Part], list[Tensor]]]:
    """Yield each batch, its parts, and what to compute in addition to keep in step.

    Args:
        batches: those of this process.
        split: cuts a batch into the parts that go through the model at once.
        idle: of :func:`find_idle_input`; None: no process waits for another. A process that has no
            batches left yields None, and no parts, until none has any.
    """
    remaining = iter(batches)
    while True:
        batch = next(remaining, None)
        parts = [] if batch is None else split(batch)
        idling: list[Tensor] = []
        anyone = batch is not None
        if idle is not None:
            counts, alive = zip(*distributed.all_gather_object((len(parts), anyone)), strict=True)
            idling = [idle] * (max(counts) - len(parts))
            anyone = any(alive)
        if not anyone:
            return
        yield batch, parts, idling
