"""A model for a user's own videos and words: ``load_model`` and what it returns."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvclip.checkpoints.held import CURRENT, check_which
from openvclip.checkpoints.loading import compute_amp_dtype, load_patched
from openvclip.clip.open_clip_towers import FOLDER_CONFIG
from openvclip.clip.weights import ARCH_FILES, SUFFIXES, default_clip_path
from openvclip.data.video.keeping import FixedCuts
from openvclip.data.video.resample import PackedBatch, PackedClips
from openvclip.evaluation.runner import compute_outputs
from openvclip.models.text import class_embeddings
from openvclip.models.video_clip import VideoCLIP
from openvclip.predict.input_spec import InputSpec, change_input, find_input_spec, follow_tower
from openvclip.predict.label_set import check_labels
from openvclip.predict.results import Prediction, Timeline, compute_probabilities, rank_labels
from openvclip.predict.timelines import SHORTEST, check_windows, collect_timeline
from openvclip.predict.video_file import probe, read_views, shrink
from openvclip.predict.windows import stream_windows
from openvclip.utils.errors import CheckpointError, ConfigError, DataError
from openvclip.utils.finite import require_finite
from openvclip.utils.paths import local_weights

# Values of MODEL.LOSS_FUNC that train scores for a softmax.
SOFTMAX = ("cross_entropy", "soft_cross_entropy")
LABEL_SETS = 16  # Label sets whose embeddings are cached.


def check_sources(
    clip: str | Path, checkpoint: str | Path | None, patching_ratio: float | None,
    weights: str = CURRENT,
) -> str:
    """Return the file or open_clip name of the CLIP, if all that :func:`load_model` takes exists.

    Raises:
        ConfigError: the ratio is outside 0..1, there is nothing to patch, or nothing that could
            have such weights.
        CheckpointError: a file does not exist.
    """
    check_which(weights, given=checkpoint is not None)
    if patching_ratio is not None:
        if checkpoint is None:
            raise ConfigError("a patching ratio mixes a checkpoint with CLIP, but no checkpoint is "
                              "given; give one (--checkpoint) or leave the ratio out")
        if not 0.0 <= patching_ratio <= 1.0:
            raise ConfigError(f"the patching ratio is {patching_ratio:g}; give a share, 0 to 1")
    name = str(default_clip_path(str(clip)) if str(clip) in ARCH_FILES else clip)
    path = local_weights(name)
    named_as_file = path.suffix in SUFFIXES or name.startswith(("/", ".", "~"))
    if named_as_file and not path.is_file() and not (path / FOLDER_CONFIG).is_file():
        raise CheckpointError(f"CLIP {path} does not exist or is not a file; check --clip")
    if checkpoint is not None and not local_weights(checkpoint).is_file():
        raise CheckpointError(f"checkpoint {checkpoint} does not exist or is not a file; check "
                              "--checkpoint")
    return name


def select_device(name: str) -> torch.device:
    """Return the device that auto, cpu, cuda or cuda:N names.

    Raises:
        ConfigError: the name is unknown, or there is no such device.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (not number or number.isdecimal())):
        raise ConfigError(f"the device is {name!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"the device is {name!r}, but this machine has {count} GPUs; give auto, "
                          "cpu or another")
    return torch.device(name)


