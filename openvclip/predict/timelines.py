"""Labels over time: scoring the windows that slide over a video."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from openvclip.predict.results import Timeline
from openvclip.predict.windows import TimelineWindow
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import Progress
from openvclip.utils.text import clean

MOST_OVERLAP = 16  # Windows that may overlap: this bounds the memory of a timeline.
PICTURES = 24  # Most small pictures that are kept.
MOST_WINDOWS = 50_000  # More than a day of them at what a clip covers in training.
SHORTEST, LONGEST = 1e-3, 1e6  # Seconds of a window or stride.


def check_seconds(window: float | None, stride: float | None) -> None:
    """Check the given window and stride, each by itself.

    Raises:
        ConfigError: one is too short, too long or not a number.
    """
    for name, value, least in (("window", window, SHORTEST),
                               ("stride", stride, SHORTEST / MOST_OVERLAP)):
        if value is not None and not least <= value <= LONGEST:
            raise ConfigError(
                f"a timeline's {name} is {value:g} s; give {least:g} to {LONGEST:.0f} s")


def check_windows(window: float, stride: float) -> tuple[float, float]:
    """Return the seconds of a window and a stride, if they are compatible.

    Raises:
        ConfigError: they are not, or :func:`check_seconds` refuses one.
    """
    check_seconds(window, stride)
    if not window / MOST_OVERLAP <= stride:
        raise ConfigError(
            f"a timeline's window is {window:g} s and its stride {stride:g} s; give a stride "
            f"of at least a {MOST_OVERLAP}th of the window"
        )
    return window, stride


def tell_progress(
    stream: Iterator[TimelineWindow], video: str, total: int
) -> Iterator[TimelineWindow]:
    """Yield the windows, and log how many have been taken if it takes long.

    Args:
        stream: the windows.
        video: path of the file, for the log.
        total: how many there are if the file's declared length is true.
    """
    progress = Progress(min(total, MOST_WINDOWS), f"timeline of {clean(video)}", "windows")
    for item in stream:
        yield item
        # The end is told below: a file may say less than there is.
        progress.total = max(progress.total, progress.done + item.count + 1)
        progress.update(item.count)
    if progress.last > progress.started:  # There were lines, which need a last one.
        progress.total = progress.done
        progress.update(0)


def collect_timeline(
    video: str,
    labels: Sequence[str],
    stream: Iterator[TimelineWindow],
    score: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int,
    *,
    window: float,
    stride: float,
) -> Timeline:
    """Score the windows of a video, at most ``MOST_WINDOWS`` of them, in constant memory.

    Args:
        video: path of the file, for the result.
        labels: N texts.
        stream: the windows in order.
        score: maps clips (B, 3, T, H, W) to probabilities (B, N) on the CPU.
        batch_size: most windows per forward pass.
        window, stride: seconds, for the result.
    """
    spans: list[tuple[float, float]] = []
    # Plain numbers: small tensors that stay would pin the memory of the large ones between.
    rows = array("f")
    pictures = _Pictures()
    merged = 0
    while batch := list(islice(stream, min(batch_size, MOST_WINDOWS - len(spans)))):
        for item in batch:
            pictures.offer(len(spans), item)
            spans.append((item.start, item.end))
            merged += item.count - 1
        rows.extend(score(torch.stack([item.clip for item in batch])).flatten().tolist())
    cut = len(spans) == MOST_WINDOWS and next(stream, None) is not None
    probabilities = torch.from_numpy(np.frombuffer(rows, np.float32).copy())
    return Timeline(video, tuple(labels), window, stride, tuple(spans),
                    probabilities.view(len(spans), len(labels)), pictures.kept, merged, cut)


class _Pictures:
    """Small pictures of windows, spread over a video of unknown length.

    Attributes:
        kept: number of a window -> uint8 (h, w, 3) of its middle frame.
    """

    def __init__(self) -> None:
        self.kept: dict[int, np.ndarray] = {}
        self.every = 1

    def offer(self, number: int, window: TimelineWindow) -> None:
        """Keep the window's picture, if its turn has come."""
        if number % self.every:
            return
        self.kept[number] = window.picture
        if len(self.kept) > PICTURES:
            self.every *= 2
            self.kept = {n: kept for n, kept in self.kept.items() if n % self.every == 0}
