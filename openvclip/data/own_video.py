"""Videos that are in no list: found by name, read with times, and read as a stream of windows."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from openvclip.data.dataset import Pixels
from openvclip.data.prepare.scan import scan_videos
from openvclip.data.resample import cut, resample
from openvclip.data.sampling import EXACT, ClipRequest, Sampling, clip_size
from openvclip.data.video_io import Clips, VideoReader, convert_frame, open_video, read_clips
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

THUMBNAIL = 240  # Longest side of the small pictures, in pixels.
ROUNDING = 1e-6  # Seconds by which sums of times may be off.


def find_videos(names: Sequence[str]) -> list[str]:
    """Return the videos that files, folders (at any depth) and glob patterns name, each once.

    A file that is named, or that a pattern matches, is taken whatever its extension.

    Raises:
        DataError: something does not exist, a pattern matches nothing, or a folder has no video.
    """
    found: dict[str, None] = {}
    for name in names:
        # A file of that very name first: names of videos may have brackets.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            what = "matches no file" if glob.has_magic(name) else "does not exist"
            raise DataError(f"--video: {name!r} {what}; check the path")
        for match in matches:
            inside = _videos_below(match) if os.path.isdir(match) else [match]
            if not inside and match == name:
                raise DataError(f"--video: the folder {name!r} has no videos in it")
            found.update(dict.fromkeys(inside))
    if not found:
        raise DataError(f"--video: no videos in {', '.join(map(repr, names)) or 'an empty list'}")
    return list(found)


def _videos_below(folder: str) -> list[str]:
    return [os.path.join(folder, path) for path in scan_videos(folder).paths]


@dataclass(frozen=True)
class VideoFacts:
    """What a file says of its video, before any frame is decoded; 0 where it does not say.

    Attributes:
        fps: average frame rate.
        count: frames.
        seconds: duration.
        turns: quarter turns, counter-clockwise, by which players turn its frames.
    """

    fps: float
    count: int
    seconds: float
    turns: int = 0


def probe(path: str) -> VideoFacts:
    """Read the frame rate, frame count and duration of a video, and how it is turned.

    Raises:
        DataError: the file cannot be opened, or has no video stream.
    """
    with open_video(path, False) as reader:
        seconds = reader.duration * reader.tick or (reader.container.duration or 0) / 1e6
        _, first = next(reader.frames(), (0, None))
        turns = 0 if first is None else count_turns(first)
        count = reader.count
    if not count:
        with open_video(path, False) as reader:
            count = len(reader.packet_stamps())
    return VideoFacts(reader.fps, count, seconds or count / reader.fps, turns)


def count_turns(frame: av.VideoFrame) -> int:
    """Return the quarter turns, counter-clockwise, that bring a frame upright."""
    return round(frame.rotation / 90) % 4


def read_views(
    path: str, sampling: Sampling, views: int, as_tested: bool = False
) -> tuple[Clips, VideoFacts]:
    """Read ``views`` clips spread over a video, as a test does.

    Of a video that is shorter than a clip, the frames of one clip are spread over all of it, where
    a test would repeat the last frame. Frames are turned as the file says, as phones write it;
    tests leave them as they are stored.

    Args:
        path: the file.
        sampling: how clips are drawn.
        views: how many.
        as_tested: do with short and with turned videos what a test does.

    Raises:
        DataError: the file cannot be read.
    """
    facts = probe(path)
    if not as_tested and 0 < facts.count < clip_size(sampling, ClipRequest(), facts.fps):
        rate = (facts.count - 1) / max(sampling.num_frames - 1, 1) / facts.fps
        sampling = replace(sampling, sampling_rate=rate * sampling.target_fps, compat=EXACT)
        views = 1
    clips = read_clips(path, [ClipRequest(v, views) for v in range(views)], sampling)
    if facts.turns and not as_tested:
        upright = np.ascontiguousarray(np.rot90(clips.frames, facts.turns, axes=(1, 2)))
        clips = replace(clips, frames=upright)
    return clips, facts


@dataclass(frozen=True)
class Window:
    """A clip of a stretch of a video.

    Attributes:
        start: seconds from the video's beginning.
        end: likewise; where the video ends within the window, that.
        clip: float32 (3, T, size, size), normalised.
        picture: uint8 (h, w, 3), the frame in its middle, small.
    """

    start: float
    end: float
    clip: torch.Tensor
    picture: np.ndarray


@dataclass
class _Open:
    """A window that waits for more of its frames."""

    start: float
    frames: list[torch.Tensor] = field(default_factory=list)
    picture: np.ndarray | None = None

    def offer(self, shown: _Shown, until: float, step: float, num_frames: int) -> None:
        """Take what is shown ``until`` then, as often as the window asks for it."""
        while len(self.frames) < num_frames and (
            self.start + len(self.frames) * step < until - ROUNDING
        ):
            self.frames.append(shown.image)
            if len(self.frames) <= num_frames // 2 + 1:
                self.picture = shown.small

    def close(self, end: float, num_frames: int) -> Window:
        missing = num_frames - len(self.frames)
        clip = torch.stack(self.frames + self.frames[-1:] * missing, dim=1)
        return Window(self.start, end, clip, self.picture)


class _Shown:
    """A decoded frame and, once something asks for it, what the model sees of it."""

    def __init__(self, frame: av.VideoFrame, start: float, pixels: Pixels) -> None:
        self.frame, self.start, self.pixels = frame, start, pixels

    @cached_property
    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        rgb = np.empty((self.frame.height, self.frame.width, 3), np.uint8)
        convert_frame(self.frame, VideoReformatter(), rgb)
        return np.ascontiguousarray(np.rot90(rgb, count_turns(self.frame)))

    @cached_property
    def image(self) -> torch.Tensor:
        """float32 (3, size, size)."""
        (crop,) = self.pixels.fixed(*self.rgb.shape[:2], 1)
        out = np.empty((1, 3, 1, crop.size, crop.size), np.float32)
        resample(cut(self.rgb[None], crop), crop, self.pixels.normalisation(), [[(0, 0)]], out)
        return torch.from_numpy(out[0, :, 0])

    @cached_property
    def small(self) -> np.ndarray:
        """uint8 (h, w, 3), see :func:`shrink`."""
        return shrink(self.rgb)


def shrink(image: np.ndarray) -> np.ndarray:
    """Scale uint8 (H, W, 3) down until no side is longer than ``THUMBNAIL``."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)


