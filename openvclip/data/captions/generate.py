"""Captioning the videos of a list or a folder, one line of a file per video; can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from openvclip.data.check.run import read_raw_list
from openvclip.data.prepare.scan import scan_videos
from openvclip.data.video.keeping import whole_frame
from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import open_append
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import Progress, get_logger

# Bad videos that the log names.
NAMED = 20

logger = get_logger(__name__)


def spread_frames(path: str, count: int) -> np.ndarray:
    """Read the middle frame of each of ``count`` equal parts of a video.

    Returns:
        uint8 RGB (count, H, W, 3), in order; frames over 4096 x 2304 pixels are reduced.

    Raises:
        DataError: the video cannot be read.
    """
    # View 2i + 1 of 2N starts in the middle of part i.
    middles = [ClipRequest(view=2 * i + 1, views=2 * count) for i in range(count)]
    clips = read_clips(path, middles, Sampling(num_frames=1, sampling_rate=1), keep=whole_frame)
    return np.stack([clips.frames[index] for (index,) in clips.indices])


def list_videos(source: str | Path, *, prefix: str = "", separator: str = ",") -> dict[str, str]:
    """Return the file for each name in a folder, searched at any depth, or a list.

    A list has ``path<separator>label`` rows, with paths relative to ``prefix``.

    Raises:
        ConfigError: the options contradict each other.
        DataError: there is no video, or ``source`` cannot be read.
    """
    if not separator:
        raise ConfigError("--separator is empty; give the text between path and label")
    if not Path(source).is_dir():
        names = read_raw_list(source, separator).paths
        return {name: os.path.join(prefix, name) for name in names}
    if prefix:
        raise ConfigError(f"--prefix {prefix} is for lists, but --videos {source} is a folder")
    tree = scan_videos(source)
    if not tree.paths:
        raise DataError(f"--videos {source} has no videos in it or its subfolders")
    return {name: os.path.join(source, name) for name in tree.paths}


def caption_videos(
    videos: dict[str, str],
    output: str | Path,
    *,
    frames: int,
    describe: Callable[[np.ndarray], list[str]],
    summarise: Callable[[list[str]], str] | None = None,
    made_by: str = "",
) -> dict[str, int]:
    """Append a line for each video to a JSONL file; videos already in it are skipped.

    A line has ``video``, ``caption`` (the summary, or without a summariser the list of distinct
    captions of the frames), ``frames`` (those captions, if there is a summary) and ``made_by``.
    Videos that cannot be read or get no caption are named in the log and tried again by the next
    run.

    Args:
        videos: the file for each name to write.
        frames: frames per video to look at.
        describe: returns captions of frames (N, H, W, 3).
        summarise: turns captions into one sentence.
        made_by: models and settings; one file has captions of one kind.

    Returns:
        Numbers of videos ``known`` from before, ``done`` now and ``failed``.

    Raises:
        ConfigError: the file has captions that were made by other models or settings.
        DataError: the file cannot be read or written, or all videos failed.
    """
    known = _read_known(Path(output), made_by)
    todo = [name for name in videos if name not in known]
    counts = {"known": len(videos) - len(todo), "done": 0, "failed": 0}
    logger.info("%d videos, %d of them known from before", len(videos), counts["known"])
    progress = Progress(len(todo), "captions", "videos")
    try:
        with open_append(output) as file:
            for name in todo:
                try:
                    line = _caption(videos[name], frames, describe, summarise)
                except DataError as error:
                    counts["failed"] += 1
                    if counts["failed"] <= NAMED:
                        logger.warning("left out: %s", error)
                    if counts["failed"] == NAMED:
                        logger.warning("further videos that fail are counted, not named")
                else:
                    counts["done"] += 1
                    record = {"video": name, **line, "made_by": made_by}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    file.flush()
                progress.update(note=f"{counts['failed']} failed" if counts["failed"] else "")
    except OSError as error:
        raise DataError(f"cannot write the captions {output}: {error.strerror}") from error
    if counts["failed"] == len(videos):
        raise DataError(f"none of {len(videos)} videos got a caption, the first being "
                        f"{videos[todo[0]]}; the lines above say why")
    return counts


def _caption(
    path: str, count: int, describe: Callable[[np.ndarray], list[str]],
    summarise: Callable[[list[str]], str] | None,
) -> dict[str, Any]:
    written = [text for text in describe(spread_frames(path, count)) if text]
    if not written:
        raise DataError(f"{path}: the captioner wrote nothing about its frames")
    if summarise is None:
        return {"caption": list(dict.fromkeys(written))}
    sentence = summarise(written)
    if not sentence:
        raise DataError(f"{path}: the summariser wrote nothing about {written}")
    return {"caption": sentence, "frames": written}


def _read_known(output: Path, made_by: str) -> set[str]:
    """Return the videos in a file; the rest of a line that was cut off is removed."""
    known = set()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        open_append(output).close()  # there, and no pipe
        with open(output, "r+b") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    file.truncate(file.tell() - len(line))
                    break
                where = f"{output}, line {number}"
                try:
                    record = parse_json(line)
                    video, maker = record["video"], record["made_by"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ConfigError(f"{where}: not a line of this tool; give another --output, "
                                      "or repair the line") from error
                if maker != made_by:
                    raise ConfigError(f"{where}: made by {maker!r}, now it would be {made_by!r}; "
                                      "give another --output")
                known.add(video)
    except OSError as error:
        raise DataError(f"cannot write the captions {output}: {error.strerror}") from error
    return known
