"""Reading the wanted frames of a video with PyAV: path + clip requests -> uint8 frames.

A file is opened once for all clips wanted of it, decoding starts at the keyframe before the
first wanted frame of a group of clips and ends with the last, and only frames that a clip takes
are converted to RGB. Which frames are taken is decided in ``sampling.py``; the frames of a
window are found in the order in which the decoder gives them, as published.

Choices where files misbehave:

* What decodes decides: without a usable duration or frame count, or where a clip's window turns
  out empty although decoding ended well, frames are counted and the indices computed from that.
* A file that breaks off gives what it holds before the break, if each clip gets a frame.
* Frames without a timestamp are taken to follow each other at the average rate.
* Rotation metadata are ignored, as in published PyAV decoding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
from openvclip.utils.errors import DataError

# PyAV raises ValueError and ArithmeticError for header values that make no sense.
READ_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError)
# Decoding starts this many frames early: a frame's decoding time lies before its showing.
SEEK_MARGIN = 8
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
    """

    frames: np.ndarray
    indices: list[tuple[int, ...]]


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


@dataclass
class _Reader:
    """An open video stream that yields (tick, frame) and remembers what went wrong.

    Attributes:
        error: what ended decoding early.
        unsure: a seek failed or a frame had no timestamp, so that ticks hold only for decoding
            from the file's start.
        fps: average frame rate.
        count: frames that the container promises, or 0.
        duration: ticks that the container promises, or 0.
        frame_ticks: ticks from one frame to the next, on average.
    """

    path: str
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    error: Exception | None = None
    unsure: bool = False
    fps: float = field(init=False)
    count: int = field(init=False)
    duration: int = field(init=False)
    frame_ticks: float = field(init=False)

    def __post_init__(self) -> None:
        stream = self.stream
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        self.fps = float(rate) if rate and rate > 0 else 30.0
        self.count = max(stream.frames or 0, 0)
        self.duration = max(stream.duration or 0, 0)
        base = float(stream.time_base) if stream.time_base else 1.0 / self.fps
        self.frame_ticks = max(1.0 / (self.fps * base), 1.0)

    def frames(self, seek_to: float = 0.0) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from the keyframe before the tick ``seek_to`` (from here on, if 0)."""
        if seek_to > 0:
            try:
                self.container.seek(int(seek_to), stream=self.stream)
            except READ_ERRORS:
                self.unsure = True
        for number, frame in enumerate(self._decoded()):
            stamp = frame.pts
            if stamp is None:
                self.unsure = True
                stamp = int(number * self.frame_ticks)
            yield stamp, frame

    def _decoded(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self.container.demux(self.stream):
                yield from packet.decode()
        except READ_ERRORS as error:
            self.error = error
        else:
            return
        try:
            # Frames that wait in the decoder for their turn are good ones.
            yield from self.stream.codec_context.decode(None)
        except READ_ERRORS:
            return

    def packet_stamps(self) -> list[int]:
        """Return the sorted ticks of all packets, without decoding; empty if some have none."""
        stamps = set()
        try:
            for packet in self.container.demux(self.stream):
                if packet.size and not packet.is_discard:
                    if packet.pts is None:
                        return []
                    stamps.add(packet.pts)
        except READ_ERRORS:
            return []
        return sorted(stamps)

    def failure(self, what: str) -> DataError:
        reason = f": {self.error}" if self.error is not None else ""
        return DataError(f"{self.path}: {what}{reason}")


@contextmanager
def _open(path: str, multi_thread: bool) -> Iterator[_Reader]:
    try:
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be opened as a video: {error}") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(f"{path}: FFmpeg knows no decoder for its video stream")
        try:
            if multi_thread:
                stream.thread_type = "AUTO"
            else:
                stream.codec_context.thread_count = 1
            reader = _Reader(path, container, stream)
            yield reader
        except READ_ERRORS as error:
            raise DataError(f"{path}: cannot be decoded: {error}") from error


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

    def offer(self, stamp: int, frame: av.VideoFrame) -> None:
        if self.done or stamp < self.window.start:
            return
        self.done = stamp > self.window.end
        place = bisect_left(self.stamps, stamp)
        if place == len(self.stamps):
            self.last = frame
        else:
            self.slack = DISORDER
        if place == len(self.stamps) or self.stamps[place] != stamp:
            self.stamps.insert(place, stamp)
        if any(place + later in self.wanted for later in range(self.slack + 1)):
            self.held[stamp] = frame

    def chosen(self) -> list[int]:
        return [self.stamps[i] for i in window_indices(self.window, len(self.stamps))]

    def frames(self) -> dict[int, av.VideoFrame]:
        return {**self.held, self.stamps[-1]: self.last} if self.stamps else {}


def _read_windows(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool
) -> Clips | None:
    """Read clips by the published two stages; None where frames must be counted instead."""
    with _open(path, multi_thread) as reader:
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
    with _open(path, multi_thread) as reader:
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


def _scan(reader: _Reader, group: list[_Kept]) -> bool:
    """Fill the windows of a group; False where the seek before it cannot be trusted."""
    start = group[0].window.start
    seek_to = max(start - SEEK_MARGIN * reader.frame_ticks, 0.0)
    first = _offer_all(reader.frames(seek_to), group)
    return not seek_to or (first is not None and first <= start and not reader.unsure)


def _offer_all(frames: Iterable[tuple[int, av.VideoFrame]], group: list[_Kept]) -> int | None:
    """Offer frames to the windows until all are full; return the first frame's tick."""
    first = None
    for stamp, frame in frames:
        first = stamp if first is None else first
        for keep in group:
            keep.offer(stamp, frame)
        if all(keep.done for keep in group):
            break
    return first


