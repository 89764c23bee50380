"""Small videos in the usual containers and codecs, to be damaged."""

from __future__ import annotations

from pathlib import Path

from tests.data.conftest import write_video

FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
BFRAMES = {"bf": "3", "g": "10", "b-adapt": "0"}
FORMATS = {
    "h264.mp4": {"options": BFRAMES},
    "faststart.mp4": {"options": BFRAMES, "container_options": FASTSTART},
    "fragments.mp4": {"options": BFRAMES, "container_options": FRAGMENTS},
    "h264.mkv": {"options": BFRAMES},
    "h264.ts": {},
    "h264.flv": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "8"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


def make_sources(folder: Path) -> list[Path]:
    """Write one video of 40 noisy frames a format into ``folder``."""
    return [
        write_video(folder / name, 40, noise=6, **options) for name, options in FORMATS.items()
    ]
