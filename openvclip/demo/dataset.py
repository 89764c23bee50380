"""Writing the demo's world to disk as a dataset like any other: mp4 files, csv lists, label maps.

``ROOT/videos/SET/00000.mp4`` are the clips, ``ROOT/SET/{train,val,test}.csv`` the lists (paths
relative to ``ROOT/videos``), ``ROOT/{trained,unseen,knew}-index2cls.json`` the label maps.
``ROOT/captions/train.json`` describes each training clip, and ``ROOT/retrieval/*.json`` are lists
of clips and captions for testing retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

from openvclip.demo import world
from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_text, replacing, replacing_file
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import Progress, get_logger

logger = get_logger(__name__)

MARKER, PLAN = "dataset.json", "dataset.partial.json"
CODEC, PIXELS = "libx264", "yuv420p"
# Nearly lossless, as colours must survive; a keyframe every four frames makes seeking cheap.
CODEC_OPTIONS = {"crf": "10", "preset": "veryfast", "g": "4", "bf": "0"}
CHUNK = 64  # Clips rendered together.
# Clips with captions, and their file: {path relative to videos: sentence}.
CAPTIONED = {
    "train": "captions/train.json", "val_trained": "retrieval/val_trained.json",
    "trained": "retrieval/trained.json", "unseen": "retrieval/unseen.json",
}
KINDS = {"trained": world.TRAINED, "unseen": world.UNSEEN, "knew": world.KINDS}  # of a label set
RETRIEVAL_PAIRS = 288  # Least length of a retrieval list: every n-th clip of a test list.


@dataclass(frozen=True)
class DatasetSize:
    """Clips of each class in each list.

    Attributes:
        train, val, test: clips of the trained classes.
        unseen: clips of the classes that never occur in training.
        knew, val_knew: clips of the colour-and-shape classes, in test and validation.
    """

    train: int = 24
    val: int = 4
    test: int = 8
    unseen: int = 4
    knew: int = 8
    val_knew: int = 4

    def scaled(self, scale: float) -> DatasetSize:
        """Return these numbers times ``scale``, none below 1.

        Raises:
            DataError: ``scale`` is not above 0.
        """
        if not scale > 0:
            raise DataError(f"the scale of the demo data is {scale}; give a number above 0")
        return DatasetSize(**{k: max(1, round(v * scale)) for k, v in asdict(self).items()})


@dataclass(frozen=True)
class ClipList:
    """One list of the dataset: which classes, how many clips of each, and where it is stored."""

    number: int
    folder: str
    labels: str
    lists: tuple[str, ...]
    per_class: int

    @property
    def names(self) -> list[str]:
        """The classes' sentences; the position is the label."""
        return label_maps()[self.labels]

    def rows(self) -> list[tuple[str, int]]:
        """(path relative to ``videos``, label) for each clip."""
        count = len(self.names) * self.per_class
        return [(f"{self.folder}/{i:05d}.mp4", i // self.per_class) for i in range(count)]


def label_maps() -> dict[str, list[str]]:
    """Return the label sets: trained and unseen classes, and what CLIP knew (colour and shape)."""
    return {labels: world.class_names(kinds, () if labels == "knew" else world.ACTIONS)
            for labels, kinds in KINDS.items()}


def clip_lists(size: DatasetSize) -> list[ClipList]:
    """Return the dataset's lists. Validation clips can also be tested, as ``val_*/test.csv``."""
    table = (
        ("train", "trained", ("trained/train.csv",), size.train),
        ("val_trained", "trained", ("trained/val.csv", "val_trained/test.csv"), size.val),
        ("trained", "trained", ("trained/test.csv",), size.test),
        ("unseen", "unseen", ("unseen/test.csv",), size.unseen),
        ("val_knew", "knew", ("val_knew/test.csv",), size.val_knew),
        ("knew", "knew", ("knew/test.csv",), size.knew),
    )
    return [ClipList(number, *row) for number, row in enumerate(table)]


def render_clips(clips: ClipList, rows: Sequence[int], seed: int) -> np.ndarray:
    """Draw some clips of a list: uint8 RGB (len(rows), frames, side, side, 3).

    A clip depends only on (seed, list, row). If the class names no action, that is drawn too.
    """
    kinds, actions, draws = zip(*(_draw_clip(clips, row, seed) for row in rows), strict=True)
    colours = [list(world.COLOURS).index(colour) for colour, _ in kinds]
    shapes = [world.SHAPES.index(shape) for _, shape in kinds]
    times = np.tile(np.arange(world.FRAMES_PER_CLIP, dtype=np.float32), (len(rows), 1))
    return world.render(world.draw_scene(*map(np.array, (colours, shapes, actions, times, draws))))


def _draw_clip(clips: ClipList, row: int, seed: int) -> tuple[tuple[str, str], int, np.ndarray]:
    """Draw a clip's (colour, shape), action and random numbers from (seed, list, row) alone."""
    rng = np.random.default_rng((seed, clips.number, row))
    kind = row // clips.per_class
    if clips.labels == "knew":
        action = int(rng.integers(len(world.ACTIONS)))
    else:
        kind, action = divmod(kind, len(world.ACTIONS))
    return KINDS[clips.labels][kind], action, rng.random(world.DRAWS)


def caption_clip(clips: ClipList, row: int, seed: int) -> str:
    """Describe a clip, see :func:`openvclip.demo.world.describe_clip`."""
    kind, action, draws = _draw_clip(clips, row, seed)
    return world.describe_clip(world.class_names([kind], [world.ACTIONS[action]])[0], draws)


def write_clip(path: str | Path, frames: np.ndarray, fps: int = world.FPS) -> None:
    """Encode uint8 RGB (T, H, W, 3) as H.264 in an mp4, under a temporary name until complete.

    Raises:
        DataError: this PyAV cannot encode H.264.
    """
    path = Path(path)
    try:
        with replacing_file(path) as part, av.open(str(part), "w", format="mp4") as output:
            stream = output.add_stream(CODEC, rate=fps, options=CODEC_OPTIONS)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = PIXELS
            stream.codec_context.thread_count = 1
            for image in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise DataError(f"cannot encode {path}: {error}; the demo's clips need PyAV with "
                        f"{CODEC} (pip's wheels have it)") from error


def write_dataset(root: str | Path, seed: int = 0, size: DatasetSize | None = None) -> bool:
    """Write the demo's dataset, or its missing parts, under ``root``.

    The marker ``dataset.json`` is written last. Clips from an unfinished run are reused if it had
    the same parameters: each was renamed when complete.

    Returns:
        Whether anything had to be written.

    Raises:
        DataError: ``root`` has a dataset with other parameters.
    """
    root, size = Path(root), size or DatasetSize()
    plan = {"world": world.WORLD, "seed": seed, "clips_per_class": asdict(size)}
    lists = clip_lists(size)
    missing = list(_missing(root, lists))
    if _read(root / MARKER) == plan and not missing:
        if _write_captions(root, lists, seed):
            logger.info("demo data: added the captions to %s", root)
            return True
        logger.info("demo data: %s is complete, nothing to do", root)
        return False
    for name in (MARKER, PLAN):
        other = _read(root / name)
        if other not in (None, plan):
            raise DataError(f"{root / name} describes other demo data ({other}) than wanted "
                            f"({plan}); give another folder or delete this one")
    root.mkdir(parents=True, exist_ok=True)
    _write_text(root / PLAN, json.dumps(plan, indent=1))
    for labels, names in label_maps().items():
        table = {str(i): name for i, name in enumerate(names)}
        _write_text(root / f"{labels}-index2cls.json", json.dumps(table, indent=1))
    progress = Progress(sum(len(rows) for _, rows in missing), "demo data", "clips")
    for clips, rows in missing:
        _write_clips(root, clips, rows, seed, progress)
    for clips in lists:
        text = "".join(f"{path} {label}\n" for path, label in clips.rows())
        for name in clips.lists:
            _write_text(root / name, text)
    _write_captions(root, lists, seed)
    (root / PLAN).replace(root / MARKER)
    return True


def _write_captions(root: Path, lists: list[ClipList], seed: int) -> bool:
    """Write captions of training clips and lists for retrieval; return whether any differed."""
    written = False
    for clips in lists:
        if clips.folder not in CAPTIONED:
            continue
        stride = max(1, len(clips.rows()) // RETRIEVAL_PAIRS) if clips.folder != "train" else 1
        said = {path: caption_clip(clips, row, seed)
                for row, (path, _) in enumerate(clips.rows()) if row % stride == 0}
        text = json.dumps(said, indent=1)
        path = root / CAPTIONED[clips.folder]
        if not path.is_file() or read_text(path) != text:
            _write_text(path, text)
            written = True
    return written


def _missing(root: Path, lists: list[ClipList]) -> Iterator[tuple[ClipList, list[int]]]:
    """Yield each list with the rows whose clip is absent or empty."""
    for clips in lists:
        folder = root / "videos" / clips.folder
        there = {p.name for p in folder.glob("*.mp4") if p.stat().st_size > 0}
        rows = [i for i, (path, _) in enumerate(clips.rows()) if Path(path).name not in there]
        if rows:
            yield clips, rows


def _write_clips(
    root: Path, clips: ClipList, rows: list[int], seed: int, progress: Progress
) -> None:
    (root / "videos" / clips.folder).mkdir(parents=True, exist_ok=True)
    paths = clips.rows()
    for start in range(0, len(rows), CHUNK):
        some = rows[start:start + CHUNK]
        for row, frames in zip(some, render_clips(clips, some, seed), strict=True):
            write_clip(root / "videos" / paths[row][0], frames)
            progress.update()


def _read(path: Path) -> dict | None:
    """Return a marker's content; None if there is no readable one."""
    try:
        return parse_json(read_text(path, most=MOST_JSON_BYTES))
    except (OSError, ValueError):
        return None


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)
