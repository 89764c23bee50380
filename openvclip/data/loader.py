"""cfg -> datasets and loaders, and which process reads which rows."""

from __future__ import annotations

import functools
import json
import multiprocessing
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from openvclip.data.augment.clip import build_augment
from openvclip.data.collate import collate, collate_to_hand_over, receive
from openvclip.data.dataset import Pixels, RandomClips, VideoDataset
from openvclip.data.lists.labels import LabelSpace, VideoList, check_videos_exist, read_list
from openvclip.data.lists.locate import build_list_path
from openvclip.data.samplers import EvalSampler, TrainSampler
from openvclip.data.video.cache import FrameCache
from openvclip.data.video.crops import BILINEAR, SHORTEST
from openvclip.data.video.resample import finish_video
from openvclip.data.video.sampling import Sampling
from openvclip.utils.cores import count_cores
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.logging import get_logger
from openvclip.utils.signals import leave_signals_to_parent

logger = get_logger(__name__)

# Clips per forward pass in evaluation, unless one video has more. Scores depend on it, by
# rounding: it must not depend on the number of processes or the machine.
CLIPS_PER_FORWARD = 8


def _init_worker(_: int) -> None:
    # Workers share the cores by being several, not by having several threads.
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None  # this runs in workers only
    leave_signals_to_parent(parent.pid)


class _DataLoader(DataLoader):
    """torch's, without its warning that workers outnumber the cores: the log has its own line."""

    def check_worker_number_rationality(self) -> None:
        """Say nothing; :func:`build_loader` does."""


@functools.cache
def warn_of_too_many_workers(workers: int, cores: int) -> None:
    """Say once per run, not for each of its loaders, that workers wait for each other."""
    logger.warning("DATA_LOADER.NUM_WORKERS is %d, but this process may use %d cores only; with "
                   "no more workers than cores, loading takes less memory and is as fast",
                   workers, cores)


class Loader:
    """Batches of a dataset, epoch by epoch.

    Clips are decoded by ``num_workers`` processes, or in this one if 0, and are resized and
    normalised on ``device``, where they end up. ``pin_memory`` makes copies to a GPU faster.
    """

    def __init__(
        self, dataset: VideoDataset, sampler: TrainSampler | EvalSampler, *, num_workers: int = 0,
        pin_memory: bool = False, device: torch.device | str = "cpu",
    ) -> None:
        self.dataset, self.sampler, self.device = dataset, sampler, device
        size = dataset.pixels.size
        self._loader = _DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=functools.partial(
                collate_to_hand_over if num_workers else collate,
                empty=(3, dataset.sampling.num_frames, size, size),
                group=sampler.group if isinstance(sampler, EvalSampler) else 0,
            ),
            pin_memory=pin_memory,
            worker_init_fn=_init_worker,
            persistent_workers=num_workers > 0,
            # A generator of its own: iterating must not move the global one.
            generator=torch.Generator().manual_seed(0),
        )

    def set_epoch(self, epoch: int, start_iteration: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch at which it begins."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, start_iteration)

    def skip(self, done: Collection[int]) -> None:
        """Skip the evaluation groups that begin at the rows ``done``."""
        self._eval_sampler().skip(done)

    def count_rows(self) -> int:
        """Return how many rows this process visits in an evaluation."""
        return self._eval_sampler().count_rows()

    @property
    def group(self) -> int:
        """Rows of an evaluation that share a forward pass."""
        return self._eval_sampler().group

    def _eval_sampler(self) -> EvalSampler:
        assert isinstance(self.sampler, EvalSampler), "training has no groups"
        return self.sampler

    def __len__(self) -> int:
        """Return the batches of a whole epoch on this process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches as :func:`collate` gives them, ``video`` finished and on the device.

        Raises:
            DataError: a worker had not enough shared memory for a batch.
        """
        for batch in map(receive, self._loader):
            yield {**batch, "video": finish_video(batch["video"], self.device)}


def explain_dead_worker(error: RuntimeError) -> DataError | None:
    """Return the error to raise instead of torch's after a worker was killed; None: not that."""
    if "DataLoader worker" not in str(error):
        return None
    return DataError(
        f"a decoding process died ({error}). Out of memory is the usual reason, or a full "
        "/dev/shm: lower DATA_LOADER.NUM_WORKERS or the batch size"
    )


@functools.cache
def note_backend(backend: str) -> None:
    """Say once what ``DATA.DECODING_BACKEND torchvision`` of published scripts means here.

    torchvision no longer has a reader: PyAV, on which its reader was built, replaces it.
    """
    if backend == "torchvision":
        logger.info("DATA.DECODING_BACKEND torchvision: videos are decoded by PyAV")


def build_cache(cfg, split: str) -> FrameCache | None:
    """Build the cache in ``DATA.CACHE_DIR`` for validation and test videos, or None."""
    data = cfg.DATA
    if not data.CACHE_DIR or split == "train":
        return None
    test = split == "test"
    # Everything besides the file that a video's frames depend on.
    spec = {
        "backend": "pyav",
        "frames": [data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS],
        "offset": [data.USE_OFFSET_SAMPLING, data.SAMPLING_COMPAT],
        "clips": [cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS] if test else [1, 1],
        "size": [data.TRAIN_JITTER_SCALES[0],
                 data.TEST_CROP_SIZE if test else data.TRAIN_CROP_SIZE],
    }
    resizing = [data.RESIZE_MODE, data.INTERPOLATION]
    if resizing != [SHORTEST, BILINEAR]:  # for which caches of versions without the keys stand
        spec["resizing"] = resizing
    return FrameCache(data.CACHE_DIR, max_bytes=int(data.CACHE_MAX_GB * 2**30),
                      spec=json.dumps(spec))


def build_pixels(cfg, split: str) -> Pixels:
    """Build the settings for how the frames of ``split`` become clips."""
    data = cfg.DATA
    return Pixels(
        scales=tuple(data.TRAIN_JITTER_SCALES),
        size=data.TEST_CROP_SIZE if split == "test" else data.TRAIN_CROP_SIZE,
        mean=tuple(data.MEAN),
        std=tuple(data.STD),
        inverse=data.INV_UNIFORM_SAMPLE,
        flip=data.RANDOM_FLIP,
        area=tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
        aspect=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE),
        reverse_channels=data.REVERSE_INPUT_CHANNEL,
        mode=data.RESIZE_MODE,
        filter=data.INTERPOLATION,
        fill=data.FILL_COLOR,
    )


