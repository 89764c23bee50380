"""A list of videos as training, validation or test samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from openvclip.data.augment import ClipAugment
from openvclip.data.labels import VideoList
from openvclip.data.sampling import ClipRequest, Sampling
from openvclip.data.transforms import (
    CENTRE,
    Crop,
    apply_crops,
    fixed_crop,
    jitter_crop,
    normalise,
    relative_crop,
)
from openvclip.data.video_io import read_clips
from openvclip.utils.errors import DataError

MODES = ("train", "val", "test")
# After so many unreadable videos in a row something else is wrong.
MAX_ATTEMPTS = 10


def item_generator(
    seed: int, epoch: int, row: int, sample: int = 0, attempt: int = 0
) -> np.random.Generator:
    """Return the generator of all random draws of one sample.

    It depends on nothing else, so that a sample is the same whichever worker or process makes it.
    """
    return np.random.default_rng((seed % 2**64, epoch, row, sample, attempt))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: which kernel resizes, and so the last bit, depends on how many."""
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
        scales: least and greatest short side; evaluation with one crop takes the least.
        size: side of the crop.
        mean: subtracted from RGB in 0..1.
        std: what that is divided by.
        inverse: draw the inverse of the scale uniformly.
        flip: mirror half of the training clips.
        area: area range of a random resized crop; empty for scale jitter.
        aspect: aspect-ratio range of the random resized crop.
        reverse_channels: give BGR.
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

    def draw(self, height: int, width: int, draws: np.random.Generator) -> Crop:
        """Draw a training crop of a frame."""
        if self.area:
            return relative_crop(
                height, width, area=self.area, aspect=self.aspect or (3 / 4, 4 / 3),
                size=self.size, draws=draws, flip=self.flip,
            )
        return jitter_crop(
            height, width, scales=self.scales, size=self.size, draws=draws,
            inverse=self.inverse, flip=self.flip,
        )

    def normalise(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalise (3, T, H, W) with values 0 to 255."""
        return normalise(clip, self.mean, self.std, reverse_channels=self.reverse_channels)


class VideoDataset(Dataset):
    """Clips of the videos of a list, in one of three modes.

    ``train`` draws a random clip and crop, ``val`` takes view 0 of 1 and the centre crop, ``test``
    takes ``views`` x ``crops`` clips of a video that is decoded once for all of them (clip number =
    view x crops + crop).

    An item is asked for by its row, or by (epoch, row), and is a dict of ``video`` float32
    (clips, 3, T, size, size), ``label``, ``index`` (the row that the clips are of), ``clip``
    (numbers of the clips) and ``bad``: a list of (row, reason). A training video that cannot be
    read is replaced by another row, drawn from the seed; in the other modes ``video`` is then None.

    Args:
        mode: ``train``, ``val`` or ``test``.
        videos: the list.
        num_classes: how long label vectors are, where videos have several labels.
        sampling: which frames a clip takes.
        pixels: what becomes of them.
        views: temporal views of a test video.
        crops: spatial crops of each test view, 1 to 3.
        seed: of all random draws.
        fps_jitter: in training, add uniform(0, this) to the target frame rate.
        num_sample: clips made of each training video; they show the same frames.
        augment: further augmentation of training clips.
        val_random: draw validation clips as in training.
        multi_thread: let FFmpeg decode one video with several threads.
    """

    def __init__(
        self,
        mode: str,
        videos: VideoList,
        *,
        num_classes: int,
        sampling: Sampling,
        pixels: Pixels,
        views: int = 1,
        crops: int = 1,
        seed: int = 0,
        fps_jitter: float = 0.0,
        num_sample: int = 1,
        augment: ClipAugment | None = None,
        val_random: bool = False,
        multi_thread: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {MODES}")
        self.mode, self.videos, self.num_classes = mode, videos, num_classes
        self.sampling, self.pixels = sampling, pixels
        self.views, self.crops = (views, crops) if mode == "test" else (1, 1)
        self.seed, self.fps_jitter = seed, fps_jitter
        self.num_sample = num_sample if mode == "train" else 1
        self.augment = augment if mode == "train" else None
        self.random = mode == "train" or (mode == "val" and val_random)
        self.multi_thread = multi_thread
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def clips_per_video(self) -> int:
        """Clips that an item has."""
        return self.num_sample if self.mode == "train" else self.views * self.crops

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of items that are asked for by their row alone."""
        self.epoch = epoch

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Return the paths of ``rows``."""
        return [self.videos.paths[row] for row in rows]

    def frames(self, row: int) -> np.ndarray:
        """Return the frames of the first view as decoded: uint8 RGB (T, H, W, 3)."""
        frames, (order,) = self._read(row, [ClipRequest(0, self.views)])
        return frames[order].numpy()

    def label_tensor(self) -> torch.Tensor:
        """Return all labels: int64 (rows,), or float (rows, classes) for several a video."""
        if isinstance(self.videos.labels, np.ndarray):
            return torch.from_numpy(self.videos.labels.copy())
        return torch.stack([self._label(row) for row in range(len(self))])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, row = key if isinstance(key, tuple) else (self.epoch, key)
        with one_thread():
            return self._train_item(epoch, row) if self.mode == "train" else (
                self._eval_item(epoch, row)
            )

    def _eval_item(self, epoch: int, row: int) -> dict[str, Any]:
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
            draws = item_generator(self.seed, epoch, row, attempt=attempt)
            chosen = int(draws.integers(0, len(self)))
        raise DataError(
            f"{MAX_ATTEMPTS} videos of the list {self.videos.source} in a row cannot be read; "
            f"the last: {bad[-1][1]}"
        )

    def _item(
        self, video: torch.Tensor | None, row: int, bad: list[tuple[int, str]]
    ) -> dict[str, Any]:
        return {
            "video": video,
            "label": self._label(row),
            "index": row,
            "clip": torch.arange(self.clips_per_video),
            "bad": bad,
        }

    def _label(self, row: int) -> torch.Tensor:
        labels = self.videos.labels[row]
        if not isinstance(labels, tuple):
            return torch.tensor(int(labels))
        vector = torch.zeros(self.num_classes)
        vector[list(labels)] = 1.0
        return vector

    def _random_clips(self, epoch: int, row: int) -> torch.Tensor:
        """Return ``num_sample`` random clips (num_sample, 3, T, size, size) of the same frames."""
        generators = [item_generator(self.seed, epoch, row, s) for s in range(self.num_sample)]
        jitter = generators[0].uniform(0.0, self.fps_jitter) if self.fps_jitter else 0.0
        request = ClipRequest(draw=generators[0].uniform(), fps_jitter=jitter)
        frames, (order,) = self._read(row, [request])
        return torch.stack(
            [self._random_clip(frames, order, s, draws) for s, draws in enumerate(generators)]
        )

    def _random_clip(
        self, frames: torch.Tensor, order: list[int], sample: int, draws: np.random.Generator
    ) -> torch.Tensor:
        if self.augment is not None:
            frames = self.augment.frames(frames, draws)
        crop = self.pixels.draw(frames.shape[1], frames.shape[2], draws)
        clip = self.pixels.normalise(apply_crops(frames, [crop])[0])[:, order]
        return clip if self.augment is None else self.augment.erase(clip, sample, draws)

    def _fixed_clips(self, row: int) -> torch.Tensor:
        """Return all views and crops (views x crops, 3, T, size, size) of a video."""
        frames, orders = self._read(row, [ClipRequest(v, self.views) for v in range(self.views)])
        one = self.crops == 1
        crops = [
            fixed_crop(
                frames.shape[1], frames.shape[2], size=self.pixels.size,
                scale=self.pixels.scales[0] if one else self.pixels.size,
                position=CENTRE if one else position,
            )
            for position in range(self.crops)
        ]
        cut = [self.pixels.normalise(part) for part in apply_crops(frames, crops)]
        return torch.stack([part[:, order] for order in orders for part in cut])

    def _read(
        self, row: int, requests: Sequence[ClipRequest]
    ) -> tuple[torch.Tensor, list[list[int]]]:
        clips = read_clips(
            self.videos.paths[row], requests, self.sampling, multi_thread=self.multi_thread
        )
        return torch.from_numpy(clips.frames), [list(indices) for indices in clips.indices]
