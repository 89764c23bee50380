"""A video as a stream of windows: decoded once, from its start, in constant memory.

A window takes F frames, evenly spread over it. Consecutive windows that take exactly the same
frames would be classified alike, so they become one: a frame that is shown for a day, in a file
whose timestamps have a gap or in a time-lapse, makes one window and not tens of thousands. The
number of windows is thus bounded by the number of frames and not by their timestamps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from openvclip.data.dataset import Pixels
from openvclip.data.video.resample import cut, resample
from openvclip.data.video.video_reader import VideoReader, open_video, rgb_image
from openvclip.predict.video_file import count_turns, shrink
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

ROUNDING = 1e-6  # Seconds by which sums of times may be off.
LATEST = 1e9  # Seconds, 32 years: a frame with a later timestamp comes from a damaged file.


@dataclass(frozen=True)
class TimelineWindow:
    """A clip of a stretch of a video.

    Attributes:
        start: seconds from the video's beginning.
        end: likewise; the video's end if that is within the window.
        clip: float32 (3, T, size, size), normalised.
        picture: uint8 (h, w, 3), the frame in its middle, small.
        count: windows that this one stands for: those from ``start`` on with the same frames.
    """

    start: float
    end: float
    clip: torch.Tensor
    picture: np.ndarray
    count: int = 1


@dataclass
class _Open:
    """A window that still lacks frames."""

    start: float  # in seconds
    last: float  # start of the last window that it stands for
    count: int = 1  # windows that it stands for
    frames: list[torch.Tensor] = field(default_factory=list)
    picture: np.ndarray | None = None

    def offer(self, shown: _Shown, until: float, step: float, num_frames: int) -> None:
        """Take the frame shown ``until`` then, as often as the window needs it."""
        while len(self.frames) < num_frames and (
            self.last + len(self.frames) * step < until - ROUNDING
        ):
            self.frames.append(shown.image)
            if len(self.frames) <= num_frames // 2 + 1:
                self.picture = shown.small

    def join(self, other: _Open) -> bool:
        """Stand for the next window too if its frames are the same; return whether they are."""
        same = all(a is b for a, b in zip(self.frames, other.frames, strict=True))
        if same:
            self.last, self.count = other.last, self.count + other.count
        return same

    def close(self, end: float) -> TimelineWindow:
        assert self.picture is not None  # the first frame sets it
        clip = torch.stack(self.frames, dim=1)
        return TimelineWindow(self.start, end, clip, self.picture, self.count)


class _Shown:
    """A decoded frame and, once requested, the part that the model sees."""

    def __init__(self, frame: av.VideoFrame, start: float, pixels: Pixels) -> None:
        self.frame, self.start, self.pixels = frame, start, pixels

    @cached_property
    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return np.rot90(rgb_image(self.frame, VideoReformatter()), count_turns(self.frame))

    @cached_property
    def image(self) -> torch.Tensor:
        """float32 (3, size, size)."""
        height, width = self.rgb.shape[:2]
        (crop,) = self.pixels.fixed(height, width, 1)
        out = np.empty((1, 3, 1, crop.size, crop.size), np.float32)
        resample(cut(self.rgb[None], crop), crop, self.pixels.normalisation(), [[(0, 0)]], out)
        return torch.from_numpy(out[0, :, 0])

    @cached_property
    def small(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return shrink(self.rgb)


def stream_windows(
    path: str, pixels: Pixels, *, num_frames: int, window: float, stride: float
) -> Generator[TimelineWindow, None, None]:
    """Decode a video once, from its start, and yield a clip for every window.

    Frame i of the window from ``s`` is the one shown at ``s + i * window / num_frames``. A last
    window that the video's end cuts off counts if at least half of it exists, with its last frame
    repeated; the first window counts in any case. Windows with the frames of the one before are
    merged into it. Only the frames of incomplete windows are held, at most ``window / stride *
    num_frames``.

    Args:
        path: the file.
        pixels: how frames become clips.
        num_frames: frames of a clip (T).
        window, stride: seconds per window, and from one window's start to the next.

    Raises:
        DataError: the file cannot be opened, or no frame can be decoded.
    """
    pending: _Open | None = None
    end = 0.0
    for one, until in _complete_windows(path, pixels, num_frames, window, stride):
        if pending is None or not pending.join(one):
            if pending is not None:
                yield pending.close(end)
            pending = one
        end = min(until, one.last + window)
    if pending is not None:
        yield pending.close(end)


def _complete_windows(
    path: str, pixels: Pixels, num_frames: int, window: float, stride: float
) -> Iterator[tuple[_Open, float]]:
    """Yield windows with all of their frames, and the second up to which the video is known."""
    waiting: deque[_Open] = deque()
    opened, step, until = 0, window / num_frames, 0.0
    with open_video(path, True) as reader:
        shown = None
        for shown, until in _showings(reader, pixels):
            while opened * stride < until - ROUNDING:
                # Windows that begin and end while this frame is shown, but for rounding, are one.
                alike = max(int((until - window) / stride) - opened, 1)
                waiting.append(_Open(opened * stride, (opened + alike - 1) * stride, alike))
                opened += alike
            for one in waiting:
                one.offer(shown, until, step, num_frames)
            while waiting and waiting[0].last + window < until + ROUNDING:
                yield waiting.popleft(), math.inf
        if shown is None or not opened:
            raise reader.failure("no frame can be decoded")
        if reader.error:
            logger.warning("%s: breaks off at %.1f s: %s", path, shown.start, reader.error)
    for one in waiting:
        if 2 * len(one.frames) >= num_frames or not one.start:
            # The video ended within the window: its last frame is repeated.
            one.frames += one.frames[-1:] * (num_frames - len(one.frames))
            yield one, until


def _showings(reader: VideoReader, pixels: Pixels) -> Iterator[tuple[_Shown, float]]:
    """Yield each frame and the second until which it is shown; skip frames that go back in time."""
    held: _Shown | None = None
    step = 1.0 / reader.fps
    for stamp, frame in reader.frames():
        now = (stamp - reader.start) * reader.tick
        if held is not None and now <= held.start:
            continue
        if now > LATEST:
            reader.error = f"a frame has a timestamp {now:.3g} s after the beginning"
            break
        if held is not None:
            # A gap lowers the average rate: the last frame is not shown longer than the one before.
            step = min(1.0 / reader.fps, now - held.start)
            yield held, now
        held = _Shown(frame, now, pixels)
    if held is not None:
        yield held, held.start + min(step, LATEST)