def build_list(cfg, split: str) -> tuple[VideoList, int]:
    """Read the list of ``train``, ``val`` or ``test``; return it and the number of classes.

    Raises:
        DataError: the list, the label map or the video folder cannot be used.
    """
    data = cfg.DATA
    classes = cfg.MODEL.NUM_CLASSES
    if data.INDEX_LABEL_MAPPING_FILE:
        classes = len(LabelSpace.from_json(data.INDEX_LABEL_MAPPING_FILE))
    videos = read_list(
        build_list_path(cfg, split),
        separator=data.PATH_LABEL_SEPARATOR,
        prefix=data.PATH_PREFIX,
        num_classes=classes,
        multi_label=data.MULTI_LABEL,
    )
    logger.info("%s: %d videos", videos.source, len(videos.paths))
    check_videos_exist(videos.paths, prefix=data.PATH_PREFIX, source=videos.source)
    return videos, classes


def build_dataset(cfg, split: str, videos: VideoList | None = None) -> VideoDataset:
    """Build the dataset of a split from its list, or from ``videos``, a list without classes.

    Raises:
        DataError: as :func:`build_list`.
    """
    data = cfg.DATA
    note_backend(data.DECODING_BACKEND)
    videos, classes = build_list(cfg, split) if videos is None else (videos, 1)
    return VideoDataset(
        split,
        videos,
        num_classes=classes,
        sampling=Sampling(
            num_frames=data.NUM_FRAMES,
            sampling_rate=data.SAMPLING_RATE,
            target_fps=data.TARGET_FPS,
            use_offset=data.USE_OFFSET_SAMPLING,
            compat=data.SAMPLING_COMPAT,
        ),
        pixels=build_pixels(cfg, split),
        views=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        crops=cfg.TEST.NUM_SPATIAL_CROPS,
        draws=RandomClips(
            seed=cfg.RNG_SEED,
            fps_jitter=data.TRAIN_JITTER_FPS,
            num_sample=cfg.AUG.NUM_SAMPLE,
            augment=build_augment(cfg) if cfg.AUG.ENABLE and split == "train" else None,
            validation=data.VAL_RANDOM,
        ),
        multi_thread=cfg.DATA_LOADER.ENABLE_MULTI_THREAD_DECODE,
        finish=False,
        cache=build_cache(cfg, split),
    )


def build_loader(
    cfg, split: str, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu",
    videos: VideoList | None = None,
) -> Loader:
    """Build the loader of ``train``, ``val`` or ``test`` for one process, onto ``device``.

    Batch sizes in the config count all processes together. Training drops the last, partial
    batch; evaluation visits every row exactly once over all processes, in groups that do not
    depend on their number (see :class:`EvalSampler`); a batch holds at least one of them.
    ``videos`` is a list without classes to use instead of the split's.

    Raises:
        ConfigError: a batch size is not a multiple of the number of processes.
        DataError: the list, the label map or the video folder cannot be used, or there are
            fewer training rows than a batch takes.
    """
    section = "TEST" if split == "test" else "TRAIN"
    batch = cfg[section].BATCH_SIZE
    if batch % world_size:
        raise ConfigError(
            f"{section}.BATCH_SIZE is {batch}; it counts the batch of all {world_size} "
            f"processes together and must be a multiple of {world_size}"
        )
    workers, cores = cfg.DATA_LOADER.NUM_WORKERS, count_cores()
    if workers > cores and rank == 0:
        warn_of_too_many_workers(workers, cores)
    dataset = build_dataset(cfg, split, videos)
    share = {"rank": rank, "world_size": world_size}
    if split == "train":
        if len(dataset) < batch:
            raise DataError(
                f"{dataset.videos.source} has {len(dataset)} rows, fewer than one batch: "
                f"TRAIN.BATCH_SIZE is {batch}; lower it to {len(dataset)} or less"
            )
        sampler: TrainSampler | EvalSampler = TrainSampler(
            len(dataset), batch, seed=cfg.RNG_SEED, **share)
    else:
        clips = dataset.clips_per_video
        group = max(1, min(batch, CLIPS_PER_FORWARD) // clips)
        sampler = EvalSampler(
            len(dataset), group, max(1, batch // world_size // (group * clips)), **share
        )
    return Loader(
        dataset,
        sampler,
        num_workers=workers,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.device(device).type == "cuda",
        device=device,
    )
