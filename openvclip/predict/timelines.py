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


def check_windows(window: float | None, stride: float | None) -> None:
    """Check a timeline's window and stride, in seconds, as far as they are given.

    Raises:
        ConfigError: one is too short, too long or not a number, or too many windows overlap.
    """
    for name, value, least in (("window", window, SHORTEST),
                               ("stride", stride, SHORTEST / MOST_OVERLAP)):
        if value is not None and not least <= value <= LONGEST:
            raise ConfigError(
                f"a timeline's {name} is {value:g} s; give {least:g} to {LONGEST:.0f} s")
    if window is not None and stride is not None and stride < window / MOST_OVERLAP:
        raise ConfigError(
            f"a timeline's window is {window:g} s and its stride {stride:g} s; give a stride "
            f"of at least a {MOST_OVERLAP}th of the window"
        )


def collect_timeline(
    video: str,
    labels: Sequence[str],
    stream: Iterator[TimelineWindow],
    score: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int,
    *,
    window: float,
    stride: float,
    seconds: float,
) -> Timeline:
    """Score the windows of a video, at most ``MOST_WINDOWS`` of them, in constant memory.

    If that takes long, the log says how many have been scored.

    Args:
        video: path of the file, for the result and the log.
        labels: N texts.
        stream: the windows in order.
        score: maps clips (B, 3, T, H, W) to probabilities (B, N) on the CPU.
        batch_size: most windows per forward pass.
        window, stride: seconds, for the result.
        seconds: the file's declared length, which may be wrong.
    """
    spans: list[tuple[float, float]] = []
    # Plain numbers: small tensors that stay would pin the memory of the large ones between.
    rows = array("f")
    pictures: dict[int, np.ndarray] = {}
    every, merged = 1, 0  # Every n-th window's picture is kept: n grows with the video's length.
    progress = Progress(min(int(seconds / stride), MOST_WINDOWS), f"timeline of {clean(video)}",
                        "windows")
    while batch := list(islice(stream, min(batch_size, MOST_WINDOWS - len(spans)))):
        rows.extend(score(torch.stack([item.clip for item in batch])).flatten().tolist())
        for item in batch:
            if len(spans) % every == 0:
                pictures[len(spans)] = item.picture
            if len(pictures) > PICTURES:
                every *= 2
                pictures = {n: kept for n, kept in pictures.items() if n % every == 0}
            spans.append((item.start, item.end))
            merged += item.count - 1
            # The end is told below: a file may say less than there is.
            progress.total = max(progress.total, progress.done + item.count + 1)
            progress.update(item.count)
    if progress.last > progress.started:  # There were lines, which need a last one.
        progress.total = progress.done
        progress.update(0)
    cut = len(spans) == MOST_WINDOWS and next(stream, None) is not None
    probabilities = torch.from_numpy(np.frombuffer(rows, np.float32).copy())
    return Timeline(video, tuple(labels), window, stride, tuple(spans),
                    probabilities.view(len(spans), len(labels)), pictures, merged, cut)
