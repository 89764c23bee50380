"""Reading the wanted frames of a video with PyAV: path + clip requests -> uint8 frames.

A file is opened once for all clips wanted of it, decoding starts at the keyframe before the
first wanted frame of a group of clips and ends with the last, and only frames that a clip takes
are converted to RGB. Which frames are taken is decided in ``sampling.py``; the frames of a
window are found in the order in which the decoder gives them, as published.

Choices where files misbehave:

* What decodes decides: without a usable duration or frame count, or where a clip's window turns
  out empty although decoding ended well, frames are counted and the indices computed from that.
* A file that breaks off gives what it holds before the break, if each clip gets a frame.
* Frames without a timestamp are taken to follow each other at the average rate; where frames are
  counted, one without makes their order count alone.
* A keyframe found by a seek counts only if it is decoded first and lies at or before the first
  wanted frame; else the seek aims earlier, and at last the file is read from its start.
* Rotation metadata are ignored, as in published PyAV decoding. Edit lists are applied: frames
  that they cut away do not exist.
* Frames of more than ``MAX_PIXELS`` pixels come from damaged headers; they are not decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from openvclip.data.sampling import (
    PUBLISHED,
    ClipRequest,
    Sampling,
    Window,
    clip_window,
    counted_indices,
    window_indices,
)
from openvclip.data.video_reader import VideoReader, convert_frame, open_video

# Clips further apart than this are reached by a seek instead of decoding what lies between.
GAP_FRAMES = 300
# A decoder that gives frames out of order moves them by no more than this, or they are re-read.
DISORDER = 2


@dataclass(frozen=True)
class Clips:
    """The clips of one video, each frame held once.

    Attributes:
        frames: uint8 (U, H, W, 3), RGB, in presentation order.
        indices: for each clip the F positions in ``frames``.
        seconds: when each frame is shown, from the stream's beginning; empty if not known.
    """

    frames: np.ndarray
    indices: list[tuple[int, ...]]
    seconds: tuple[float, ...] = ()


def read_clips(
    path: str,
    requests: Sequence[ClipRequest],
    sampling: Sampling,
    *,
    multi_thread: bool = False,
) -> Clips:
    """Read the frames of all ``requests`` from a video.

    Args:
        path: the file.
        requests: the clips wanted.
        sampling: how clips are drawn.
        multi_thread: let FFmpeg decode with several threads; the frames are the same.

    Raises:
        DataError: the file is missing, has no video stream, or gives no frame for a clip.
    """
    if sampling.compat == PUBLISHED:
        clips = _read_windows(path, requests, sampling, multi_thread)
        if clips is not None:
            return clips
    return _read_counted(path, requests, sampling, multi_thread)


class _Kept:
    """What one window keeps of the frames that a decoder gives, in whatever order they come."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.wanted = set(window.wanted)
        self.stamps: list[int] = []
        self.held: dict[int, av.VideoFrame] = {}
        self.last: av.VideoFrame | None = None
        self.slack = 0
        self.done = False

    def offer(self, stamp: int, frame: av.VideoFrame) -> bool:
        """Take a frame if it is in the window; return whether the window is now full."""
        if self.done or stamp < self.window.start:
            return self.done
        self.done = stamp > self.window.end
        place = len(self.stamps)
        if not place or stamp > self.stamps[-1]:
            self.stamps.append(stamp)
            self.last = frame
        else:
            self.slack = DISORDER
            place = bisect_left(self.stamps, stamp)
            if self.stamps[place] != stamp:
                self.stamps.insert(place, stamp)
        if not self.wanted.isdisjoint(range(place, place + self.slack + 1)):
            self.held[stamp] = frame
        return self.done

    def chosen(self) -> list[int]:
        return [self.stamps[i] for i in window_indices(self.window, len(self.stamps))]

    def frames(self) -> dict[int, av.VideoFrame]:
        return {**self.held, self.stamps[-1]: self.last} if self.stamps else {}


def _read_windows(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool
) -> Clips | None:
    """Read clips by the published two stages; None where frames must be counted instead."""
    with open_video(path, multi_thread) as reader:
        if not reader.count or not reader.duration:
            return None
        kept = [
            _Kept(clip_window(sampling, request, count=reader.count, fps=reader.fps,
                              duration=reader.duration))
            for request in requests
        ]
        reader.frame_ticks = ticks = reader.duration / reader.count
        trusted = all([_scan(reader, group) for group in _groups(kept, ticks)])
        if trusted:
            return _clips_of(reader, kept, multi_thread)
    with open_video(path, multi_thread) as reader:
        kept = [_Kept(keep.window) for keep in kept]
        reader.frame_ticks = ticks
        _offer_all(reader.frames(), kept)
        return _clips_of(reader, kept, multi_thread)


