"""Which frames a clip takes: PySlowFast's temporal sampling with PyAV, as pure functions.

There are two ways to a clip's frames. If the container gives a duration and a frame count, a
window in the stream's ticks is decoded first (``clip_window``) and F frames are spread over its
content (``window_indices``). Otherwise all frames are counted and F are spread over a clip among
them (``counted_indices``).

The published window is a little shorter than the clip that is spread over it, so the last index is
nearly always clamped to the window's last frame, and it ignores ``DATA.USE_OFFSET_SAMPLING``.
``exact_indices`` (``DATA.SAMPLING_COMPAT exact``) does neither; it always counts frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

PUBLISHED, EXACT = "published", "exact"


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn from videos.

    Attributes:
        num_frames: frames of a clip (F).
        sampling_rate: frames between two of them at ``target_fps`` (S).
        target_fps: the frame rate at which ``sampling_rate`` counts.
        use_offset: spread test views from the video's first frame to its last.
        compat: ``published`` or ``exact``.
    """

    num_frames: int = 8
    sampling_rate: float = 8
    target_fps: float = 30.0
    use_offset: bool = False
    compat: str = PUBLISHED


@dataclass(frozen=True)
class ClipRequest:
    """One clip to read from a video: view ``view`` of ``views``, or a random one.

    Attributes:
        view: number of the test view.
        views: how many test views there are.
        draw: for a random clip, its position as a number in [0, 1); None for a test view.
        fps_jitter: added to the target frame rate (``DATA.TRAIN_JITTER_FPS``).
    """

    view: int = 0
    views: int = 1
    draw: float | None = None
    fps_jitter: float = 0.0


@dataclass(frozen=True)
class Window:
    """Frames to decode: those from ``start`` up to and including the first beyond ``end``.

    Attributes:
        start: first tick.
        end: last tick.
        wanted: positions in the window that are taken if it has that many frames.
    """

    start: int
    end: int
    wanted: tuple[int, ...]


def window_size(sampling: Sampling, request: ClipRequest, fps: float) -> float:
    """Return the frames of the window: max(1, ceil(S (F - 1) / target fps))."""
    target = sampling.target_fps + request.fps_jitter
    span = sampling.sampling_rate * (sampling.num_frames - 1) / target * fps
    return max(1.0, float(math.ceil(span)))


def clip_size(sampling: Sampling, request: ClipRequest, fps: float) -> float:
    """Return the frames that a clip is spread over: max(1, S F / target fps)."""
    target = sampling.target_fps + request.fps_jitter
    return max(1.0, sampling.sampling_rate * sampling.num_frames / target * fps)


def start_end(
    count: int, size: float, request: ClipRequest, use_offset: bool = False
) -> tuple[float, float]:
    """Return the first and last frame, as real numbers, of a clip of ``size`` among ``count``."""
    room = max(count - size, 0)
    if request.draw is not None:
        start = request.draw * room
    elif not use_offset:
        start = room * request.view / request.views
    elif request.views == 1:
        start = math.floor(room / 2)
    else:
        start = request.view * math.floor(room / (request.views - 1))
    return start, start + size - 1


def spread(start: float, end: float, num_frames: int, count: int) -> tuple[int, ...]:
    """Return ``num_frames`` frame numbers from ``start`` to ``end``, clamped to ``count`` frames.

    The line is drawn in fp32, as published: in fp64 some numbers would be one higher or lower.
    """
    line = torch.linspace(start, end, num_frames, dtype=torch.float32)
    return tuple(line.clamp(0, count - 1).long().tolist())


def clip_window(
    sampling: Sampling, request: ClipRequest, *, count: int, fps: float, duration: int
) -> Window:
    """Return a clip's window if the container gives ``count`` and ``duration`` (ticks)."""
    start, end = start_end(count, window_size(sampling, request, fps), request)
    tick = duration / count
    last = clip_size(sampling, request, fps) - 1
    # The count is not known before decoding: these are the positions of a window without end.
    wanted = spread(0.0, last, sampling.num_frames, 2**31)
    return Window(int(start * tick), int(end * tick), wanted)


def window_indices(window: Window, kept: int) -> tuple[int, ...]:
    """Return which of the ``kept`` frames of a window make the clip, in their order."""
    return tuple(min(position, kept - 1) for position in window.wanted)


def counted_indices(
    sampling: Sampling, request: ClipRequest, *, count: int, fps: float
) -> tuple[int, ...]:
    """Return a clip's frame numbers if all ``count`` frames of a video were decoded."""
    if sampling.compat == EXACT:
        return exact_indices(sampling, request, count=count, fps=fps)
    size = clip_size(sampling, request, fps)
    start, end = start_end(count, size, request, sampling.use_offset)
    return spread(start, end, sampling.num_frames, count)


def exact_indices(
    sampling: Sampling, request: ClipRequest, *, count: int, fps: float
) -> tuple[int, ...]:
    """Return frame numbers S (fps / target) apart, clamped only if the video is too short.

    With ``use_offset`` the first view starts at frame 0 and the last one ends at the last frame
    (a single view is in the middle); otherwise view v of V starts at v/V of the room, as published.
    """
    target = sampling.target_fps + request.fps_jitter
    step = sampling.sampling_rate / target * fps
    room = max(count - 1 - step * (sampling.num_frames - 1), 0.0)
    if request.draw is not None:
        start = request.draw * room
    elif not sampling.use_offset:
        start = room * request.view / request.views
    else:
        start = room * request.view / (request.views - 1) if request.views > 1 else room / 2
    # The addend: a product that is whole but for rounding, 298.9999999, must not fall to 298.
    return tuple(
        min(int(start + i * step + 1e-6), count - 1) for i in range(sampling.num_frames)
    )
