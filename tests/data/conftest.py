"""Small videos whose frames tell their own number, made once a session."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def write_video(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 64,
    height: int = 48,
    fps: int = 25,
    options: dict[str, str] | None = None,
    shown_at: list[int] | None = None,
    container_options: dict[str, str] | None = None,
    noise: int = 0,
) -> Path:
    """Write flat grey frames; frame i has the brightness 20 + 5 i."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = options or {}
        stream.bit_rate = 4_000_000
        # As many slices and so the same bytes, whatever the number of cores.
        stream.codec_context.thread_count = 3
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(count):
            image = np.full((height, width, 3), 20 + 5 * number, np.uint8)
            image += rng.integers(0, noise + 1, image.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if shown_at is not None:
                frame.pts, frame.time_base = shown_at[number], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4000), np.int16), format="s16", layout="mono"
        )
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> dict[str, Path]:
    """Return paths by name; the bad ones too."""
    folder = tmp_path_factory.mktemp("videos")
    bframes = {"bf": "3", "g": "10", "b-adapt": "0"}
    made = {
        "bframes": write_video(folder / "bframes.mp4", 40, options=bframes),
        "opengop": write_video(
            folder / "opengop.mp4", 40, options={**bframes, "x264-params": "open-gop=1"}
        ),
        "avi": write_video(folder / "b.avi", 40, codec="mpeg4", options={"bf": "2", "g": "8"}),
        "mkv": write_video(folder / "noduration.mkv", 40, options=bframes),
        "ts": write_video(folder / "stream.ts", 40),
        "raw": write_video(folder / "untimed.h264", 40, options=bframes),
        "vfr": write_video(
            folder / "vfr.mp4", 30, shown_at=[i if i < 15 else 3 * i - 30 for i in range(30)]
        ),
        "odd": write_video(folder / "odd.mkv", 12, pix_fmt="yuv444p", width=47, height=33),
        "tenbit": write_video(folder / "ten.mp4", 12, pix_fmt="yuv420p10le"),
        "short": write_video(folder / "short.mp4", 3),
        "single": write_video(folder / "single.mp4", 1),
        "audio": write_audio(folder / "audio.wav"),
    }
    whole = made["bframes"].read_bytes()
    for name, content in {
        "empty": b"",
        "garbage": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
        "headless": whole[: len(whole) // 2],
        "damaged": whole[:200] + b"\x5a" * (len(whole) // 3) + whole[200 + len(whole) // 3:],
    }.items():
        made[name] = folder / f"{name}.mp4"
        made[name].write_bytes(content)
    for name in ("cut.mp4", "cut.mkv", "cut.avi"):
        codec = "mpeg4" if name == "cut.avi" else "libx264"
        path = write_video(
            folder / name, 40, codec=codec, noise=4, container_options={"movflags": "faststart"}
        )
        made[name] = path
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    made["missing"] = folder / "nowhere.mp4"
    return made
