"""The clips that a benchmark of the data path makes from videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvclip.config import load_cfg
from openvclip.data.dataset import Pixels, RandomClips, VideoDataset, item_generator
from openvclip.data.lists.labels import VideoList
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.utils.errors import ConfigError

MODES = ("test", "train")


@dataclass(frozen=True)
class Settings:
    """The clips of each mode.

    Attributes:
        views: of a test video, with one crop each.
        frames: of a clip.
        sampling_rate: frames of the video from one frame of a clip to the next, at 30 per second.
        scale: short side of test frames.
        crop: side of the crop.
        train_scales: smallest and largest short side of training frames.
        seed: seed of the random clips.
    """

    views: int = 3
    frames: int = 8
    sampling_rate: int = 16
    scale: int = 224
    crop: int = 224
    train_scales: tuple[int, int] = (224, 256)
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.train_scales
        if self.scale < self.crop or low < self.crop or high < low:
            raise ConfigError(
                f"--scale {self.scale} and --train-scales {low} {high} must not be less than "
                f"--crop {self.crop}, nor the second training scale less than the first"
            )

    @property
    def sampling(self) -> Sampling:
        """Which frames a clip takes."""
        return Sampling(self.frames, self.sampling_rate)

    def pixels(self, mode: str) -> Pixels:
        """How frames become clips in ``test`` or ``train`` mode."""
        scales = self.train_scales if mode == "train" else (self.scale, self.scale)
        return Pixels(scales=scales, size=self.crop)

    def clips(self, mode: str) -> int:
        """Number of clips in an item."""
        return self.views if mode == "test" else 1

    def requests(self, mode: str, epoch: int, row: int) -> list[ClipRequest]:
        """Return the clips that the item of an epoch and row asks for."""
        if mode == "test":
            return [ClipRequest(view, self.views) for view in range(self.views)]
        return [ClipRequest(draw=item_generator(self.seed, epoch, row).uniform())]

    def dataset(self, mode: str, paths: list[str]) -> VideoDataset:
        """Return the dataset whose items are finished tensors."""
        videos = VideoList(paths, np.zeros(len(paths), dtype=np.int64), "--videos")
        return VideoDataset(
            mode, videos, num_classes=1, sampling=self.sampling, pixels=self.pixels(mode),
            views=self.views, crops=1, draws=RandomClips(self.seed),
        )

    def config(self, mode: str, paths: list[str], *, folder: Path, batch: int, workers: int):
        """Write ``paths`` as a list to ``folder`` and return the configuration that reads it.

        Args:
            mode: ``test`` or ``train``.
            paths: of the videos, in the list's order.
            folder: where the list goes.
            batch: videos of a batch.
            workers: processes of the loader.
        """
        rows = "".join(f"{path} 0\n" for path in paths)
        (folder / f"{mode}.csv").write_text(rows, encoding="utf-8")
        scales = self.pixels(mode).scales
        return load_cfg(None, [
            "DATA.PATH_TO_DATA_DIR", str(folder),
            "DATA.DECODING_BACKEND", "pyav",
            "DATA.NUM_FRAMES", str(self.frames),
            "DATA.SAMPLING_RATE", str(self.sampling_rate),
            "DATA.TRAIN_JITTER_SCALES", str(list(scales)),
            "DATA.TRAIN_CROP_SIZE", str(self.crop),
            "DATA.TEST_CROP_SIZE", str(self.crop),
            "TEST.NUM_ENSEMBLE_VIEWS", str(self.views),
            "TEST.NUM_SPATIAL_CROPS", "1",
            "TEST.BATCH_SIZE", str(batch * self.views),
            "TRAIN.BATCH_SIZE", str(batch),
            "DATA_LOADER.NUM_WORKERS", str(workers),
            "RNG_SEED", str(self.seed),
        ])
