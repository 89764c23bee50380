"""The straightforward way from a file to a tensor, for comparison with the library.

It works as PySlowFast does with PyAV: each view opens the file, decodes up to its end and converts
every frame in its range to RGB; then its F frames are picked, and normalised and resized whole, in
float, before the crop is cut out of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.clips import open_stream
from openvclip.data.dataset import Pixels, item_generator
from openvclip.data.video.crops import Crop, fixed_crop, jitter_crop
from openvclip.data.video.sampling import (
    ClipRequest,
    Sampling,
    clip_window,
    counted_indices,
    window_indices,
)

# Decoding starts this many ticks before a view.
MARGIN = 1024


def make_test_item(path: str, views: int, sampling: Sampling, pixels: Pixels) -> torch.Tensor:
    """Return all views of a video with one crop each: float32 (views, 3, F, size, size)."""
    clips = []
    for view in range(views):
        frames = read_clip(path, ClipRequest(view, views), sampling)
        crop = fixed_crop(*frames.shape[1:3], scale=pixels.scales[0], size=pixels.size)
        clips.append(finish(frames, crop, pixels))
    return torch.stack(clips)


def make_train_item(
    path: str, epoch: int, row: int, seed: int, sampling: Sampling, pixels: Pixels
) -> torch.Tensor:
    """Return the random clip of an epoch and row: float32 (1, 3, F, size, size)."""
    rng = item_generator(seed, epoch, row)
    frames = read_clip(path, ClipRequest(draw=rng.uniform()), sampling)
    crop = jitter_crop(
        *frames.shape[1:3], scales=pixels.scales, size=pixels.size, rng=rng, flip=pixels.flip
    )
    return finish(frames, crop, pixels)[None]


def read_clip(path: str, request: ClipRequest, sampling: Sampling) -> np.ndarray:
    """Return the frames of one clip: uint8 RGB (F, H, W, 3)."""
    with open_stream(path) as (container, stream):
        fps, count, duration = float(stream.average_rate), stream.frames, stream.duration
        if count and duration:
            window = clip_window(sampling, request, count=count, fps=fps, duration=duration)
            container.seek(max(window.start - MARGIN, 0), stream=stream)
            images = convert(frames_between(container, stream, window.start, window.end))
            if images:
                return np.stack([images[i] for i in window_indices(window, len(images))])
    with open_stream(path) as (container, stream):
        images = convert(frames_between(container, stream, 0, float("inf")))
        chosen = counted_indices(sampling, request, count=len(images), fps=fps)
        return np.stack([images[i] for i in chosen])


def frames_between(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    start: int,
    end: float,
) -> list[av.VideoFrame]:
    """Decode from the ``start`` tick to the first frame beyond ``end``; return those in order."""
    frames = {}
    for frame in container.decode(stream):
        if frame.pts >= start:
            frames[frame.pts] = frame
            if frame.pts > end:
                break
    return [frames[stamp] for stamp in sorted(frames)]


def convert(frames: Sequence[av.VideoFrame]) -> list[np.ndarray]:
    """Convert every frame to RGB (H, W, 3)."""
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def finish(frames: np.ndarray, crop: Crop, pixels: Pixels) -> torch.Tensor:
    """Normalise whole frames, resize them whole, and cut the crop out: (3, F, size, size)."""
    clip = torch.from_numpy(frames).float() / 255.0
    clip = (clip - torch.tensor(pixels.mean)) / torch.tensor(pixels.std)
    clip = clip.permute(3, 0, 1, 2)
    if crop.resized != tuple(clip.shape[2:]):
        clip = F.interpolate(clip, size=crop.resized, mode="bilinear", align_corners=False)
    clip = clip[..., crop.y:crop.y + crop.size, crop.x:crop.x + crop.size]
    return clip.flip(3) if crop.flip else clip
