"""Reading the wanted frames of a video with torchcodec: the frames of ``video_io``, or its help.

Frames are chosen by ``sampling.py`` from the presentation times of a file's packets, which are
read without decoding; torchcodec then decodes the chosen ones. This gives what ``video_io`` gives
only where each packet has a time of its own and becomes one frame. So a file is read by
``video_io`` instead where

* its codec has packets that give no frame, or packets are damaged or have no time of their own
  (AVI with B-frames: what PyAV makes up is not what torchcodec makes up);
* the container, the packets and torchcodec do not agree on the number of frames (edit lists), or
  torchcodec's frames do not have the times that were asked for;
* it is turned by its metadata: torchcodec turns the frames, published decoding does not;
* torchcodec fails.

The choice of frames is then the same. In damaged videos the pixels need not be: torchcodec may seek
past damage through which ``video_io`` decodes, or at which it gives up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from av.container import Flags

from openvclip.data.video import video_io, video_reader
from openvclip.data.video.sampling import (
    PUBLISHED,
    ClipRequest,
    Sampling,
    clip_window,
    counted_indices,
    window_indices,
)
from openvclip.data.video.video_io import Clips, Keep
from openvclip.utils.errors import ConfigError, first_line
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# FFmpeg's names of codecs of which every packet is a frame, as their usual containers hold them.
FRAME_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg"})
# Most bytes of the frames of a video that it may give in RGB at once.
AT_ONCE = 256 << 20
# What torchcodec raises: its C++ errors are RuntimeErrors.
TORCHCODEC_ERRORS = (
    RuntimeError, ValueError, IndexError, TypeError, AssertionError, OSError, MemoryError,
)


class _Unsuitable(Exception):
    """This file is one for ``video_io``; the text says why."""


def available() -> bool:
    """Return whether torchcodec can be imported."""
    try:
        load_decoder()
    except ConfigError:
        return False
    return True


def load_decoder(key: str = "DATA.DECODING_BACKEND") -> type:
    """Return torchcodec's VideoDecoder.

    Args:
        key: the config key that asks for it.

    Raises:
        ConfigError: torchcodec cannot be used; says what to do.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        problem = f"there is no module {error.name}"
    except (ImportError, RuntimeError, OSError) as error:
        # Where no FFmpeg fits, the text goes on for pages.
        problem = f"it cannot be loaded ({first_line(error)})"
    else:
        return VideoDecoder
    raise ConfigError(
        f"{key} torchcodec: {problem}; pip install torchcodec (it also needs FFmpeg's shared "
        f"libraries), or set {key} pyav"
    )


def read_clips(
    path: str,
    requests: Sequence[ClipRequest],
    sampling: Sampling,
    *,
    multi_thread: bool = False,
    keep: Keep | None = None,
) -> Clips:
    """Read the frames of all ``requests`` from a video; as :func:`video_io.read_clips`.

    Raises:
        DataError: the file is missing, has no video stream, or gives no frame for a clip.
    """
    try:
        return _read(path, requests, sampling, multi_thread, keep)
    except _Unsuitable as reason:
        logger.debug("%s: read by PyAV: %s", path, reason)
    return video_io.read_clips(path, requests, sampling, multi_thread=multi_thread, keep=keep)


def _read(
    path: str,
    requests: Sequence[ClipRequest],
    sampling: Sampling,
    multi_thread: bool,
    keep: Keep | None,
) -> Clips:
    with video_reader.open_video(path, multi_thread) as reader:
        stamps = _packet_stamps(reader)
        clips = choose_frames(
            stamps, requests, sampling, count=reader.count, fps=reader.fps,
            duration=reader.duration,
        )
        stream, base = reader.stream.index, float(reader.stream.time_base)
        codec = reader.stream.codec_context
        order = sorted({position for clip in clips for position in clip})
        if keep is not None and 3 * codec.width * codec.height * len(order) > AT_ONCE:
            raise _Unsuitable("its frames are large, and torchcodec gives all of them at once")
    times = np.array(stamps, np.float64) * base
    frames = _decode(path, stream, times, order, multi_thread)
    place = {position: number for number, position in enumerate(order)}
    return Clips(frames if keep is None else [keep(frame) for frame in frames],
                 [tuple(place[position] for position in clip) for clip in clips])


