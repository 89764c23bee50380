"""Which frames of a fixture a clip shows, and which it should, for tests of reading videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openvclip.data.video.sampling import ClipRequest, Sampling, clip_window, counted_indices
from openvclip.data.video.video_io import read_clips

PTS = [512 * i for i in range(40)]
VIEWS = [ClipRequest(view, 3) for view in range(3)]
SAMPLING = Sampling(num_frames=4, sampling_rate=4, target_fps=25)


def numbers(frames: np.ndarray) -> list[int]:
    """Return which frames of the fixture these are: frame i has the brightness 20 + 5 i."""
    found = (frames.reshape(len(frames), -1).mean(1) - 20) / 5
    np.testing.assert_allclose(found, found.round(), atol=0.4)
    return found.round().astype(int).tolist()


def clip_numbers(path: Path, requests=VIEWS, sampling=SAMPLING, **options) -> list[list[int]]:
    clips = read_clips(str(path), requests, sampling, **options)
    names = numbers(clips.frames)
    return [[names[i] for i in clip] for clip in clips.indices]


def published(pts, count, fps, duration, requests=VIEWS, sampling=SAMPLING) -> list[list[int]]:
    """Choose frames by the formulas, from the ticks of frames that come in their order."""
    out = []
    for request in requests:
        window = clip_window(sampling, request, count=count, fps=fps, duration=duration)
        kept = [i for i, tick in enumerate(pts) if window.start <= tick <= window.end]
        kept += [i for i, tick in enumerate(pts) if tick > window.end][:1]
        out.append([kept[min(p, len(kept) - 1)] for p in window.wanted])
    return out


def counted(count, requests=VIEWS, sampling=SAMPLING, fps=25.0) -> list[list[int]]:
    return [
        list(counted_indices(sampling, request, count=count, fps=fps)) for request in requests
    ]


def change(path: Path, name: bytes, at: int, value: bytes) -> Path:
    """Overwrite bytes of a header that begins with ``name``."""
    raw = bytearray(path.read_bytes())
    start = raw.index(name) + at
    raw[start:start + len(value)] = value
    changed = path.with_name("changed" + path.suffix)
    changed.write_bytes(raw)
    return changed
