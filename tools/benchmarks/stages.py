"""Where the time of the library's items goes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import av

from benchmarks.clips import Survey
from benchmarks.items import describe
from benchmarks.measure import quiet_process, time_call, time_in_turn
from benchmarks.settings import Settings
from openvclip.data.collate import collate
from openvclip.data.loader import build_dataset
from openvclip.data.video.video_io import read_clips

STAGES = ("open", "decode", "convert", "resize", "collate")
# Items of one call of collate.
COLLATED = 4


class _Meter:
    """Milliseconds spent in stages, and the frames that were decoded."""

    def __init__(self) -> None:
        self.ms = {"open": 0.0, "decode": 0.0}
        self.frames = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] += (time.perf_counter() - start) * 1e3


class _Timed:
    """Wraps one of PyAV's objects, whose methods cannot be replaced."""

    def __init__(self, inner: Any, meter: _Meter) -> None:
        self._inner, self._meter = inner, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _TimedPacket(_Timed):
    def decode(self) -> list[av.VideoFrame]:
        with self._meter.stage("decode"):
            frames = self._inner.decode()
        self._meter.frames += len(frames)
        return frames


class _TimedContainer(_Timed):
    def __enter__(self) -> _TimedContainer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._meter.stage("open"):
            self._inner.close()

    def seek(self, *args: Any, **kwargs: Any) -> None:
        with self._meter.stage("decode"):
            self._inner.seek(*args, **kwargs)

    def demux(self, *args: Any) -> Iterator[_TimedPacket]:
        packets = self._inner.demux(*args)
        while True:
            with self._meter.stage("decode"):
                packet = next(packets, None)
            if packet is None:
                return
            yield _TimedPacket(packet, self._meter)


@contextmanager
def _metered_pyav(meter: _Meter) -> Iterator[None]:
    real = av.open

    def timed_open(*args: Any, **kwargs: Any) -> _TimedContainer:
        with meter.stage("open"):
            return _TimedContainer(real(*args, **kwargs), meter)

    with mock.patch.object(av, "open", timed_open):
        yield


def time_stages(
    video: Survey, mode: str, settings: Settings, *, repeats: int, draws: int
) -> dict[str, Any]:
    """Time the stages of the library's item.

    Open is opening and closing the file; decode is demuxing, seeking and decoding; convert is the
    rest of reading: choosing frames and converting them to RGB. Resize is the whole item less the
    reading of its frames: cutting, resizing and normalising. Collate is an item's share of joining
    items as the loader's processes do.

    Returns:
        A row of the table: milliseconds and shares by stage, clips and decoded frames per second.
    """
    rows = [
        _epoch_stages(video, mode, settings, epoch, repeats)
        for epoch in range(draws if mode == "train" else 1)
    ]
    ms = {name: statistics.median(row[name] for row in rows) for name in STAGES}
    ms["collate"] = _collate_ms(video, mode, settings, repeats)
    whole = sum(ms.values())
    frames = statistics.median(row["frames"] for row in rows)
    return {
        **describe(video),
        "frames_decoded": frames,
        "stages_ms": ms,
        "shares": {name: value / whole for name, value in ms.items()},
        "total_ms": whole,
        "clips_per_s": settings.clips(mode) / whole * 1e3,
        "frames_per_s": frames / whole * 1e3,
    }


def _epoch_stages(
    video: Survey, mode: str, settings: Settings, epoch: int, repeats: int
) -> dict[str, float]:
    dataset = settings.dataset(mode, [video.path])
    requests = settings.requests(mode, epoch, 0)
    meters: list[_Meter] = []

    def read() -> None:
        read_clips(video.path, requests, settings.sampling, keep=lambda image: None)

    def read_metered() -> None:
        meters.append(_Meter())
        with _metered_pyav(meters[-1]):
            read()

    with quiet_process():
        dataset[(epoch, 0)]
    runs = time_in_turn(
        {"metered": read_metered, "read": read, "item": lambda: dataset[(epoch, 0)]}, repeats
    )
    inside = {n: statistics.median(meter.ms[n] for meter in meters) for n in ("open", "decode")}
    read_ms, item_ms = statistics.median(runs["read"]), statistics.median(runs["item"])
    return {
        **inside,
        "convert": max(statistics.median(runs["metered"]) - sum(inside.values()), 0.0),
        "resize": max(item_ms - read_ms, 0.0),
        "collate": 0.0,
        "frames": meters[0].frames,
    }


def _collate_ms(video: Survey, mode: str, settings: Settings, repeats: int) -> float:
    join = _joining(video, mode, settings)
    with quiet_process():
        join()
        return statistics.median(time_call(join) for _ in range(repeats)) / COLLATED


def _joining(video: Survey, mode: str, settings: Settings) -> Callable[[], Any]:
    """Return a call that joins items as the loader of a run has them."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = settings.config(mode, [video.path], folder=Path(folder), batch=1, workers=0)
        items = [build_dataset(cfg, mode)[(0, 0)]] * COLLATED
    empty = (3, settings.frames, settings.crop, settings.crop)
    return lambda: collate(items, empty=empty)
