"""Reading the wanted frames of a video with PyAV: path + clip requests -> uint8 frames.

A file is opened once for all clips to be read from it, decoding starts at the keyframe before the
first wanted frame of a group of clips and ends with the last, and only frames that a clip takes
are converted to RGB. A caller that needs only part of each frame passes ``keep``: frames are then
converted one by one and none is stored whole, so that three views of an 8192 x 4320 video take only
the memory of their crops. ``sampling.py`` decides which frames are taken; the frames of a window
are numbered in the order in which the decoder gives them, as published.

How misbehaving files are handled:

* The frames that decode decide: without a usable duration or frame count, or if a clip's window
  turns out empty although decoding ended well, frames are counted and indices computed from that.
* A file that breaks off gives the frames before the break, if each clip gets at least one.
* Frames without a timestamp are assumed to follow each other at the average rate; if frames are
  counted, a single one without a timestamp means that only their order counts.
* A keyframe found by a seek counts only if it is decoded first and is at or before the first
  wanted frame; else the seek aims earlier, and finally the file is read from its start.
* Rotation metadata are ignored, as in published PyAV decoding. Edit lists are applied: frames
  that they cut away do not exist.
* Frames of more than ``MAX_PIXELS`` pixels come from damaged headers; they are not decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from openvclip.data.video.sampling import (
    PUBLISHED,
    ClipRequest,
    Sampling,
    Window,
    clip_window,
    counted_indices,
    window_indices,
)
from openvclip.data.video.video_reader import VideoReader, open_video, rgb_image

# Clips further apart than this are reached by a seek instead of decoding the frames in between.
GAP_FRAMES = 300
# A decoder that gives frames out of order moves them by no more than this, or they are re-read.
DISORDER = 2
# Decoded frames that clips may take wait unconverted until they have this many bytes together.
WAITING_BYTES = 96 << 20

Keep = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Clips:
    """The clips of one video, each frame stored once.

    Attributes:
        frames: uint8 (U, H, W, 3), RGB, in presentation order; or a list of what was kept of each.
        indices: for each clip the F positions in ``frames``.
        seconds: when each frame is shown, from the stream's beginning; empty if unknown.
    """

    frames: np.ndarray | list[Any]
    indices: list[tuple[int, ...]]
    seconds: tuple[float, ...] = ()


def read_clips(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, *,
    multi_thread: bool = False, keep: Keep | None = None,
) -> Clips:
    """Read the frames of all ``requests`` from a video.

    Args:
        path: the file.
        requests: the clips to read.
        sampling: how clips are drawn.
        multi_thread: let FFmpeg decode with several threads; the frames are the same.
        keep: given a frame, uint8 RGB (H, W, 3), returns the part to keep, which must not refer to
            the frame's memory. It may be given frames that no clip takes in the end, and frames in
            any order, all of one size. None: whole frames are kept.

    Raises:
        DataError: the file is missing, has no video stream, or gives no frame for a clip.
    """
    if sampling.compat == PUBLISHED:
        clips = _read_windows(path, requests, sampling, multi_thread, keep)
        if clips is not None:
            return clips
    return _read_counted(path, requests, sampling, multi_thread, keep)


class _Frame:
    """A decoded frame (``raw``; None once it is converted), or what was kept of it (``part``)."""

    __slots__ = ("part", "raw", "size", "waits")

    def __init__(self, raw: av.VideoFrame) -> None:
        self.raw: av.VideoFrame | None = raw
        self.size = (raw.width, raw.height)
        self.part: Any = None
        self.waits = False  # whether a clip may take it


class _Converter:
    """Converts frames that clips take: all at the end, or earlier if they take much memory."""

    def __init__(self, reader: VideoReader, keep: Keep | None) -> None:
        self.reader, self.keep = reader, keep
        self.reformatter = VideoReformatter()
        self.waiting: list[_Frame] = []
        self.bytes = 0

    def hold(self, frame: _Frame) -> None:
        """Note that a clip may take a frame."""
        # Whole frames in RGB take more room than before.
        if frame.waits or self.keep is None or frame.raw is None:
            return
        frame.waits = True
        self.waiting.append(frame)
        self.bytes += sum(int(plane.buffer_size) for plane in frame.raw.planes)
        if self.bytes > WAITING_BYTES:
            self.check_sizes(self.waiting)
            for one in self.waiting:
                self.convert(one)
            # The last stays, to compare sizes with.
            self.waiting, self.bytes = self.waiting[-1:], 0

    def check_sizes(self, frames: Iterable[_Frame]) -> None:
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            raise self.reader.failure(f"the frame size changes within a video ({shown})")

    def convert(self, frame: _Frame) -> Any:
        """Return what is kept of a frame, and release the rest."""
        if frame.raw is not None and self.keep is not None:
            frame.part = self.keep(rgb_image(frame.raw, self.reformatter))
            frame.raw = None
        return frame.part

    def finish(self, frames: Sequence[_Frame]) -> np.ndarray | list[Any]:
        """Convert frames in their order."""
        self.check_sizes(frames)
        if self.keep is not None:
            return [self.convert(frame) for frame in frames]
        width, height = frames[0].size
        images = np.empty((len(frames), height, width, 3), np.uint8)
        for image, frame in zip(images, frames, strict=True):
            assert frame.raw is not None  # without ``keep`` no frame is converted before
            image[:] = rgb_image(frame.raw, self.reformatter)
            frame.raw = None
        return images


class _Kept:
    """The frames that one window keeps of those that a decoder gives, in any order."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.wanted = set(window.wanted)
        self.stamps: list[int] = []
        self.held: dict[int, _Frame] = {}
        self.last: _Frame | None = None
        self.slack = 0
        self.done = False

    def offer(self, stamp: int, frame: _Frame, converter: _Converter) -> bool:
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
            converter.hold(frame)
        if self.done and self.last is not None:
            converter.hold(self.last)
        return self.done

    def chosen(self) -> list[int]:
        return [self.stamps[i] for i in window_indices(self.window, len(self.stamps))]

    def frames(self) -> dict[int, _Frame]:
        return {**self.held, self.stamps[-1]: self.last} if self.last is not None else {}


