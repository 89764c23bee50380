"""Joining the items of a batch, and passing the batch on from the worker that read it."""

from __future__ import annotations

from typing import Any

import torch

from openvclip.data.video.resample import PackedBatch, PackedClips
from openvclip.utils.errors import DataError

_NOT_HANDED_OVER = "not_handed_over"


def collate(
    items: list[dict[str, Any]], *, empty: tuple[int, ...], group: int = 0
) -> dict[str, Any]:
    """Join the items of a :class:`VideoDataset`, clips of one video adjacent.

    Items without a video leave only their entry in ``bad``.

    Args:
        items: at least one.
        empty: shape (3, T, size, size) of a clip, for a batch in which no video could be read.
        group: rows of an evaluation group, see :class:`EvalSampler`; 0: the batch has none.

    Returns:
        ``video`` float32 (M, 3, T, size, size) or a :class:`PackedBatch` of it, ``label`` (M,) or
        (M, C), ``index`` (M,) and ``clip`` (M,) int64, ``bad`` list of (row, reason). With
        groups also ``groups`` (G, 2) int64: first row and end of each, including bad rows.
    """
    good = [item for item in items if item["video"] is not None]
    counts = torch.tensor([len(item["clip"]) for item in good], dtype=torch.int64)
    labels = torch.stack([item["label"] for item in good or items])
    index = torch.tensor([item["index"] for item in good], dtype=torch.int64)
    batch = {
        "video": _join([item["video"] for item in good]) if good else torch.zeros(0, *empty),
        "label": labels.repeat_interleave(counts, dim=0) if good else labels[:0],
        "index": index.repeat_interleave(counts),
        "clip": torch.cat([item["clip"] for item in good]) if good else index,
        "bad": [entry for item in items for entry in item["bad"]],
    }
    if group:
        rows = [item["index"] for item in items]
        firsts = sorted({row - row % group for row in rows})
        ends = [1 + max(row for row in rows if row < first + group) for first in firsts]
        batch["groups"] = torch.tensor([firsts, ends], dtype=torch.int64).T.contiguous()
    return batch


def _join(videos: list[torch.Tensor | PackedClips]) -> torch.Tensor | PackedBatch:
    packed = [video for video in videos if isinstance(video, PackedClips)]
    if packed:  # then all of them are
        return PackedBatch(packed)
    return torch.cat([video for video in videos if isinstance(video, torch.Tensor)])


def collate_to_hand_over(
    items: list[dict[str, Any]], *, empty: tuple[int, ...], group: int = 0
) -> dict[str, Any]:
    """Join as :func:`collate`, in a worker: the tensors are in shared memory afterwards.

    The loader's queue would move them there, but in a worker thread in which an error loses the
    batch and leaves the parent waiting forever. Here it is caught, and :func:`receive` raises it
    in the parent.
    """
    batch = collate(items, empty=empty, group=group)
    try:
        for value in batch.values():
            tensor = value.buffer if isinstance(value, PackedBatch) else value
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        return {_NOT_HANDED_OVER: str(error).splitlines()[0]}
    return batch


def receive(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch that :func:`collate` made, or that a worker passed on.

    Raises:
        DataError: there was not enough shared memory for it.
    """
    if _NOT_HANDED_OVER in batch:
        raise DataError(
            f"a decoding process could not hand over a batch ({batch[_NOT_HANDED_OVER]}): it does "
            "not fit into shared memory, or is larger than a file may be. Raise the limit "
            "(ulimit -f) or the size of /dev/shm, lower the batch size, or set "
            "DATA_LOADER.NUM_WORKERS 0"
        )
    return batch
