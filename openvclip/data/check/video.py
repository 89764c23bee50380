"""Decoding one whole video to see whether it is intact."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import av

from openvclip.data.video.video_reader import explain_read_error, irregular

OK, DAMAGED, UNREADABLE = "ok", "damaged", "unreadable"
# A video that gives less than this share of what it declares is damaged; some declare too much.
WHOLE = 0.9
# Those of video_reader but for MemoryError, which is not the file's fault.
READ_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError)


@dataclass
class _Tally:
    """Results of decoding: counts, sizes (W, H), time of the last frame, what ended it early."""

    frames: int = 0
    discarded: int = 0
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)
    rotation: int | None = None
    last: float = 0.0
    error: str = ""

    def add(self, frame: av.VideoFrame) -> None:
        self.frames += 1
        self.sizes[frame.width, frame.height] = None
        if self.rotation is None:
            self.rotation = getattr(frame, "rotation", None)
        if frame.time is not None:
            self.last = max(self.last, frame.time)


def check_video(path: str) -> dict[str, Any]:
    """Decode every frame of a video and return its properties.

    Args:
        path: the file.

    Returns:
        The fields of ``Record`` that depend on the file's content; ``status`` is ``ok``,
        ``damaged`` or ``unreadable``.
    """
    wrong = irregular(path)
    if wrong:
        return {"status": UNREADABLE, "reason": wrong}
    try:
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            if not container.streams.video:
                return {"status": UNREADABLE, "reason": "no video stream"}
            stream = container.streams.video[0]
            if stream.codec_context is None:
                return {"status": UNREADABLE, "reason": "FFmpeg knows no decoder for it"}
            # The cores are shared out by file, which keeps all of them busy.
            stream.codec_context.thread_count = 1
            declared = _declared_frames(container, stream)
            tally = _decode(container, stream)
            return _describe(container, stream, tally, max(declared - tally.discarded, 0))
    except READ_ERRORS as error:
        return {"status": UNREADABLE, "reason": explain_read_error(error)}


def _declared_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Return the number of frames that the container declares, or 0."""
    count = max(stream.frames or 0, 0)
    if "mp4" in container.format.name:
        # An mp4 cut without re-encoding counts frames that its edit list leaves out.
        count = min(count, len(getattr(stream, "index_entries", ())) or count)
    return count


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> _Tally:
    tally = _Tally()
    try:
        for packet in container.demux(stream):
            tally.discarded += bool(packet.is_discard)
            for frame in packet.decode():
                tally.add(frame)
    except READ_ERRORS as error:
        tally.error = explain_read_error(error)
        # Frames that wait in the decoder for their turn are good ones, as in training.
        with suppress(*READ_ERRORS):
            for frame in stream.codec_context.decode(None):
                tally.add(frame)
    return tally


def _describe(
    container: av.container.InputContainer, stream: av.VideoStream, tally: _Tally, declared: int
) -> dict[str, Any]:
    context = stream.codec_context
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    seconds = _declared_seconds(container, stream)
    width, height = next(iter(tally.sizes), (context.width, context.height))
    reason = _complaint(tally, declared)
    if not reason and "matroska" in container.format.name and seconds and rate:
        # Matroska has no frame count, and reading ends without an error where it is cut off.
        end = tally.last + 1 / rate
        own = len(container.streams) == 1 or "DURATION" in stream.metadata
        if own and end < WHOLE * seconds:
            reason = f"ends after {end:.2f} of {seconds:.2f} s"
    return {
        "status": OK if not reason else DAMAGED if tally.frames else UNREADABLE,
        "codec": context.codec.canonical_name,
        "pixel_format": context.pix_fmt or "",
        "fps": round(rate, 4) or None,
        "frames": tally.frames,
        "frames_declared": declared or None,
        "width": width,
        "height": height,
        "duration": round(seconds, 3) if seconds else None,
        "rotation": tally.rotation,
        "reason": reason,
    }


def _declared_seconds(
    container: av.container.InputContainer, stream: av.VideoStream
) -> float | None:
    """Return the video's length according to the container, or None."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    whole = container.duration / 1e6 if container.duration else None
    # Matroska tags each stream with its own length; the file's may be that of a longer sound.
    with suppress(ValueError):
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        own = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return min(own, whole or own)
    return whole


def _complaint(tally: _Tally, declared: int) -> str:
    """Return what is wrong with a video, as far as its frames show."""
    if not tally.frames:
        return f"no frame can be decoded: {tally.error}" if tally.error else "has no frame"
    came = f"{tally.frames} of {declared} frames" if declared else f"{tally.frames} frames"
    if tally.error:
        return f"breaks off after {came}: {tally.error}"
    if tally.frames < WHOLE * declared:
        return f"gives only {came}"
    if len(tally.sizes) > 1:
        # Training refuses such a file too.
        sizes = ", ".join(f"{width}x{height}" for width, height in tally.sizes)
        return f"the frame size changes ({sizes})"
    return ""