def _read_windows(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool,
    keep: Keep | None,
) -> Clips | None:
    """Read clips in the published two stages; None if frames must be counted instead."""
    with open_video(path, multi_thread) as reader:
        if not reader.count or not reader.duration:
            return None
        kept = [
            _Kept(clip_window(sampling, request, count=reader.count, fps=reader.fps,
                              duration=reader.duration))
            for request in requests
        ]
        reader.frame_ticks = ticks = reader.duration / reader.count
        converter = _Converter(reader, keep)
        trusted = all([_scan(reader, group, converter) for group in _groups(kept, ticks)])
        if trusted:
            return _clips_of(reader, kept, multi_thread, converter)
    with open_video(path, multi_thread) as reader:
        kept = [_Kept(one.window) for one in kept]
        reader.frame_ticks = ticks
        converter = _Converter(reader, keep)
        _offer_all(reader.frames(), kept, converter)
        return _clips_of(reader, kept, multi_thread, converter)


def _groups(kept: Iterable[_Kept], frame_ticks: float) -> list[list[_Kept]]:
    """Group windows that are worth a single pass of the decoder."""
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


def _scan(reader: VideoReader, group: list[_Kept], converter: _Converter) -> bool:
    """Fill the windows of a group; False if the seek before it cannot be trusted."""
    sought = not reader.fresh or group[0].window.start > 0
    frames = reader.frames_from(group[0].window.start)
    if frames is None:
        return False
    _offer_all(frames, group, converter)
    return not (sought and reader.unsure)


def _offer_all(
    frames: Iterable[tuple[int, av.VideoFrame]], group: list[_Kept], converter: _Converter
) -> None:
    """Offer frames to the windows until all are full."""
    open_ones = list(group)
    for stamp, raw in frames:
        frame = _Frame(raw)
        if any([one.offer(stamp, frame, converter) for one in open_ones]):
            open_ones = [one for one in open_ones if not one.done]
            if not open_ones:
                break


def _clips_of(
    reader: VideoReader, kept: list[_Kept], multi_thread: bool, converter: _Converter
) -> Clips | None:
    empty = [number for number, one in enumerate(kept) if not one.stamps]
    if empty:
        if not reader.error:
            return None
        raise reader.failure(f"breaks off before the first frame of clip {empty[0]}")
    chosen = [one.chosen() for one in kept]
    frames: dict[int, _Frame] = {}
    for one in kept:
        frames.update(one.frames())
    missing = {stamp for clip in chosen for stamp in clip} - frames.keys()
    if missing:
        # The decoder's order moved a frame further than foreseen: fetch it by its tick.
        with open_video(reader.path, multi_thread) as again:
            again.frame_ticks = reader.frame_ticks
            frames.update(_fetch(again.frames(), missing, converter))
    return _convert(reader, chosen, frames, converter)


def _read_counted(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool,
    keep: Keep | None,
) -> Clips:
    """Read clips by counting frames: those that the packets declare, else those that decode."""
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
            converter = _Converter(reader, keep)
            frames = _fetch(reader.frames_from(min(wanted)) or [], wanted, converter)
            if len(frames) == len(wanted) and not reader.unsure:
                return _convert(reader, chosen, frames, converter)
    with open_video(path, multi_thread) as reader:
        stamps = [stamp for stamp, _ in reader.frames()]
        by_number = reader.unsure
        chosen = choose(range(len(stamps)) if by_number else stamps, reader.fps)
        if not chosen:
            raise reader.failure("no frame can be decoded")
    with open_video(path, multi_thread) as reader:
        decoded = ((n, frame) for n, (_, frame) in enumerate(reader.frames()))
        wanted = {stamp for clip in chosen for stamp in clip}
        converter = _Converter(reader, keep)
        frames = _fetch(decoded if by_number else reader.frames(), wanted, converter)
        clips = _convert(reader, chosen, frames, converter)
    if not by_number:
        return clips
    numbers = sorted({number for clip in chosen for number in clip})
    return replace(clips, seconds=tuple(number / reader.fps for number in numbers))


def _fetch(
    frames: Iterable[tuple[int, av.VideoFrame]], wanted: set[int], converter: _Converter
) -> dict[int, _Frame]:
    """Decode until all ticks ``wanted`` have been seen; return their frames."""
    fetched: dict[int, _Frame] = {}
    for stamp, raw in frames:
        if stamp in wanted:
            fetched[stamp] = _Frame(raw)
            converter.hold(fetched[stamp])
            if len(fetched) == len(wanted):
                break
    return fetched


def _convert(
    reader: VideoReader, chosen: list[list[int]], frames: dict[int, _Frame],
    converter: _Converter,
) -> Clips:
    """Convert the chosen frames, each once, to RGB."""
    order = sorted({stamp for clip in chosen for stamp in clip})
    if not frames.keys() >= set(order):
        raise reader.failure("does not decode to the same frames twice")
    place = {stamp: number for number, stamp in enumerate(order)}
    return Clips(
        converter.finish([frames[stamp] for stamp in order]),
        [tuple(place[stamp] for stamp in clip) for clip in chosen],
        tuple((stamp - reader.start) * reader.tick for stamp in order),
    )
