"""The videos of a benchmark, the frames that their clips take, and a bare decode of those.

The floor of a clip is the work that no implementation can avoid: the decoder's, from the keyframe
before the first wanted frame to the last wanted one. If views are so far apart that a keyframe
comes between them, the frames that a seek would skip are not counted either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from openvclip.data.prepare.names import is_video
from openvclip.data.video.sampling import (
    ClipRequest,
    Sampling,
    clip_window,
    counted_indices,
    window_indices,
)
from openvclip.utils.errors import ConfigError, DataError

# By how many frames an encoder moves a keyframe ahead of those shown before it, at most.
REORDERED = 4
READ_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError)


def find_videos(names: Sequence[str]) -> list[Path]:
    """Return the named files and the videos in the named folders, each once.

    Raises:
        ConfigError: a name does not exist.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            paths += sorted(p for p in path.rglob("*") if is_video(p.name) and p.is_file())
        elif path.exists():
            paths.append(path)
        else:
            raise ConfigError(f"--videos: {path} does not exist; give files or folders of videos")
    return list(dict.fromkeys(path.resolve() for path in paths))


def write_clip(
    path: Path, *, seed: int, width: int = 340, height: int = 256, frames: int = 300, fps: int = 30
) -> Path:
    """Write an H.264 clip: a camera that pans over a texture, a moving block, and noise."""
    draws = np.random.default_rng(seed)
    scene = np.full((2 * height, 2 * width, 3), 110.0)
    for cell in (64, 16, 4):
        grid = draws.normal(0, 25, (2 * height // cell + 1, 2 * width // cell + 1, 3))
        scene += grid.repeat(cell, 0).repeat(cell, 1)[: 2 * height, : 2 * width]
    noise = draws.normal(0, 2, (height + 64, width + 64, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "23"}
        for number in range(frames):
            x = int((np.sin(number / 40 + seed) + 1) * width / 2)
            y = int((np.cos(number / 61) + 1) * height / 2)
            image = scene[y:y + height, x:x + width].copy()
            image[height // 3:height // 2, number * 3 % width:][:, : width // 6] = 200.0
            down, right = draws.integers(0, 64, 2)
            image += noise[down:down + height, right:right + width]
            picture = image.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@contextmanager
def open_stream(
    path: str,
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """Open a video's first video stream for decoding with one thread."""
    with av.open(f"file:{path}") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


@dataclass(frozen=True)
class Survey:
    """The result of decoding a whole file.

    Attributes:
        path: the file.
        codec: name of the decoder.
        width: of the frames.
        height: of the frames.
        fps: average frame rate.
        count: frames that the container declares, or 0.
        duration: ticks that the container declares, or 0.
        stamps: tick of each frame, in the decoder's order.
        keys: indices of the keyframes in ``stamps``.
    """

    path: str
    codec: str
    width: int
    height: int
    fps: float
    count: int
    duration: int
    stamps: tuple[int, ...]
    keys: tuple[int, ...]


def survey(path: Path) -> Survey:
    """Decode a whole file.

    Raises:
        DataError: it cannot be decoded to its end, or its frames have no timestamps.
    """
    stamps: list[int] = []
    keys: list[int] = []
    try:
        with av.open(f"file:{path}") as container:
            if not container.streams.video or not container.streams.video[0].codec_context:
                raise DataError(f"{path}: has no video stream that FFmpeg can decode")
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                if frame.pts is None:
                    raise DataError(f"{path}: has frames without timestamps")
                if frame.key_frame:
                    keys.append(len(stamps))
                stamps.append(frame.pts)
            if not stamps:
                raise DataError(f"{path}: no frame can be decoded")
            rate = stream.average_rate or stream.guessed_rate or 30
            return Survey(
                str(path), stream.codec_context.name, stream.width, stream.height, float(rate),
                max(stream.frames, 0), max(stream.duration or 0, 0), tuple(stamps), tuple(keys),
            )
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be decoded to its end: {error}") from error


def clip_stamps(
    video: Survey, requests: Sequence[ClipRequest], sampling: Sampling
) -> list[list[int]]:
    """Return the ticks of the F frames of each clip."""
    if video.count and video.duration:
        windows = [_window_stamps(video, request, sampling) for request in requests]
        if all(windows):
            return windows
    order = sorted({stamp for stamp in video.stamps if stamp >= 0})
    return [
        [order[i] for i in counted_indices(sampling, request, count=len(order), fps=video.fps)]
        for request in requests
    ]


def _window_stamps(video: Survey, request: ClipRequest, sampling: Sampling) -> list[int]:
    window = clip_window(
        sampling, request, count=video.count, fps=video.fps, duration=video.duration
    )
    kept = set()
    for stamp in video.stamps:
        if stamp >= window.start:
            kept.add(stamp)
            if stamp > window.end:
                break
    order = sorted(kept)
    return [order[i] for i in window_indices(window, len(order))] if order else []


@dataclass(frozen=True)
class Pass:
    """One run of the decoder.

    Attributes:
        seek_to: tick that leads to the keyframe to begin at; None for the file's start.
        frames: how many frames the decoder gives up to and including the last wanted one.
    """

    seek_to: int | None
    frames: int


def plan_floor(video: Survey, clips: Sequence[Sequence[int]]) -> list[Pass]:
    """Return the fewest frames to decode for clips of the given ticks, as decoder passes."""
    place = {stamp: number for number, stamp in reversed(list(enumerate(video.stamps)))}
    spans: list[tuple[int, int]] = []
    for first, last in sorted(
        (_key_before(video, min(places)), max(places))
        for places in ([place[stamp] for stamp in clip] for clip in clips)
    ):
        if spans and first <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    wanted = {place[stamp] for clip in clips for stamp in clip}
    passes = [_reach(video, span, wanted) for span in spans]
    whole = Pass(None, spans[-1][1] + 1)
    unreached = any(part.seek_to is None for part in passes[1:])
    # Where seeks lead too far back, one pass from the file's start is less work.
    if unreached or sum(part.frames for part in passes) > whole.frames:
        return [whole]
    return passes


def _key_before(video: Survey, number: int) -> int:
    return max((key for key in video.keys if key <= number), default=0)


def _reach(video: Survey, span: tuple[int, int], wanted: set[int]) -> Pass:
    """Find the latest keyframe from which all wanted frames of a span come out, by trying."""
    first, last = span
    needed = {video.stamps[number] for number in wanted if first <= number <= last}
    while first > 0:
        # Containers index keyframes by decoding time, a few frames before they are shown.
        passes: list[Pass] = []
        for target in range(first, max(first - REORDERED, 0) - 1, -1):
            count = _frames_until(video, video.stamps[target], needed)
            if count is not None:
                passes.append(Pass(video.stamps[target], count))
                if count <= last - first + 1:
                    break
        if passes:
            return min(passes, key=lambda part: part.frames)
        first = _key_before(video, first - 1)
    return Pass(None, last + 1)


def _frames_until(video: Survey, seek_to: int, needed: set[int]) -> int | None:
    """Return how many frames a seek to a tick gives until all ``needed`` were seen, or None."""
    with open_stream(video.path) as (container, stream):
        try:
            container.seek(seek_to, stream=stream)
            missing = set(needed)
            for number, frame in enumerate(container.decode(stream), 1):
                if number == 1 and (frame.pts is None or frame.pts > min(needed)):
                    return None
                missing.discard(frame.pts)
                if not missing:
                    return number
        except READ_ERRORS:
            return None
    return None


def decode_bare(path: str, passes: Sequence[Pass]) -> None:
    """Open a file and decode what the passes say, with one thread, keeping nothing."""
    with open_stream(path) as (container, stream):
        for part in passes:
            if part.seek_to is not None:
                container.seek(part.seek_to, stream=stream)
            _decode(container, stream, part.frames)


def _decode(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, left: int
) -> None:
    for packet in container.demux(stream):
        for _ in packet.decode():
            left -= 1
            if not left:
                return