def stream_windows(
    path: str, pixels: Pixels, *, num_frames: int, window: float, stride: float
) -> Iterator[Window]:
    """Decode a video once, from its start, and yield a clip for every window.

    Frame i of the window from ``s`` is the one that is shown at ``s + i * window / num_frames``. A
    last window that the video's end cuts counts where half of it is there, its last frame repeated;
    so does the first one, whatever there is of it. Only the frames of windows that are not complete
    are held, ``window / stride * num_frames`` at most.

    Args:
        path: the file.
        pixels: what becomes of the frames.
        num_frames: frames of a clip (T).
        window: seconds of a window.
        stride: seconds from one window's start to the next.

    Raises:
        DataError: the file cannot be opened, or no frame can be decoded.
    """
    waiting: deque[_Open] = deque()
    opened, step, until = 0, window / num_frames, 0.0
    with open_video(path, True) as reader:
        shown = None
        for shown, until in _showings(reader, pixels):
            while opened * stride < until - ROUNDING:
                waiting.append(_Open(opened * stride))
                opened += 1
            for one in waiting:
                one.offer(shown, until, step, num_frames)
            while waiting and waiting[0].start + window < until + ROUNDING:
                one = waiting.popleft()
                yield one.close(one.start + window, num_frames)
        if shown is None:
            raise reader.failure("no frame can be decoded")
        if reader.error:
            logger.warning("%s: breaks off at %.1f s: %s", path, shown.start, reader.error)
    for one in waiting:
        if 2 * len(one.frames) >= num_frames or not one.start:
            yield one.close(min(until, one.start + window), num_frames)


def _showings(reader: VideoReader, pixels: Pixels) -> Iterator[tuple[_Shown, float]]:
    """Yield each frame and the second until which it is shown; frames that go back are left out."""
    held: _Shown | None = None
    for stamp, frame in reader.frames():
        now = (stamp - reader.start) * reader.tick
        if held is not None and now <= held.start:
            continue
        if held is not None:
            yield held, now
        held = _Shown(frame, now, pixels)
    if held is not None:
        yield held, held.start + 1.0 / reader.fps
