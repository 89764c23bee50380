"""Clips on their way from the worker that decoded them to the device that classifies them.

A clip travels as the uint8 pixels that its crop reads, which are a third of the bytes of the
finished float clip or less, and is resized and normalised where it arrives: on a GPU in a few
kernels, on the CPU frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from openvclip.data.video.crops import Crop
from openvclip.data.video.resample import Normalisation, cut, resample, resample_on


@dataclass(frozen=True)
class Cut:
    """One crop of a video's frames, and the clips that show them.

    Attributes:
        crop: what was cut out.
        clips: for each clip its number and the T frames (indices in ``pixels``) that it shows.
        pixels: uint8 (U, h, w, 3).
    """

    crop: Crop
    clips: tuple[tuple[int, tuple[int, ...]], ...]
    pixels: np.ndarray

    @classmethod
    def of(
        cls, frames: np.ndarray, crop: Crop, clips: Sequence[tuple[int, Sequence[int]]]
    ) -> Cut:
        """Cut ``crop`` out of uint8 frames (U, H, W, 3)."""
        return cls(crop, tuple((number, tuple(order)) for number, order in clips),
                   cut(frames, crop))

    def slots(self) -> list[list[tuple[int, int]]]:
        """For each of the U frames the (clip, position) pairs that show it."""
        slots: list[list[tuple[int, int]]] = [[] for _ in range(len(self.pixels))]
        for number, order in self.clips:
            for position, frame in enumerate(order):
                slots[frame].append((number, position))
        return slots


class PackedClips:
    """Clips that are still to be finished.

    Args:
        cuts: the crops; their clips' numbers count from 0 over all of them.
        num_frames: frames of a clip (T).
        size: side of the finished clip.
        normalisation: how pixels are normalised.
    """

    def __init__(
        self, cuts: Sequence[Cut], *, num_frames: int, size: int, normalisation: Normalisation
    ) -> None:
        self.cuts = tuple(cuts)
        self.num_frames, self.size, self.normalisation = num_frames, size, normalisation

    def __len__(self) -> int:
        return sum(len(part.clips) for part in self.cuts)

    def finish(self) -> torch.Tensor:
        """Resize and normalise on the CPU: float32 (clips, 3, T, size, size)."""
        out = torch.empty(len(self), 3, self.num_frames, self.size, self.size)
        for part in self.cuts:
            resample(part.pixels, part.crop, self.normalisation, part.slots(), out.numpy())
        return out


@dataclass(frozen=True)
class _Place:
    """Where a cut is in a batch's buffer, and where its clips go."""

    start: int
    shape: tuple[int, int, int, int]
    crop: Crop
    clips: tuple[tuple[int, tuple[int, ...]], ...]

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        count = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        return buffer[self.start:self.start + count].view(self.shape)


class PackedBatch:
    """The clips of several videos in one buffer: one block of shared memory, one copy to a GPU.

    Args:
        items: at least one; their clips are stored in sequence.
    """

    def __init__(self, items: Sequence[PackedClips]) -> None:
        first = items[0]
        self.num_frames, self.size = first.num_frames, first.size
        self.normalisation = first.normalisation
        self.buffer = torch.empty(sum(c.pixels.size for x in items for c in x.cuts),
                                  dtype=torch.uint8)
        self.places: list[_Place] = []
        start = number = 0
        for item in items:
            for part in item.cuts:
                clips = tuple((number + clip, order) for clip, order in part.clips)
                place = _Place(start, part.pixels.shape, part.crop, clips)
                place.of(self.buffer).numpy()[...] = part.pixels
                self.places.append(place)
                start += part.pixels.size
            number += len(item)
        self.count = number

    def __len__(self) -> int:
        return self.count

    def pin_memory(self) -> PackedBatch:
        """Page-lock the buffer; the loader's pinning thread calls this."""
        self.buffer = self.buffer.pin_memory()
        return self

    def finish(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Resize and normalise on ``device``: float32 (clips, 3, T, size, size)."""
        if torch.device(device).type == "cpu":
            cuts = [Cut(p.crop, p.clips, p.of(self.buffer).numpy()) for p in self.places]
            return PackedClips(cuts, num_frames=self.num_frames, size=self.size,
                               normalisation=self.normalisation).finish()
        out = torch.empty(self.count, 3, self.num_frames, self.size, self.size, device=device)
        buffer = self.buffer.to(device, non_blocking=True)
        for place in self.places:
            planes = resample_on(place.of(buffer), place.crop, self.normalisation)
            for number, order in place.clips:
                out[number] = planes[:, list(order)]
        return out


def finish_video(video: torch.Tensor | PackedBatch, device: torch.device | str) -> torch.Tensor:
    """Bring a batch's ``video`` to ``device``, resized and normalised."""
    if isinstance(video, PackedBatch):
        return video.finish(device)
    return video.to(device, non_blocking=True)