def _groups(kept: Iterable[_Kept], frame_ticks: float) -> list[list[_Kept]]:
    """Put windows that are worth one pass of the decoder together."""
    groups: list[list[_Kept]] = []
    end = 0
    for keep in sorted(kept, key=lambda keep: keep.window.start):
        if groups and keep.window.start <= end + GAP_FRAMES * frame_ticks:
            groups[-1].append(keep)
            end = max(end, keep.window.end)
        else:
            groups.append([keep])
            end = keep.window.end
    return groups


def _scan(reader: VideoReader, group: list[_Kept]) -> bool:
    """Fill the windows of a group; False where the seek before it cannot be trusted."""
    sought = not reader.fresh or group[0].window.start > 0
    frames = reader.frames_from(group[0].window.start)
    if frames is None:
        return False
    _offer_all(frames, group)
    return not (sought and reader.unsure)


def _offer_all(frames: Iterable[tuple[int, av.VideoFrame]], group: list[_Kept]) -> None:
    """Offer frames to the windows until all are full."""
    open_ones = list(group)
    for stamp, frame in frames:
        if any([keep.offer(stamp, frame) for keep in open_ones]):
            open_ones = [keep for keep in open_ones if not keep.done]
            if not open_ones:
                break


def _clips_of(reader: VideoReader, kept: list[_Kept], multi_thread: bool) -> Clips | None:
    empty = [number for number, keep in enumerate(kept) if not keep.stamps]
    if empty:
        if not reader.error:
            return None
        raise reader.failure(f"breaks off before the first frame of clip {empty[0]}")
    chosen = [keep.chosen() for keep in kept]
    frames: dict[int, av.VideoFrame] = {}
    for keep in kept:
        frames.update(keep.frames())
    missing = {stamp for clip in chosen for stamp in clip} - frames.keys()
    if missing:
        # The decoder's order moved a frame further than foreseen: fetch it by its tick.
        with open_video(reader.path, multi_thread) as again:
            again.frame_ticks = reader.frame_ticks
            frames.update(_fetch(again.frames(), missing))
    return _convert(reader, chosen, frames)


def _read_counted(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool
) -> Clips:
    """Read clips by counting frames: those that the packets promise, else those that decode."""
    # Published decoding keeps frames from tick 0 on.
    first = 0 if sampling.compat == PUBLISHED else None

    def choose(stamps: Iterable[int], fps: float) -> list[list[int]]:
        order = sorted({stamp for stamp in stamps if first is None or stamp >= first})
        return [
            [order[i] for i in counted_indices(sampling, request, count=len(order), fps=fps)]
            for request in requests if order
        ]

    with open_video(path, multi_thread) as reader:
        chosen = choose(reader.packet_stamps(), reader.fps)
        wanted = {stamp for clip in chosen for stamp in clip}
        if wanted:
            frames = _fetch(reader.frames_from(min(wanted)) or [], wanted)
            if len(frames) == len(wanted) and not reader.unsure:
                return _convert(reader, chosen, frames)
    with open_video(path, multi_thread) as reader:
        stamps = [stamp for stamp, _ in reader.frames()]
        by_number = reader.unsure
        chosen = choose(range(len(stamps)) if by_number else stamps, reader.fps)
        if not chosen:
            raise reader.failure("no frame can be decoded")
    with open_video(path, multi_thread) as reader:
        decoded = ((n, frame) for n, (_, frame) in enumerate(reader.frames()))
        wanted = {stamp for clip in chosen for stamp in clip}
        frames = _fetch(decoded if by_number else reader.frames(), wanted)
        clips = _convert(reader, chosen, frames)
    if not by_number:
        return clips
    numbers = sorted({number for clip in chosen for number in clip})
    return replace(clips, seconds=tuple(number / reader.fps for number in numbers))


def _fetch(
    frames: Iterable[tuple[int, av.VideoFrame]], wanted: set[int]
) -> dict[int, av.VideoFrame]:
    """Decode until all ticks ``wanted`` were seen; return their frames."""
    found: dict[int, av.VideoFrame] = {}
    for stamp, frame in frames:
        if stamp in wanted:
            found[stamp] = frame
            if len(found) == len(wanted):
                break
    return found


def _convert(
    reader: VideoReader, chosen: list[list[int]], frames: dict[int, av.VideoFrame]
) -> Clips:
    """Convert the chosen frames, each once, to RGB."""
    order = sorted({stamp for clip in chosen for stamp in clip})
    if not frames.keys() >= set(order):
        raise reader.failure("does not decode to the same frames twice")
    sizes = {(frames[stamp].width, frames[stamp].height) for stamp in order}
    if len(sizes) > 1:
        found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise reader.failure(f"the frame size changes within a video ({found})")
    ((width, height),) = sizes
    images = np.empty((len(order), height, width, 3), np.uint8)
    reformatter = VideoReformatter()
    for image, stamp in zip(images, order, strict=True):
        convert_frame(frames[stamp], reformatter, image)
    place = {stamp: number for number, stamp in enumerate(order)}
    return Clips(
        images, [tuple(place[stamp] for stamp in clip) for clip in chosen],
        tuple((stamp - reader.start) * reader.tick for stamp in order),
    )
