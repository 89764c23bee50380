"""What the processes of the fuzz script do: read one damaged file, say how it went."""

from __future__ import annotations

import functools
import itertools
import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from openvclip.utils.errors import DataError
from openvclip.utils.logging import Progress
from tests.fuzz.corruption import Case, Source, make_case, read_sources

SAMPLING = Sampling(num_frames=8, sampling_rate=16, target_fps=30.0, use_offset=True)
VIEWS = [ClipRequest(view, 3) for view in range(3)]


@functools.lru_cache(maxsize=1)
def load_sources(paths: tuple[Path, ...]) -> list[Source]:
    return read_sources(list(paths))


def read_case(paths: Sequence[Path], keep: Path, max_memory: int, item: str) -> dict:
    """Read the case of the seed ``item`` as three views and as a training clip; see
    :func:`try_case`."""
    case = make_case(int(item), load_sources(tuple(paths)))
    return try_case(case, keep, max_memory, lambda path: [
        outcome(path, VIEWS), outcome(path, [ClipRequest(draw=case.draw)])])


def try_case(
    case: Case, keep: Path, max_memory: int, ways: Callable[[Path], list[tuple[str, str]]]
) -> dict:
    """Write a damaged file and do with it what ``ways`` does; it stays in ``keep`` if it does harm.

    Args:
        case: the damaged file.
        keep: folder that it is written into.
        max_memory: MB that may be taken on top of what is held before.
        ways: gives the outcomes of a file, one for each way of reading it, see :func:`outcome`.

    Returns:
        kind, file, result (frames; partly, where only one way of reading gave frames; error;
        exception; memory; crash, where another process died of it), reason, seconds, peak_mb
        (memory that reading took on top), rss_mb (held afterwards), most_mb (most held) and the
        process.
    """
    path = keep / case.file_name
    report = {"kind": case.kind, "file": path.name, "process": os.getpid()}
    if path.exists() and path.stat().st_size == len(case.data):
        return report | {"result": "crash", "reason": "a process died of it before"}
    path.write_bytes(case.data)
    before = reset_peak()
    start = time.perf_counter()
    found = ways(path)
    seconds = time.perf_counter() - start
    most = memory("VmHWM")
    peak = most - before
    kinds = {kind for kind, _ in found}
    report |= {
        "result": next(
            kind for kind in ("exception", "partly", "frames", "error")
            if kind in kinds or (kind == "partly" and len(kinds) > 1)
        ),
        "reason": "; ".join(reason for kind, reason in found if kind != "frames"),
        "seconds": round(seconds, 3), "peak_mb": round(peak, 1), "most_mb": round(most, 1),
        "rss_mb": round(memory("VmRSS"), 1),
    }
    if peak > max_memory:
        report |= {"result": "memory", "reason": f"{peak:.0f} MB to read one file"}
    if report["result"] not in ("memory", "exception"):
        path.unlink()
    return report


def outcome(path: Path, requests: Sequence[ClipRequest]) -> tuple[str, str]:
    """Read clips; return (frames, ""), (error, its text) or (exception, what is wrong)."""
    try:
        clips = read_clips(str(path), requests, SAMPLING)
    except DataError as error:
        return judge(path, str(error))
    except Exception:
        return "exception", traceback.format_exc()
    count = len(clips.frames)
    shapes = clips.frames.dtype == np.uint8 and clips.frames.shape[3:] == (3,)
    places = {place for clip in clips.indices for place in clip}
    lengths = [len(clip) for clip in clips.indices] == [SAMPLING.num_frames] * len(requests)
    if not (shapes and lengths and places == set(range(count))):
        return "exception", f"unfit clips: {clips.frames.shape}, {clips.indices}"
    return "frames", ""


def judge(path: Path, text: str) -> tuple[str, str]:
    """Return (error, its text), or (exception, why) where the text is not one line on the file."""
    fine = path.name in text and "\n" not in text and text.isprintable()
    return ("error", text) if fine else ("exception", f"unfit message: {text!r}")


def find_leak(paths: Sequence[Path], count: int, settled: int) -> dict:
    """Read undamaged files ``count`` times, test and training clips in turn, in this process.

    Returns:
        memory after ``settled`` (early) and after ``count`` reads (late), in MB.
    """
    files = sorted(p for path in paths for p in (path.iterdir() if path.is_dir() else [path]))
    rng = np.random.default_rng(0)
    progress = Progress(count, "leak", "videos")
    early = 0.0
    for number, path in zip(range(1, count + 1), itertools.cycle(files), strict=False):
        training = number // len(files) % 2
        outcome(path, [ClipRequest(draw=float(rng.random()))] if training else VIEWS)
        if number == settled:
            early = memory("VmRSS")
        progress.update(note=f"{memory('VmRSS'):.0f} MB")
    return {"early": settled, "early_mb": early, "late": count, "late_mb": memory("VmRSS")}


def memory(field: str) -> float:
    """Return a figure of this process in MB: VmRSS (held now) or VmHWM (most held)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def reset_peak() -> float:
    """Begin to count the most memory held anew; return what is held now, in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory("VmRSS")
