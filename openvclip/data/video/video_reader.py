"""One open video file: its properties, and its frames in the order the decoder gives them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from openvclip.utils.errors import DataError

# PyAV raises ValueError and ArithmeticError for header values that make no sense.
READ_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError)
# Most pixels of a frame: 8192 x 4320 ("8K") is the largest size in use.
MAX_PIXELS = 8192 * 4320
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
# How many frames early the second seek aims: a frame's decoding time lies before its showing.
SEEK_MARGIN = 8
# FFmpeg's own choice is no more than this; what the frames that threads decode may take together.
AUTO_THREADS = 16
THREADS_BYTES = 256 << 20
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
         stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass
class VideoReader:
    """An open video stream that yields (tick, frame) and remembers what went wrong.

    Attributes:
        error: what ended decoding early; as text, since the exception would refer back to this
            reader and so keep its frames in memory.
        unsure: a frame had no timestamp; ticks hold only for decoding from the file's start.
        fps: average frame rate.
        count: frames that the container declares, or 0.
        duration: ticks that the container declares, or 0.
        frame_ticks: ticks from one frame to the next, on average.
        tick: seconds of a tick.
        start: tick at which the stream begins.
        fresh: nothing has been read yet, so reading begins at the file's start.
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
        """Decode from the current position on."""
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
            self.error = explain_read_error(error)
        if self.error:
            with suppress(*READ_ERRORS):
                # Frames still waiting in the decoder are good ones.
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


def explain_read_error(error: BaseException) -> str:
    """Say in one line what FFmpeg or the system reported, without its number or function."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(why.split())


def irregular(path: str) -> str:
    """Say why a path is not a readable file, "" if it is; opening a FIFO may wait forever."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path.
        return getattr(error, "strerror", None) or str(error)
    return "" if kind == stat.S_IFREG else f"it is {KINDS.get(kind, 'not a regular file')}"


@contextmanager
def open_video(path: str, multi_thread: bool) -> Iterator[VideoReader]:
    """Open the first video stream of a file.

    Raises:
        DataError: it cannot be opened or read, or has no video stream that FFmpeg can decode.
    """
    wrong = irregular(path)
    if wrong:
        name = path.replace("\0", "\\0")
        raise DataError(f"{name}: cannot be opened as a video: {wrong}")
    try:
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore", options=DECODER_OPTIONS)
    except READ_ERRORS as error:
        why = explain_read_error(error)
        raise DataError(f"{path}: cannot be opened as a video: {why}") from error
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
                most = THREADS_BYTES // max(2 * codec.width * codec.height, 1)
                if most < AUTO_THREADS:  # Each thread holds frames of its own.
                    codec.thread_count = max(1, min(most, os.cpu_count() or 1))
            else:
                codec.thread_count = 1
            yield VideoReader(path, container, stream)
        except READ_ERRORS as error:
            raise DataError(f"{path}: cannot be decoded: {explain_read_error(error)}") from error


def rgb_image(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a decoded frame to RGB: uint8 (H, W, 3), whose rows may have gaps between them."""
    # One thread: swscale's own would fight with torch's and with other workers for the cores.
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    return np.ndarray((frame.height, frame.width, 3), np.uint8, rgb, strides=(rgb.line_size, 3, 1))