def compute_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of forward passes, None for float32."""
    if name not in ("float32", "auto", "bfloat16", "float16"):
        raise ConfigError(f"the precision is {name!r}; give float32, auto, bfloat16 or float16")
    return None if name == "float32" else compute_amp_dtype(name, device)


def load_model(
    clip: str | Path,
    checkpoint: str | Path | None = None,
    patching_ratio: float | None = None,
    *,
    config: str | Path | None = None,
    temporal_type: str | None = None,
    num_frames: int | None = None,
    sampling_rate: float | None = None,
    views: int = 3,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 8,
    as_tested: bool = False,
    weights: str = CURRENT,
) -> VideoClassifier:
    """Load CLIP, or a fine-tuned and patched checkpoint, for predicting on any video.

    What the model expects of a clip is read from ``config``, else from the config inside the
    checkpoint or next to it (``config.yaml``), else it is the shipped Kinetics recipe: 8 frames,
    every 16th, expand_temporal_view. Without a checkpoint, frames do not see each other.

    Args:
        clip: the original CLIP: a file, a name that open_clip lists, or vitb32, vitb16, vitl14 or
            vitl14_336 for the file in ``~/.cache/clip``.
        checkpoint: fine-tuned weights, averaged or from one epoch; None: the original CLIP.
        patching_ratio: share of CLIP in the weights, 0 to 1; None: the unpatched checkpoint.
        config: of the training run, such as ``config.yaml`` in its OUTPUT_DIR.
        temporal_type: overrides the above: a MODEL.TEMPORAL_MODELING_TYPE or "none".
        num_frames: likewise, frames of a clip.
        sampling_rate: likewise, frames from one to the next in a video of 30 frames per second.
        views: clips spread over each video, whose scores are averaged.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        precision: float32, bfloat16, float16, or auto: the device's preferred half precision.
        batch_size: most clips per forward pass, unless one video has more.
        as_tested: as tests read videos: the last frame of short ones is repeated, and those that a
            phone stored rotated are not turned upright.
        weights: of the checkpoint: ``current``, or ``ema`` for their moving average.

    Raises:
        ConfigError: an option is out of range, or there is nothing to patch.
        CheckpointError: a file is missing, damaged, or does not fit.
    """
    name = check_sources(clip, checkpoint, patching_ratio, weights)
    for what, number in (("views", views), ("batch_size", batch_size)):
        if number < 1:
            raise ConfigError(f"{what} is {number}; give 1 or more")
    dtype = compute_precision(precision, target := select_device(device))
    options = change_input(
        find_input_spec(checkpoint, config, name), temporal_type=temporal_type,
        num_frames=num_frames, sampling_rate=sampling_rate)
    model = load_patched(name, checkpoint, patching_ratio, temporal_type=options.temporal_type,
                         num_frames=options.num_frames, backbone=options.backbone,
                         edges=options.edges, experts=options.experts, which=weights)
    options = follow_tower(options, getattr(model.model, "tower", None))
    return VideoClassifier(model.to(target).eval(), options, views=views, dtype=dtype,
                           batch_size=batch_size, as_tested=as_tested)


class VideoClassifier:
    """Names what videos show, choosing among labels that are given with each call.

    Args:
        model: on its device, in evaluation mode.
        options: how it expects its videos.
        views, batch_size, as_tested: see :func:`load_model`.
        dtype: type of the forward passes, None for float32.

    Attributes:
        embed_dim: D, the size of embeddings.
        logit_scale: factor from cosine similarities to scores.
        logit_bias: what is added to them then; 0 in a CLIP without one.
        single: whether a probability is that of a label by itself: in a CLIP with a logit bias
            (SigLIP) unless it was fine-tuned with a softmax.
    """

    def __init__(
        self,
        model: VideoCLIP,
        options: InputSpec,
        *,
        views: int = 3,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
        as_tested: bool = False,
    ) -> None:
        self.model, self.options, self.views, self.dtype = model, options, views, dtype
        self.batch_size, self.as_tested = batch_size, as_tested
        self.device = model.model.logit_scale.device
        self.autocast = nullcontext if dtype is None else partial(
            torch.autocast, self.device.type, dtype=dtype)
        self.pixels = options.pixels(model.model.image_size)
        self.embed_dim = model.model.embed_dim
        self.logit_scale = float(model.model.logit_scale.detach().exp())
        bias = model.logit_bias
        self.logit_bias = 0.0 if bias is None else float(bias.detach())
        self.single = bias is not None and options.loss not in SOFTMAX
        self._texts: dict[str | tuple[str, ...], torch.Tensor] = {}

    def predict(self, video: str | Path, labels: Sequence[str], top_k: int = 5) -> Prediction:
        """Rank labels by how well they describe a video.

        Args:
            video: the file.
            labels: N different texts; their probabilities sum to 1 over all of them, unless each
                is by itself (``single``).
            top_k: how many of the best to return.

        Raises:
            DataError: the video cannot be read, or a label is empty, double or too long.
        """
        prediction = next(self.predict_many([video], labels, top_k))
        if prediction.error:
            raise DataError(prediction.error)
        return prediction

    def predict_many(
        self,
        videos: Iterable[str | Path],
        labels: Sequence[str],
        top_k: int = 5,
        *,
        workers: int = 1,
        keep_frames: bool = False,
    ) -> Iterator[Prediction]:
        """Yield a prediction for each video, in order; memory does not grow with their number.

        A video that cannot be read does not raise: its prediction says why in ``error``.

        Args:
            videos, labels, top_k: see :meth:`predict`.
            workers: threads that read videos ahead.
            keep_frames: store small pictures of the frames, for figures.

        Raises:
            ConfigError: ``top_k`` is below 1.
            DataError: a label is empty, double or too long.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; give 1 or more")
        names, texts = tuple(labels), self.encode_text(labels)
        for item in self.encode_many(videos, workers=workers, keep_frames=keep_frames):
            ranking = []
            if item.embedding is not None:
                scores = require_finite(self.logit_scale * texts @ item.embedding + self.logit_bias,
                                        f"{item.video}: the scores are")
                ranking = rank_labels(names, scores, top_k, self.single)
            yield replace(item, ranking=ranking, embedding=None)

    def encode_text(self, labels: Sequence[str]) -> torch.Tensor:
        """Embed labels: float32 (N, D) on the CPU, each of length 1, averaged over 28 sentences.

        The embeddings of the last few label sets are cached.

        Raises:
            DataError: a label is empty, double or too long.
        """
        key = labels if isinstance(labels, str) else tuple(labels)
        if key not in self._texts:
            clip = self.model.model
            names = check_labels(labels, clip.context_length, count=clip.tokenizer.count)
            self._texts[key] = class_embeddings(clip, names, context_length=clip.context_length)
            if len(self._texts) > LABEL_SETS:
                del self._texts[next(iter(self._texts))]
        return self._texts[key]

    def encode_video(self, video: str | Path) -> torch.Tensor:
        """Embed a video: float32 (D,) on the CPU.

        It is the mean of the unit embeddings of all frames of all clips, so that ``logit_scale *
        encode_text(labels) @ encode_video(video) + logit_bias`` gives the scores. For cosines
        between videos, divide it by its length, which is below 1 if frames differ.

        Raises:
            DataError: the video cannot be read.
        """
        item = next(self.encode_many([video]))
        if item.embedding is None:
            raise DataError(item.error)
        return item.embedding

    def encode_many(
        self, videos: Iterable[str | Path], *, workers: int = 1, keep_frames: bool = False
    ) -> Iterator[Prediction]:
        """Yield each video with its embedding and no ranking, in order; see :meth:`predict_many`.

        ``embedding`` is that of :meth:`encode_video`, None where ``error`` says why.
        """
        group: list[tuple[Prediction, PackedClips | None]] = []
        waiting = 0
        for item, clips in self._read_ahead(videos, workers, keep_frames):
            count = 0 if clips is None else len(clips)
            if group and waiting + count > self.batch_size:
                yield from self._encode_group(group)
                group, waiting = [], 0
            group.append((item, clips))
            waiting += count
        yield from self._encode_group(group)

    def _read_ahead(
        self, videos: Iterable[str | Path], workers: int, keep_frames: bool
    ) -> Iterator[tuple[Prediction, PackedClips | None]]:
        """Read videos in threads, at most ``workers`` + 1 of them ahead."""
        workers = max(workers, 1)
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for name in map(_name_video, videos):
                waiting.append(pool.submit(self._read, name, keep_frames))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read(self, video: str, keep_frames: bool) -> tuple[Prediction, PackedClips | None]:
        fixed = FixedCuts(partial(self.pixels.fixed, crops=1))

        def keep(image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray | None]:
            return fixed(image), shrink(image) if keep_frames else None

        try:
            clips, facts = read_views(video, self.options.sampling(), self.views, self.as_tested,
                                      keep)
        except DataError as error:
            return Prediction(video, error=str(error)), None
        times = tuple(tuple(clips.seconds[i] for i in order) for order in clips.indices)
        parts, pictures = zip(*clips.frames, strict=True)
        frames = None
        if keep_frames:
            frames = np.stack([np.stack(pictures)[list(order)] for order in clips.indices])
        packed = PackedClips(
            fixed.cuts(parts, [list(enumerate(clips.indices))]),
            num_frames=self.options.num_frames, size=self.pixels.size,
            normalisation=self.pixels.normalisation(),
        )
        return Prediction(video, seconds=facts.seconds, times=times, frames=frames), packed

    def _encode_group(
        self, group: Sequence[tuple[Prediction, PackedClips | None]]
    ) -> Iterator[Prediction]:
        packed = [clips for _, clips in group if clips is not None]
        if packed:
            embeddings = self._encode_clips(PackedBatch(packed).finish(self.device))
            parts = iter(embeddings.split([len(clips) for clips in packed]))
        for item, clips in group:
            if clips is not None:
                item = replace(item, embedding=require_finite(
                    next(parts).mean(dim=0), f"{item.video}: the embedding is"))
            yield item

    @torch.inference_mode()
    def _encode_clips(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> float32 (B, D) on the CPU."""
        return compute_outputs(self.model.pool_frames, video, self.autocast)

    def timeline(
        self,
        video: str | Path,
        labels: Sequence[str],
        window: float | None = None,
        stride: float | None = None,
    ) -> Timeline:
        """Rank labels in windows that slide over a video, which is decoded once.

        Args:
            video: the file.
            labels: N different texts.
            window: seconds per window; None: what a clip covers in training, or the whole video
                if that is shorter.
            stride: seconds from one window's start to the next; None: half a window.

        Raises:
            ConfigError: ``window`` or ``stride`` has an impossible value.
            DataError: the video cannot be read, or a label is empty, double or too long.
        """
        name, texts = _name_video(video), self.encode_text(labels)
        check_windows(window, stride)
        seconds = probe(name).seconds
        if window is None:
            window = max(min(self.options.seconds, seconds or self.options.seconds), SHORTEST)
        stride = window / 2 if stride is None else stride
        check_windows(window, stride)

        def score(clips: torch.Tensor) -> torch.Tensor:
            scores = self.logit_scale * self._encode_clips(clips.to(self.device)) @ texts.T
            scores = require_finite(scores + self.logit_bias, f"{name}: the scores are")
            return compute_probabilities(scores, self.single)

        with closing(stream_windows(name, self.pixels, num_frames=self.options.num_frames,
                                    window=window, stride=stride)) as stream:
            return collect_timeline(name, labels, stream, score, self.batch_size, window=window,
                                    stride=stride, seconds=seconds)


def _name_video(video: Any) -> str:
    """Return the path of a video that is to be read."""
    if not isinstance(video, (str, os.PathLike)):
        raise DataError(
            f"a video is a {type(video).__name__}; give the path of its file: frames in memory "
            "have no times to sample clips by"
        )
    name = os.fspath(video)
    if not isinstance(name, str) or "\0" in name:
        raise DataError(f"{name!r} is not the path of a video")
    return name
