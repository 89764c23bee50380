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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain

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
# Pixels of a frame, 8192 x 4320 ("8K") being the largest that are in use.
MAX_PIXELS = 8192 * 4320
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
# How many frames early the second seek aims: a frame's decoding time lies before its showing.
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


@dataclass
class VideoReader:
    """An open video stream that yields (tick, frame) and remembers what went wrong.

    Attributes:
        error: what ended decoding early; as text, since the exception would refer back to this
            reader and so keep its frames in memory.
        unsure: a frame had no timestamp; ticks hold only for decoding from the file's start.
        fps: average frame rate.
        count: frames that the container promises, or 0.
        duration: ticks that the container promises, or 0.
        frame_ticks: ticks from one frame to the next, on average.
        tick: seconds of a tick.
        start: tick at which the stream begins.
        fresh: nothing was read yet, so that reading begins at the file's start.
    """

    path: str
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    error: str = ""
    unsure: bool = False
    fresh: bool = True
    fps: float = field(init=False)
    count: int = field(init=False)
    duration: int = field(init=False)
    frame_ticks: float = field(init=False)
    tick: float = field(init=False)
    start: int = field(init=False)

    def __post_init__(self) -> None:
        stream = self.stream
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        self.fps = float(rate) if rate and rate > 0 else 30.0
        self.count = max(stream.frames or 0, 0)
        self.duration = max(stream.duration or 0, 0)
        self.tick = float(stream.time_base) if stream.time_base else 1.0 / self.fps
        self.start = stream.start_time or 0
        self.frame_ticks = max(1.0 / (self.fps * self.tick), 1.0)

    def frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from here on."""
        for number, frame in enumerate(self._decoded()):
            stamp = frame.pts
            if stamp is None:
                self.unsure = True
                stamp = int(number * self.frame_ticks)
            yield stamp, frame

    def frames_from(self, start: int) -> Iterator[tuple[int, av.VideoFrame]] | None:
        """Decode from a keyframe at or before the tick ``start``; None if no seek finds one."""
        for margin in (0, SEEK_MARGIN):
            goal = start - margin * self.frame_ticks
            if goal <= 0 and self.fresh:
                return self.frames()
            try:
                self.container.seek(max(int(goal), 0), stream=self.stream)
            except READ_ERRORS:
                return None
            frames = self.frames()
            first = next(frames, None)
            # Frames that come before the keyframe may lack what they are predicted from.
            if first is not None and first[0] <= start and (margin or first[1].key_frame):
                return chain([first], frames)
            self.error = ""
        return None

    def _decoded(self) -> Iterator[av.VideoFrame]:
        self.fresh = False
        try:
            for packet in self.container.demux(self.stream):
                yield from packet.decode()
        except READ_ERRORS as error:
            self.error = str(error) or type(error).__name__
        if self.error:
            with suppress(*READ_ERRORS):
                # Frames that wait in the decoder for their turn are good ones.
                yield from self.stream.codec_context.decode(None)

    def packet_stamps(self) -> list[int]:
        """Return the sorted ticks of all packets, without decoding; empty if some have none."""
        stamps = set()
        self.fresh = False
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
        return DataError(f"{self.path}: {what}" + (f": {self.error}" if self.error else ""))


@contextmanager
def open_video(path: str, multi_thread: bool) -> Iterator[VideoReader]:
    """Open the first video stream of a file.

    Raises:
        DataError: it cannot be opened or read, or has no video stream that FFmpeg can decode.
    """
    try:
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore", options=DECODER_OPTIONS)
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be opened as a video: {error}") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:
            raise DataError(f"{path}: FFmpeg knows no decoder for its video stream")
        if codec.width * codec.height > MAX_PIXELS:
            raise DataError(
                f"{path}: has frames of {codec.width}x{codec.height}, more than {MAX_PIXELS} "
                "pixels; its header is damaged, or scale it down"
            )
        try:
            codec.options = DECODER_OPTIONS  # Frames can be larger than the header says.
            if multi_thread:
                codec.thread_type = "AUTO"
            else:
                codec.thread_count = 1
            yield VideoReader(path, container, stream)
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


def convert_frame(
    frame: av.VideoFrame, reformatter: VideoReformatter, image: np.ndarray
) -> None:
    """Convert a decoded frame to RGB, into ``image``: uint8 (H, W, 3), contiguous."""
    # One thread: swscale's own would fight with torch's and with other workers for the cores.
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(rgb, np.uint8).reshape(-1, rgb.line_size)
    height, width, _ = image.shape
    image.reshape(height, -1)[:] = rows[:, : 3 * width]
