"""Clips as cut pixels: cutting crops out of uint8 frames, and carrying and finishing the cuts.

Bilinear resizing without antialiasing reads two source rows and two source columns for each pixel
of the result. So a crop needs no resize of whole frames: ``cut`` keeps the uint8 rows and columns
that it reads, the least that still gives the exact result. They are a third of the bytes of the
finished float clip or less, so that a clip travels from the worker that decoded it as a ``Cut``.
Where it arrives, ``resample`` makes the normalised crop, on the CPU frame by frame (a frame's
intermediate images stay in the cache) or on a GPU all together. The results equal those of
``torch.nn.functional.interpolate`` with ``align_corners=False`` on whole float frames, up to
rounding in the last bit.

Published code normalises whole float frames, then resizes and crops. Normalising is affine and
each pixel of the resize is a weighted mean, so the two commute. The results agree to 1e-5.

The filters of open_clip's own preprocessing are Pillow's, with antialiasing, and round to uint8:
``cut`` then resizes with Pillow, and what it keeps is the crop itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from openvclip.data.video.crops import ANTIALIASED, BICUBIC, BILINEAR, Crop

PILLOW = {ANTIALIASED: Image.Resampling.BILINEAR, BICUBIC: Image.Resampling.BICUBIC}

# Numbers of clips, and the frames that each shows.
ClipOrders = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Taps:
    """The source pixels that one axis of a crop reads.

    Attributes:
        source: source positions that are read at all, ascending.
        low: for each pixel, the index in ``source`` of its lower neighbour.
        high: likewise of its upper neighbour.
        weight: float32 share of the upper neighbour; None if pixels are taken unchanged.
    """

    source: np.ndarray
    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray | None

    @property
    def is_range(self) -> bool:
        """Whether ``source`` has no gaps, so that a slice can take it."""
        return int(self.source[-1]) - int(self.source[0]) + 1 == len(self.source)


@lru_cache(maxsize=1024)
def compute_taps(length: int, resized: int, first: int, count: int, flip: bool = False) -> Taps:
    """Return the taps of pixels ``first`` .. ``first + count - 1`` of an axis.

    Args:
        length: source pixels of the axis.
        resized: pixels that they are resized to.
        first: first pixel of the crop in the resized axis.
        count: pixels of the crop.
        flip: count the crop's pixels from its other end.
    """
    place = np.arange(first, first + count)
    if flip:
        place = place[::-1]
    if length == resized:
        low = high = place
        weight = None
    else:
        # The scale in fp32 and the rest rounded once is what torch's kernel computes with FMA.
        scale = np.float64(np.float32(length) / np.float32(resized))
        real = np.maximum((place + 0.5) * scale - 0.5, 0.0).astype(np.float32)
        low = np.minimum(real.astype(np.int64), length - 1)
        high = np.minimum(low + 1, length - 1)
        weight = real - low.astype(np.float32)
    source = np.unique(np.concatenate([low, high]))
    return Taps(source, np.searchsorted(source, low), np.searchsorted(source, high), weight)


def crop_taps(crop: Crop) -> tuple[Taps, Taps]:
    """Return the taps of the rows and columns that show a crop's region, within the region.

    Where :func:`cut` has resized already, they take its pixels unchanged.
    """
    _, _, height, width = crop.region
    rows, columns = (part.stop - part.start for part in crop.inside())
    if crop.filter != BILINEAR:
        return compute_taps(rows, rows, 0, rows), compute_taps(columns, columns, 0, columns,
                                                               crop.flip)
    return (
        compute_taps(height, crop.resized[0], max(crop.y, 0), rows),
        compute_taps(width, crop.resized[1], max(crop.x, 0), columns, crop.flip),
    )


def cut(frames: np.ndarray, crop: Crop) -> np.ndarray:
    """Keep what a crop reads of frames: uint8 (U, H, W, 3) to (U, h, w, 3), a view if it can be.

    With one of Pillow's filters that is the resized crop, not yet mirrored.
    """
    top, left, height, width = crop.region
    part = frames[:, top:top + height, left:left + width]
    if crop.filter != BILINEAR:
        return np.stack([_resize(frame, crop) for frame in part])
    rows, columns = crop_taps(crop)
    for axis, taps in ((1, rows), (2, columns)):
        if taps.is_range:
            start = int(taps.source[0])
            part = part[(slice(None),) * axis + (slice(start, start + len(taps.source)),)]
        else:
            part = part.take(taps.source, axis=axis)
    return part


def _resize(image: np.ndarray, crop: Crop) -> np.ndarray:
    """Return the part of a crop that shows its region, uint8 (height, width, 3) to (h, w, 3)."""
    (height, width), (new_h, new_w) = image.shape[:2], crop.resized
    top, left = max(crop.y, 0), max(crop.x, 0)
    bottom, right = min(crop.y + crop.size, new_h), min(crop.x + crop.size, new_w)
    if (height, width) == crop.resized:
        return image[top:bottom, left:right].copy()
    box = (left * width / new_w, top * height / new_h,
           right * width / new_w, bottom * height / new_h)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((right - left, bottom - top), PILLOW[crop.filter], box=box))


@dataclass(frozen=True)
class Normalisation:
    """Pixel values 0 .. 255 to the model's: ``value * factor + shift``, per channel of RGB.

    Attributes:
        factor: of red, green and blue.
        shift: likewise.
        reverse_channels: return BGR.
        fill: value, 0 .. 255, of the pixels around a frame that does not fill its square.
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]
    reverse_channels: bool = False
    fill: int = 0

    @classmethod
    def of(
        cls, mean: Sequence[float], std: Sequence[float], reverse_channels: bool = False,
        fill: int = 0,
    ) -> Normalisation:
        """Subtract ``mean`` from RGB in 0..1 and divide by ``std``; return BGR if asked."""
        return cls(
            tuple(1.0 / (255.0 * value) for value in std),
            tuple(-m / s for m, s in zip(mean, std, strict=True)),
            reverse_channels,
            fill,
        )

    def border(self) -> tuple[float, ...]:
        """Return the normalised ``fill``, by channel of the result."""
        values = tuple(self.fill * f + s for f, s in zip(self.factor, self.shift, strict=True))
        return values[::-1] if self.reverse_channels else values


