"""A list of videos as training, validation or test samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from openvclip.data.augment.clip import ClipAugment
from openvclip.data.lists.labels import VideoList
from openvclip.data.video.cache import FrameCache
from openvclip.data.video.crops import (
    BILINEAR,
    CENTRE,
    SHORTEST,
    Crop,
    fixed_crop,
    jitter_crop,
    relative_crop,
    square_crop,
)
from openvclip.data.video.keeping import DrawnCuts, FixedCuts, whole_frame
from openvclip.data.video.resample import Cut, Normalisation, PackedClips
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import Keep, read_clips
from openvclip.utils.errors import DataError

MODES = ("train", "val", "test")
# After this many unreadable videos in a row, something else is wrong.
MAX_ATTEMPTS = 10


def item_generator(
    seed: int, epoch: int, row: int, sample: int = 0, attempt: int = 0
) -> np.random.Generator:
    """Return the generator of all random draws of one sample.

    It depends only on these, so a sample is the same whichever worker or process makes it.
    """
    return np.random.default_rng((seed % 2**64, epoch, row, sample, attempt))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the resizing kernel, and so the last bit, depends on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Pixels:
    """How decoded frames become a clip.

    Attributes:
        scales: smallest and largest short side; evaluation with one crop uses the smallest.
        size: side of the crop.
        mean: subtracted from RGB in 0..1.
        std: divides the result.
        inverse: draw the inverse of the scale uniformly.
        flip: mirror half of the training clips.
        area: area range of a random resized crop; empty for scale jitter.
        aspect: aspect-ratio range of the random resized crop.
        reverse_channels: return BGR.
        mode: how a frame becomes a square: ``shortest``, ``squash`` or ``longest``.
        filter: how pixels are resized, see :mod:`openvclip.data.video.crops`.
        fill: value, 0 .. 255, of what a frame does not fill of its square.
    """

    scales: tuple[int, int] = (256, 320)
    size: int = 224
    mean: Sequence[float] = (0.45, 0.45, 0.45)
    std: Sequence[float] = (0.225, 0.225, 0.225)
    inverse: bool = False
    flip: bool = True
    area: Sequence[float] = ()
    aspect: Sequence[float] = ()
    reverse_channels: bool = False
    mode: str = SHORTEST
    filter: str = BILINEAR
    fill: int = 0

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Crop:
        """Draw a training crop for a frame."""
        if self.area:
            crop = relative_crop(
                height, width, area=self.area, aspect=self.aspect or (3 / 4, 4 / 3),
                size=self.size, rng=rng, flip=self.flip,
            )
        else:
            crop = jitter_crop(
                height, width, scales=self.scales, size=self.size, rng=rng,
                inverse=self.inverse, flip=self.flip, mode=self.mode,
            )
        return replace(crop, filter=self.filter)

    def normalisation(self) -> Normalisation:
        """Return how uint8 pixels become the model's input."""
        return Normalisation.of(self.mean, self.std, self.reverse_channels, self.fill)

    def fixed(self, height: int, width: int, crops: int) -> list[Crop]:
        """Return the crops of an evaluation frame: the centre one, or several side by side."""
        if self.mode != SHORTEST:
            if crops != 1:
                raise ValueError(f"{crops} crops of a frame that is shown whole ({self.mode})")
            chosen = [square_crop(height, width, mode=self.mode, side=self.size, size=self.size)]
        elif crops == 1:
            chosen = [fixed_crop(height, width, size=self.size, scale=self.scales[0],
                                 position=CENTRE)]
        else:
            chosen = [fixed_crop(height, width, size=self.size, scale=self.size, position=position)
                      for position in range(crops)]
        return [replace(crop, filter=self.filter) for crop in chosen]


