"""Reading videos that are in no list, with times."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace

import av
import numpy as np
from PIL import Image

from openvclip.data.video.keeping import LARGE
from openvclip.data.video.sampling import EXACT, ClipRequest, Sampling, clip_size
from openvclip.data.video.video_io import Clips, Keep, read_clips
from openvclip.data.video.video_reader import open_video

THUMBNAIL = 240  # Longest side of the small pictures, in pixels.
# Videos with larger frames are read one after another, however many threads read.
_ONE_LARGE = threading.Lock()
PIXELS_A_SIDE = 8  # Pixels of a frame, along a side, of which one of a small picture is made.


@dataclass(frozen=True)
class VideoFacts:
    """What a file says about its video; 0 if it does not say.

    Attributes:
        fps: average frame rate.
        count: frames.
        seconds: duration.
        turns: counter-clockwise quarter turns by which players rotate its frames.
        pixels: pixels per frame.
    """

    fps: float
    count: int
    seconds: float
    turns: int
    pixels: int


def probe(path: str) -> VideoFacts:
    """Read the frame rate, frame count, duration and rotation of a video.

    Raises:
        DataError: the file cannot be opened, or has no video stream.
    """
    with open_video(path, False) as reader:
        seconds = reader.duration * reader.tick or (reader.container.duration or 0) / 1e6
        _, first = next(reader.frames(), (0, None))
        turns, pixels = (0, 0) if first is None else (
            count_turns(first), first.width * first.height)
        count = reader.count
    if not count:
        with open_video(path, False) as reader:
            count = len(reader.packet_stamps())
    return VideoFacts(reader.fps, count, seconds or count / reader.fps, turns, pixels)


def count_turns(frame: av.VideoFrame) -> int:
    """Return the counter-clockwise quarter turns that bring a frame upright."""
    return round(frame.rotation / 90) % 4


def read_views(
    path: str, sampling: Sampling, views: int, as_tested: bool = False, keep: Keep | None = None
) -> tuple[Clips, VideoFacts]:
    """Read ``views`` clips spread over a video, as a test does.

    In a video that is shorter than a clip, the frames of one clip are spread over the whole video,
    while a test would repeat the last frame. Frames are rotated as the file says, as phones write
    it; tests leave them as they are stored. ``as_tested`` treats both as a test does. ``keep``, see
    :func:`openvclip.data.video.video_io.read_clips`, is given rotated frames.

    Raises:
        DataError: the file cannot be read.
    """
    facts = probe(path)
    if not as_tested and 0 < facts.count < clip_size(sampling, ClipRequest(), facts.fps):
        rate = (facts.count - 1) / max(sampling.num_frames - 1, 1) / facts.fps
        sampling = replace(sampling, sampling_rate=rate * sampling.target_fps, compat=EXACT)
        views = 1
    turns = 0 if as_tested else facts.turns
    take = np.copy if keep is None else keep
    with _ONE_LARGE if facts.pixels > LARGE else nullcontext():
        clips = read_clips(path, [ClipRequest(v, views) for v in range(views)], sampling,
                           keep=lambda image: take(np.rot90(image, turns)))
    return clips if keep else replace(clips, frames=np.stack(list(clips.frames))), facts


def shrink(image: np.ndarray) -> np.ndarray:
    """Scale uint8 (H, W, 3) down until no side is longer than ``THUMBNAIL``."""
    # Of a large frame every n-th pixel will do: Pillow would copy it twice.
    step = max(max(image.shape) // (PIXELS_A_SIDE * THUMBNAIL), 1)
    picture = Image.fromarray(np.ascontiguousarray(image[::step, ::step]))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)