def resample(
    parts: np.ndarray,
    crop: Crop,
    normalisation: Normalisation,
    slots: Sequence[Sequence[tuple[int, int]]],
    out: np.ndarray,
) -> None:
    """Make crops from what ``cut`` kept, frame by frame, and put them in place.

    Args:
        parts: uint8 (U, h, w, 3).
        crop: the crop that they were cut by.
        normalisation: how pixels are normalised.
        slots: for each of the U frames the (clip, position) pairs that show it.
        out: float32 (clips, 3, T, size, size), written.
    """
    rows, columns = crop_taps(crop)
    factor = torch.tensor(normalisation.factor)[:, None, None]
    shift = torch.tensor(normalisation.shift)[:, None, None]
    high_share = None if rows.weight is None else rows.weight[:, None, None]
    width = parts.shape[2]
    across, along = crop.inside()
    new_h, new_w = len(rows.low), len(columns.low)
    bordered = (new_h, new_w) != (crop.size, crop.size)
    border = np.array(normalisation.border(), np.float32)[:, None, None]
    low_rows, high_rows = np.empty((2, new_h, width, 3), np.float32)
    planes = np.empty((3, new_h, width), np.float32)
    left, right = np.empty((2, 3, new_h, new_w), np.float32)
    for frame, places in zip(parts, slots, strict=True):
        low_rows[...] = frame.take(rows.low, axis=0)
        if high_share is not None:
            high_rows[...] = frame.take(rows.high, axis=0)
            high_rows -= low_rows
            high_rows *= high_share
            low_rows += high_rows
        for channel in range(3):
            planes[channel] = low_rows[:, :, channel]
        # mode "clip" writes into ``out`` without a buffer; no index is out of range.
        np.take(planes, columns.low, axis=2, out=left, mode="clip")
        if columns.weight is not None:
            np.take(planes, columns.high, axis=2, out=right, mode="clip")
            right -= left
            right *= columns.weight
            left += right
        # torch multiplies and adds with one rounding, numpy would with two.
        torch.addcmul(shift, torch.from_numpy(left), factor, out=torch.from_numpy(left))
        result = left[::-1] if normalisation.reverse_channels else left
        for clip, position in places:
            if bordered:
                out[clip, :, position] = border
            out[clip, :, position, across, along] = result