def _packet_stamps(reader: video_reader.VideoReader) -> list[int]:
    """Return the sorted ticks of the file's packets, each of which is one frame."""
    codec = reader.stream.codec_context.codec.canonical_name
    if codec not in FRAME_CODECS:
        raise _Unsuitable(f"{codec} packets need not be frames")
    # PyAV lets libavformat make up missing times; torchcodec does not.
    reader.container.flags &= ~Flags.gen_pts.value
    stamps = []
    try:
        for packet in reader.container.demux(reader.stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.pts is None or packet.is_corrupt:
                raise _Unsuitable("a packet is damaged or has no time")
            stamps.append(packet.pts)
    except video_reader.READ_ERRORS as error:
        raise _Unsuitable(f"cannot be read to its end: {error}") from error
    if not stamps or len(set(stamps)) != len(stamps):
        raise _Unsuitable("it has no packets, or several of the same time")
    if reader.count and reader.count != len(stamps):
        raise _Unsuitable(f"its container promises {reader.count} frames of {len(stamps)}")
    return sorted(stamps)


def choose_frames(
    stamps: Sequence[int],
    requests: Sequence[ClipRequest],
    sampling: Sampling,
    *,
    count: int,
    fps: float,
    duration: int,
) -> list[list[int]]:
    """Return the positions in ``stamps`` of each clip's frames, chosen as ``video_io`` does.

    Args:
        stamps: ticks of all frames, ascending.
        requests: the clips wanted.
        sampling: how clips are drawn.
        count: frames that the container promises, or 0.
        fps: average frame rate.
        duration: ticks that the container promises, or 0.
    """
    published = sampling.compat == PUBLISHED
    if published and count and duration:
        clips = []
        for request in requests:
            window = clip_window(sampling, request, count=count, fps=fps, duration=duration)
            first = bisect_left(stamps, window.start)
            # The first frame beyond the window belongs to it.
            end = min(bisect_right(stamps, window.end) + 1, len(stamps))
            if first >= end:
                break
            clips.append([first + i for i in window_indices(window, end - first)])
        else:
            return clips
    first = bisect_left(stamps, 0) if published else 0
    if first == len(stamps):
        raise _Unsuitable("all frames are before time 0")
    return [
        [first + i for i in counted_indices(sampling, request, count=len(stamps) - first, fps=fps)]
        for request in requests
    ]


def _decode(
    path: str, stream: int, times: np.ndarray, order: list[int], multi_thread: bool
) -> np.ndarray:
    """Decode the frames at positions ``order``; their times are ``times[order]`` seconds."""
    open_decoder = load_decoder()
    try:
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol.
        decoder = open_decoder(
            f"file:{path}", stream_index=stream, dimension_order="NHWC", device="cpu",
            num_ffmpeg_threads=0 if multi_thread else 1, seek_mode="exact",
        )
        _check_agreement(decoder, times)
        batch = decoder.get_frames_at(order)
        found, frames = batch.pts_seconds.numpy(), batch.data.numpy()
    except TORCHCODEC_ERRORS as error:
        raise _Unsuitable(f"torchcodec: {first_line(error)}") from error
    _check_times(found, times[order], times)
    if frames.dtype != np.uint8 or frames.shape[0] != len(order) or frames.shape[3:] != (3,):
        raise _Unsuitable(f"torchcodec gives {frames.dtype} {frames.shape}")
    return frames


def _check_agreement(decoder: Any, times: np.ndarray) -> None:
    """Raise _Unsuitable unless the decoder saw the packets that PyAV saw, and turns no frame."""
    if len(decoder) != len(times):
        raise _Unsuitable(f"torchcodec counts {len(decoder)} frames of {len(times)}")
    _check_times(np.array([decoder.metadata.begin_stream_seconds]), times[:1], times)
    if getattr(decoder.metadata, "rotation", None):
        raise _Unsuitable("its metadata turn it")


def _check_times(found: np.ndarray, wanted: np.ndarray, times: np.ndarray) -> None:
    """Raise _Unsuitable unless ``found`` is nearer to ``wanted`` than any two frames are."""
    slack = np.diff(times).min() / 4 if len(times) > 1 else 1e-3
    if found.shape != wanted.shape or (np.abs(found - wanted) > slack).any():
        raise _Unsuitable("torchcodec's frames have other times")