def _clips_of(reader: _Reader, kept: list[_Kept], multi_thread: bool) -> Clips | None:
    empty = [number for number, keep in enumerate(kept) if not keep.stamps]
    if empty:
        if reader.error is None:
            return None
        raise reader.failure(f"breaks off before the first frame of clip {empty[0]}")
    chosen = [keep.chosen() for keep in kept]
    frames: dict[int, av.VideoFrame] = {}
    for keep in kept:
        frames.update(keep.frames())
    missing = {stamp for clip in chosen for stamp in clip} - frames.keys()
    if missing:
        # The decoder's order moved a frame further than foreseen: fetch it by its tick.
        with _open(reader.path, multi_thread) as again:
            again.frame_ticks = reader.frame_ticks
            frames.update(_fetch(again, missing))
    return _convert(reader, chosen, frames)


def _read_counted(
    path: str, requests: Sequence[ClipRequest], sampling: Sampling, multi_thread: bool
) -> Clips:
    """Read clips by counting frames: those that the packets promise, else those that decode."""
    # Published decoding keeps frames from tick 0 on.
    first = 0 if sampling.compat == PUBLISHED else None

    def choose(stamps: Iterable[int], fps: float) -> list[list[int]]:
        order = sorted({stamp for stamp in stamps if first is None or stamp >= first})
        if not order:
            return []
        return [
            [order[i] for i in counted_indices(sampling, request, count=len(order), fps=fps)]
            for request in requests
        ]

    with _open(path, multi_thread) as reader:
        chosen = choose(reader.packet_stamps(), reader.fps)
        wanted = {stamp for clip in chosen for stamp in clip}
        if wanted:
            lowest = min(wanted)
            # A seek to a tick that is never negative also rewinds what packet_stamps read.
            frames = _fetch(reader, wanted, max(lowest - SEEK_MARGIN * reader.frame_ticks, 1e-9))
            if len(frames) == len(wanted) and not reader.unsure:
                return _convert(reader, chosen, frames)
    with _open(path, multi_thread) as reader:
        chosen = choose([stamp for stamp, _ in reader.frames()], reader.fps)
        if not chosen:
            raise reader.failure("no frame can be decoded")
    with _open(path, multi_thread) as reader:
        frames = _fetch(reader, {stamp for clip in chosen for stamp in clip})
        return _convert(reader, chosen, frames)


def _fetch(reader: _Reader, wanted: set[int], seek_to: float = 0.0) -> dict[int, av.VideoFrame]:
    """Decode until all ticks ``wanted`` were seen; return their frames."""
    found: dict[int, av.VideoFrame] = {}
    for stamp, frame in reader.frames(seek_to):
        if stamp in wanted:
            found[stamp] = frame
            if len(found) == len(wanted):
                break
    return found


def _convert(
    reader: _Reader, chosen: list[list[int]], frames: dict[int, av.VideoFrame]
) -> Clips:
    """Convert the chosen frames, each once, to RGB."""
    order = sorted({stamp for clip in chosen for stamp in clip})
    reformatter = VideoReformatter()
    # One thread: swscale's own would fight with torch's and with other workers for the cores.
    images = [
        reformatter.reformat(frames[stamp], format="rgb24", threads=1).to_ndarray()
        for stamp in order
    ]
    if any(image.shape != images[0].shape for image in images):
        sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
        raise reader.failure(f"the frame size changes within a video ({', '.join(sizes)})")
    place = {stamp: number for number, stamp in enumerate(order)}
    return Clips(np.stack(images), [tuple(place[stamp] for stamp in clip) for clip in chosen])