@dataclass(frozen=True)
class RandomClips:
    """How random clips are drawn from ``seed``, in training and if validation asks for it.

    Attributes:
        fps_jitter: add uniform(0, this) to the target frame rate.
        num_sample: clips made from each training video; they show the same frames.
        augment: further augmentation of training clips.
        validation: draw validation clips as in training.
    """

    seed: int = 0
    fps_jitter: float = 0.0
    num_sample: int = 1
    augment: ClipAugment | None = None
    validation: bool = False


class VideoDataset(Dataset):
    """Clips of the videos in a list, in one of three modes.

    ``train`` draws a random clip and crop, ``val`` takes view 0 of 1 and the centre crop, ``test``
    takes ``views`` x ``crops`` clips of a video that is decoded once for all of them (clip number =
    view x crops + crop).

    An item is requested by its row, or by (epoch, row), and is a dict of ``video`` float32
    (clips, 3, T, size, size), ``label``, ``index`` (the row that the clips come from), ``clip``
    (numbers of the clips) and ``bad``: a list of (row, reason). A training video that cannot be
    read is replaced by another row, drawn from the seed; in the other modes ``video`` is then None.
    With ``finish`` False, ``video`` is a :class:`PackedClips`, to be finished where it arrives.

    Args:
        num_classes: length of the label vectors if videos have several labels.
        sampling: which frames a clip takes.
        pixels: how frames become clips.
        views: temporal views of a test video.
        crops: spatial crops of each test view, 1 to 3.
        draws: how random clips are drawn.
        multi_thread: let FFmpeg decode one video with several threads.
        finish: resize and normalise here. Random erasing needs finished clips, so with it
            this is done in any case.
        cache: stores what evaluation reads of each video, or None.
    """

    def __init__(
        self, mode: str, videos: VideoList, *, num_classes: int, sampling: Sampling, pixels: Pixels,
        views: int = 1, crops: int = 1, draws: RandomClips | None = None,
        multi_thread: bool = False, finish: bool = True, cache: FrameCache | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {MODES}")
        self.mode, self.videos, self.num_classes = mode, videos, num_classes
        self.sampling, self.pixels = sampling, pixels
        self.normalisation = pixels.normalisation()
        self.views, self.crops = (views, crops) if mode == "test" else (1, 1)
        draws = draws or RandomClips()
        self.seed, self.fps_jitter = draws.seed, draws.fps_jitter
        self.num_sample = draws.num_sample if mode == "train" else 1
        self.augment = draws.augment if mode == "train" else None
        self.random = mode == "train" or (mode == "val" and draws.validation)
        self.multi_thread = multi_thread
        self.cache = None if self.random else cache
        erasing = self.augment is not None and self.augment.erasing is not None
        self.finish = finish or erasing
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def clips_per_video(self) -> int:
        """Number of clips in an item."""
        return self.num_sample if self.mode == "train" else self.views * self.crops

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch for items that are requested by row alone."""
        self.epoch = epoch

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Return the paths of ``rows``."""
        return [self.videos.paths[row] for row in rows]

    def frames(self, row: int) -> np.ndarray:
        """Return the frames of the first view, large ones reduced: uint8 RGB (T, H, W, 3)."""
        frames, (order,) = self._read(row, [ClipRequest(0, self.views)], whole_frame)
        return np.stack([frames[place] for place in order])

    def label_tensor(self) -> torch.Tensor:
        """Return all labels: int64 (rows,), or float (rows, classes) with several per video."""
        if isinstance(self.videos.labels, np.ndarray):
            return torch.from_numpy(self.videos.labels.copy())
        return torch.stack([self._label(row) for row in range(len(self))])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, row = key if isinstance(key, tuple) else (self.epoch, key)
        with one_thread():
            if self.mode == "train":
                return self._train_item(epoch, row)
            try:
                video = self._random_clips(epoch, row) if self.random else self._fixed_clips(row)
            except DataError as error:
                return self._item(None, row, [(row, str(error))])
            return self._item(video, row, [])

    def _train_item(self, epoch: int, row: int) -> dict[str, Any]:
        bad: list[tuple[int, str]] = []
        chosen = row
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._item(self._random_clips(epoch, chosen), chosen, bad)
            except DataError as error:
                bad.append((chosen, str(error)))
            rng = item_generator(self.seed, epoch, row, attempt=attempt)
            chosen = int(rng.integers(0, len(self)))
        raise DataError(
            f"{MAX_ATTEMPTS} videos of the list {self.videos.source} in a row cannot be read; "
            f"the last: {bad[-1][1]}"
        )

    def _item(
        self, video: torch.Tensor | PackedClips | None, row: int, bad: list[tuple[int, str]]
    ) -> dict[str, Any]:
        return {"video": video, "label": self._label(row), "index": row,
                "clip": torch.arange(self.clips_per_video), "bad": bad}

    def _label(self, row: int) -> torch.Tensor:
        labels = self.videos.labels[row]
        if not isinstance(labels, tuple):
            return torch.tensor(int(labels))
        vector = torch.zeros(self.num_classes)
        vector[list(labels)] = 1.0
        return vector

    def _random_clips(self, epoch: int, row: int) -> torch.Tensor | PackedClips:
        """Return ``num_sample`` random clips of the same frames."""
        generators = [item_generator(self.seed, epoch, row, s) for s in range(self.num_sample)]
        jitter = generators[0].uniform(0.0, self.fps_jitter) if self.fps_jitter else 0.0
        request = ClipRequest(draw=generators[0].uniform(), fps_jitter=jitter)
        drawn = DrawnCuts(self.pixels.draw, self.augment, generators)
        kept, (order,) = self._read(row, [request], drawn)
        clips = self._pack(drawn.cuts(kept, order))
        if self.augment is None or isinstance(clips, PackedClips):
            return clips
        return torch.stack([self.augment.erase(clip, rng)
                            for clip, rng in zip(clips, generators, strict=True)])

    def _fixed_clips(self, row: int) -> torch.Tensor | PackedClips:
        """Return all views and crops of a video."""
        stored = self.cache.get(self.videos.paths[row]) if self.cache is not None else None
        if stored is not None:
            orders = stored["orders"].tolist()
            return self._pack([Cut(crop, self._clips_of(orders, c), stored[f"crop{c}"])
                               for c, crop in enumerate(self._crops(*stored["size"].tolist()))])
        fixed = FixedCuts(self._crops)
        requests = [ClipRequest(v, self.views) for v in range(self.views)]
        kept, orders = self._read(row, requests, fixed)
        cuts = fixed.cuts(kept, [self._clips_of(orders, c) for c in range(self.crops)])
        if self.cache is not None:
            arrays = {f"crop{c}": part.pixels for c, part in enumerate(cuts)}
            self.cache.put(self.videos.paths[row], {
                "size": np.array(fixed.size), "orders": np.array(orders), **arrays})
        return self._pack(cuts)

    def _crops(self, height: int, width: int) -> list[Crop]:
        return self.pixels.fixed(height, width, self.crops)

    def _clips_of(
        self, orders: Sequence[Sequence[int]], crop: int
    ) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return the clips that show a crop; clip number = view x crops + crop."""
        return tuple((v * self.crops + crop, tuple(order)) for v, order in enumerate(orders))

    def _pack(self, cuts: Sequence[Cut]) -> torch.Tensor | PackedClips:
        packed = PackedClips(cuts, num_frames=self.sampling.num_frames, size=self.pixels.size,
                             normalisation=self.normalisation)
        return packed.finish() if self.finish else packed

    def _read(
        self, row: int, requests: Sequence[ClipRequest], keep: Keep
    ) -> tuple[list[Any], list[tuple[int, ...]]]:
        clips = read_clips(self.videos.paths[row], requests, self.sampling,
                           multi_thread=self.multi_thread, keep=keep)
        return list(clips.frames), clips.indices
