"""What ``tools/predict.py`` does: predicting every named video and writing the requested files."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openvclip import __version__
from openvclip.checkpoints.files import read_content
from openvclip.checkpoints.held import CURRENT, name_weights
from openvclip.checkpoints.loading import name_dtype
from openvclip.predict.classifier import VideoClassifier, check_sources, load_model
from openvclip.predict.find_videos import find_videos
from openvclip.predict.plots import draw_prediction, draw_timeline
from openvclip.predict.results import (
    Prediction,
    describe,
    format_prediction,
    printable,
    write_predictions,
    write_timeline,
)
from openvclip.predict.timelines import check_windows
from openvclip.report.plots import save_figure
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import advise_on_space, explain_refusal
from openvclip.utils.logging import Progress, get_logger
from openvclip.utils.text import clean

logger = get_logger(__name__)

FIGURES = "figures"
LONGEST_NAME = 100  # Of figures, as most file systems allow 255 bytes.


def predict_videos(
    videos: Sequence[str],
    labels: Sequence[str],
    *,
    clip: str,
    checkpoint: str | None = None,
    patching_ratio: float | None = None,
    output: str | Path = "predictions",
    top_k: int = 5,
    save_figures: bool = False,
    timeline: bool = False,
    window: float | None = None,
    stride: float | None = None,
    workers: int = 1,
    columns: int = 100,
    show: Callable[[str], None] = lambda text: None,
    weights: str = CURRENT,
    **model_options: Any,
) -> list[Prediction]:
    """Predict every video, show its table, and write the results to ``output``.

    Args:
        videos: files, folders or glob patterns.
        labels: checked, as :func:`openvclip.predict.label_set.read_labels` gives them.
        clip, checkpoint, patching_ratio, weights, model_options: see
            :func:`openvclip.predict.classifier.load_model`.
        output: folder for predictions.json, predictions.csv and figures.
        top_k: labels per ranking.
        save_figures: draw a contact sheet for each video.
        timeline: draw and write the labels over time.
        window, stride: of timelines, in seconds.
        workers: threads that read videos ahead.
        columns: width of the tables.
        show: gets the text of each table, once the results include the prediction.

    Returns:
        The predictions, without frames; ``error`` says why one failed.

    Raises:
        OpenVCLIPError: an argument cannot be used; before anything is read, if possible.
    """
    if top_k < 1:
        raise ConfigError(f"--top-k is {top_k}; give 1 or more")
    if not timeline and (window is not None or stride is not None):
        raise ConfigError("--window and --stride belong to --timeline; give that too")
    paths = find_videos(videos)
    check_sources(clip, checkpoint, patching_ratio, weights)
    with _writing(output):
        Path(output).mkdir(parents=True, exist_ok=True)
    model = load_model(clip, checkpoint, patching_ratio, weights=weights, **model_options)
    if timeline:
        check_windows(model.options.seconds if window is None else window, stride)
    if len(labels) == 1:
        logger.warning("with a single label its probability is always 100 %%; give others, too")
    facts = _describe_model(model, clip, checkpoint, patching_ratio, weights)
    run = _Run(model, labels, Path(output), facts)
    with _writing(output):
        run.predict(paths, top_k, save_figures, (window, stride) if timeline else None,
                    workers=workers, columns=columns, show=show)
    return run.predictions


@contextmanager
def _writing(output: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write to --output {output}: {explain_refusal(error, output)}; "
                        f"{advise_on_space(error)}give another folder") from error


def _describe_model(
    model: VideoClassifier, clip: str, checkpoint: str | None, ratio: float | None, weights: str
) -> dict[str, Any]:
    options = model.options
    given = name_weights(read_content(checkpoint), weights) if checkpoint else None
    return {
        "clip": str(clip),
        "checkpoint": checkpoint and str(checkpoint),
        "weights": given,
        "patching_ratio": ratio,
        "temporal_modeling": options.temporal_type,
        "frames": options.num_frames,
        "sampling_rate": options.sampling_rate,
        "target_fps": options.target_fps,
        "views": model.views,
        "device": str(model.device),
        "precision": name_dtype(model.dtype),
        "versions": {"openvclip": __version__, "torch": torch.__version__,
                     "python": platform.python_version()},
    }


class _Run:
    """The predictions so far, without frames, and what the files say of them."""

    def __init__(
        self, model: VideoClassifier, labels: Sequence[str], output: Path, facts: dict[str, Any]
    ) -> None:
        self.model, self.labels, self.output, self.facts = model, labels, output, facts
        self.predictions: list[Prediction] = []
        self._videos: list[dict] = []
        self._failed: list[dict] = []
        self._names: set[str] = set()
        ratio = facts["patching_ratio"]
        weights = Path(facts["checkpoint"]).name if facts["checkpoint"] else "CLIP"
        self.note = weights + (f" patched at {ratio:g}" if ratio is not None else "") + (
            f", {len(labels)} labels")

    def _path(self, prediction: Prediction, ending: str) -> Path:
        """Return a new file name for a video, which may share its name with others."""
        stem = printable(Path(prediction.video).stem)[:LONGEST_NAME]
        name, number = f"{stem}{ending}", 2
        while name.lower() in self._names:
            name, number = f"{stem}_{number}{ending}", number + 1
        self._names.add(name.lower())
        return self.output / FIGURES / name

    def add_timeline(
        self, prediction: Prediction, window: float | None, stride: float | None
    ) -> None:
        """Make the timeline of the video added last; if it cannot be made, the log says so."""
        try:
            timeline = self.model.timeline(prediction.video, self.labels, window, stride)
        except DataError as error:
            logger.warning("no timeline: %s", error)
            return
        picture = self._path(prediction, "_timeline.png")
        name, end = clean(prediction.video), timeline.spans[-1][1]
        if timeline.merged:
            logger.info("%s: %d windows show the same frames as the one before: merged into it",
                        name, timeline.merged)
        if timeline.cut:
            logger.warning("%s: its timeline ends at %.1f s, after %d windows; a longer --stride "
                           "covers more", name, end, len(timeline.spans))
        note = self.note + (f"; cut at {end:.1f} s" if timeline.cut else "")
        save_figure(draw_timeline(timeline, note), picture)
        write_timeline(picture.with_suffix(".csv"), timeline)
        self._videos[-1]["timeline"] = {
            "figure": str(picture.relative_to(self.output)),
            "csv": str(picture.with_suffix(".csv").relative_to(self.output)),
            "window": timeline.window, "stride": timeline.stride, "merged": timeline.merged,
            "cut_at": round(end, 3) if timeline.cut else None, "segments": timeline.segments(),
        }

    def add(self, prediction: Prediction, save_figures: bool) -> None:
        """Add a prediction to the results."""
        described = describe(prediction)
        if save_figures and not prediction.error:
            path = self._path(prediction, ".png")
            save_figure(draw_prediction(prediction, self.note), path)
            described["figure"] = str(path.relative_to(self.output))
        (self._failed if prediction.error else self._videos).append(described)
        self.predictions.append(replace(prediction, frames=None))

    def predict(
        self, paths: Sequence[str], top_k: int, save_figures: bool,
        timeline: tuple[float | None, float | None] | None, *, workers: int, columns: int,
        show: Callable[[str], None],
    ) -> None:
        """Predict each video, show its table, make its timeline if asked for; write the files."""
        progress = Progress(len(paths), "predicting", "videos")
        predictions = self.model.predict_many(
            paths, self.labels, top_k, workers=workers, keep_frames=save_figures)
        try:
            for number, prediction in enumerate(predictions, 1):
                heading = f"[{number}/{len(paths)}] " if len(paths) > 1 else ""
                self.add(prediction, save_figures)
                show(format_prediction(prediction, heading, columns) + "\n")
                if timeline is not None and not prediction.error:
                    self.add_timeline(prediction, *timeline)
                progress.update(note=f"{len(self._failed)} skipped" if self._failed else "")
        finally:
            self.write()  # what there is so far

    def write(self) -> None:
        """Write predictions.json and predictions.csv."""
        if self.predictions:  # Stopped at the first: files of an earlier run stay.
            facts = {**self.facts, "labels": list(self.labels)}
            paths = write_predictions(self.output, facts, self._videos, self._failed)
            logger.info("wrote %s", " and ".join(map(str, paths)))