def resample_on(parts: torch.Tensor, crop: Crop, normalisation: Normalisation) -> torch.Tensor:
    """As :func:`resample`, on the device of ``parts``, to float32 (3, U, size, size)."""
    rows, columns = crop_taps(crop)
    device = parts.device

    def on_device(array: np.ndarray, *shape: int) -> torch.Tensor:
        # A copy: flipped axes have negative strides.
        return torch.from_numpy(array.copy()).to(device, non_blocking=True).view(*shape)

    planes = parts.permute(3, 0, 1, 2).float()
    for dim, taps, shape in ((2, rows, (-1, 1)), (3, columns, (-1,))):
        low = planes.index_select(dim, on_device(taps.low, -1))
        if taps.weight is not None:
            high = planes.index_select(dim, on_device(taps.high, -1))
            low = torch.lerp(low, high, on_device(taps.weight, *shape))
        planes = low
    factor = torch.tensor(normalisation.factor, device=device).view(3, 1, 1, 1)
    shift = torch.tensor(normalisation.shift, device=device).view(3, 1, 1, 1)
    result = planes * factor + shift
    if normalisation.reverse_channels:
        result = result.flip(0)
    if result.shape[2:] == (crop.size, crop.size):
        return result
    border = torch.tensor(normalisation.border(), device=device).view(3, 1, 1, 1)
    whole = border.repeat(1, result.shape[1], crop.size, crop.size)
    across, along = crop.inside()
    whole[:, :, across, along] = result
    return whole


@dataclass(frozen=True)
class Cut:
    """One crop of a video's frames, and the clips that show them.

    Attributes:
        crop: what was cut out.
        clips: for each clip its number and the T frames (indices in ``pixels``) that it shows.
        pixels: uint8 (U, h, w, 3).
    """

    crop: Crop
    clips: ClipOrders
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


class PackedBatch:
    """The clips of several videos in one buffer: one block of shared memory, one copy to a GPU.

    Args:
        items: at least one; their clips are stored in sequence.
    """

    def __init__(self, items: Sequence[PackedClips]) -> None:
        self.num_frames, self.size = items[0].num_frames, items[0].size
        self.normalisation = items[0].normalisation
        parts = [part for item in items for part in item.cuts]
        self.buffer = torch.empty(sum(part.pixels.size for part in parts), dtype=torch.uint8)
        np.concatenate([part.pixels.reshape(-1) for part in parts], out=self.buffer.numpy())
        self._places: list[tuple[Crop, ClipOrders, tuple[int, ...]]] = []
        self._count = 0
        for item in items:
            for part in item.cuts:
                clips = tuple((self._count + clip, order) for clip, order in part.clips)
                self._places.append((part.crop, clips, part.pixels.shape))
            self._count += len(item)

    def __len__(self) -> int:
        return self._count

    def pin_memory(self) -> PackedBatch:
        """Page-lock the buffer; the loader's pinning thread calls this."""
        self.buffer = self.buffer.pin_memory()
        return self

    def split(self, buffer: torch.Tensor) -> list[tuple[Crop, ClipOrders, torch.Tensor]]:
        """Return each cut's crop, clips and pixels, uint8 (U, h, w, 3), in a copy of the buffer."""
        parts = buffer.split([math.prod(shape) for _, _, shape in self._places])
        return [(crop, clips, part.view(shape))
                for (crop, clips, shape), part in zip(self._places, parts, strict=True)]

    def finish(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Resize and normalise on ``device``: float32 (clips, 3, T, size, size)."""
        parts = self.split(self.buffer.to(device, non_blocking=True))
        if torch.device(device).type == "cpu":
            cuts = [Cut(crop, clips, part.numpy()) for crop, clips, part in parts]
            return PackedClips(cuts, num_frames=self.num_frames, size=self.size,
                               normalisation=self.normalisation).finish()
        out = torch.empty(len(self), 3, self.num_frames, self.size, self.size, device=device)
        for crop, clips, part in parts:
            planes = resample_on(part, crop, self.normalisation)
            for number, order in clips:
                out[number] = planes[:, list(order)]
        return out


def finish_video(video: torch.Tensor | PackedBatch, device: torch.device | str) -> torch.Tensor:
    """Bring a batch's ``video`` to ``device``, resized and normalised."""
    if isinstance(video, PackedBatch):
        return video.finish(device)
    return video.to(device, non_blocking=True)
