"""What the fuzz script does with ``--through``: a damaged file through all that uses videos."""

from __future__ import annotations

import functools
import io
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from openvclip.data.dataset import Pixels, RandomClips, VideoDataset
from openvclip.data.lists.labels import VideoList
from openvclip.predict.classifier import VideoClassifier, load_model
from openvclip.predict.plots import draw_timeline
from openvclip.predict.results import describe, write_timeline
from openvclip.utils.errors import DataError
from tests.data.conftest import write_video
from tests.fuzz.corruption import make_case
from tests.fuzz.reading import SAMPLING, judge, load_sources, try_case
from tests.fuzz.times import CAMPAIGN
from tests.integration.conftest_integration import write_tiny_clip

PIXELS = Pixels(scales=(32, 40), size=32)
LABELS = ("red bar", "green cross", "blue ring")
SIDE = 32
# Every so many a timeline is drawn, too, which takes longer than all the rest.
DRAWN = 20


def read_case_through(paths: Sequence[Path], keep: Path, max_memory: int, item: str) -> dict:
    """Read the case of the seed ``item`` in training, in testing and by ``predict --timeline``.

    Returns:
        As :func:`tests.fuzz.reading.try_case`.
    """
    case = make_case(int(item), load_sources(tuple(paths)), CAMPAIGN)
    case = case.renamed(case.kind.rstrip("0123456789"))
    sound_video()
    model()  # Not while the file's time and memory are measured.
    return try_case(case, keep, max_memory, lambda path: [
        attempt(path, lambda: dataset_item(path, "train", case.seed)),
        attempt(path, lambda: dataset_item(path, "test", case.seed)),
        attempt(path, lambda: predicted(path)),
        attempt(path, lambda: timeline(path, case.seed % DRAWN == 0)),
    ])


def attempt(path: Path, way: Callable[[], None]) -> tuple[str, str]:
    """Return (frames, ""), (error, its text) or (exception, what is wrong)."""
    try:
        way()
    except DataError as error:
        return judge(path, str(error))
    except Exception:
        return "exception", traceback.format_exc()
    return "frames", ""


@functools.lru_cache(maxsize=1)
def model() -> VideoClassifier:
    """A CLIP of random weights, so small that decoding takes the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.pt"
        write_tiny_clip(path)
        found = load_model(path, temporal_type="expand_temporal_view")
    found.encode_text(LABELS)
    return found


@functools.lru_cache(maxsize=1)
def sound_video() -> tuple[tempfile.TemporaryDirectory, str]:
    """A video that takes the place of one that cannot be read, and the folder that it needs."""
    folder = tempfile.TemporaryDirectory()
    return folder, str(write_video(Path(folder.name) / "sound.mp4", 20))


def dataset_item(path: Path, mode: str, seed: int) -> None:
    """Make the item of a damaged video, which is the first of a list."""
    paths = [str(path)] + [sound_video()[1]] * 19
    videos = VideoList(paths, np.zeros(len(paths), np.int64), "fuzz")
    data = VideoDataset(mode, videos, num_classes=3, sampling=SAMPLING, pixels=PIXELS, views=3,
                        crops=3, draws=RandomClips(seed))
    item = data[0]
    if item["bad"]:
        assert (item["index"] > 0) == (mode == "train")
        raise DataError(item["bad"][0][1])
    clips = 1 if mode == "train" else 9
    assert item["video"].shape == (clips, 3, SAMPLING.num_frames, SIDE, SIDE)
    assert torch.isfinite(item["video"]).all()


def predicted(path: Path) -> None:
    """Predict three views with pictures, as the tool does."""
    (found,) = model().predict_many([path], LABELS, keep_frames=True)
    if found.error:
        raise DataError(found.error)
    assert abs(sum(row.probability for row in found.ranking) - 1) < 1e-4
    assert describe(found)["clips"] and len(found.frames) == len(found.times)


def timeline(path: Path, drawn: bool) -> None:
    """Make the labels over time with the default window, their file and at times their picture."""
    found = model().timeline(path, LABELS)
    assert torch.isfinite(found.probabilities).all() and len(found.spans) == len(
        found.probabilities)
    segments = found.segments()
    assert segments[0]["start"] <= segments[-1]["end"]
    with tempfile.TemporaryDirectory() as folder:
        write_timeline(Path(folder) / "timeline.csv", found)
    if drawn:
        draw_timeline(found, "fuzz").savefig(io.BytesIO(), format="png")
