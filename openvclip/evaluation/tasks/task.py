"""The interface of tasks: outputs, how views are joined, scores and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvclip.data.lists.labels import VideoList
from openvclip.data.loader import Loader
from openvclip.interpolation import Weights
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.run.predictions_file import name_predictions


@dataclass
class Predictions:
    """Outputs for the videos of a list, in the list's order.

    Attributes:
        scores: (N, K), joined over each video's clips; undefined where ``complete`` is False.
        complete: bool (N,), False for videos that could not be evaluated.
        failures: row -> why it could not be decoded.
    """

    scores: Tensor
    complete: Tensor
    failures: dict[int, str]


@dataclass
class Setup:
    """What is tested, how, and where the results go.

    Attributes:
        model: the weights already loaded.
        loader: test batches, see :func:`openvclip.data.loader.build_loader`.
        output_dir: where ``results.json``, ``report.html`` and other files go.
        num_clips: clips (views x crops) per video.
        weights: the model's, which patching mixes.
        ratios: patching ratios to report; none: the unpatched weights.
        autocast: makes the context of the forward passes.
        save_path: file to save for each ratio, or None.
        log_period: batches from one ``test_iter`` line in the log file to the next.
    """

    model: VideoCLIP
    loader: Loader
    device: torch.device
    output_dir: Path
    num_clips: int = 1
    weights: Weights = field(default_factory=Weights)
    ratios: Sequence[float] = ()
    autocast: Callable = nullcontext
    save_path: Path | None = None
    log_period: int = 10

    def name_ratio(self, ratio: float) -> float | None:
        """Return what the results call a ratio: None if nothing is patched."""
        return ratio if self.ratios else None

    def name_saved(self, ratio: float) -> Path:
        """Return ``save_path``; with several ratios each has its own, ``name_ratio0.30.ext``."""
        assert self.save_path is not None  # the caller asks
        return name_predictions(self.save_path, ratio, several=len(self.ratios) > 1)


class Task:
    """What a model is asked about the videos of a list.

    The runner shows the model each clip of each video exactly once, at each patching ratio, and
    joins its outputs. An entry says what these are and how they are used; the least it needs is
    :meth:`score_videos`.

    Attributes:
        doing: name of the work in the progress line and in errors.
        method: how a video's clips are joined: ``sum`` or ``max``.
        class_names: the classes of the model's classifier; None: it has no classifier.
        videos: the list; None: the one that the config names for a test.
    """

    doing = "testing"
    method = "sum"
    class_names: Sequence[str] | None = None
    videos: VideoList | None = None

    @classmethod
    def build(cls, cfg: Any) -> Task:
        """Read and check the lists that the config names, before any weights are loaded."""
        return cls()

    def prepare(self, model: VideoCLIP) -> dict[str, Any]:
        """Prepare for a model, and return what the results say about list, classes and texts."""
        return {}

    def outputs(self, model: VideoCLIP) -> tuple[Callable[[Tensor], Tensor], int]:
        """Return a function from video (M, 3, T, H, W) to (M, K), and K; by default the logits."""
        return model, len(self.class_names or ())

    def score(
        self, setup: Setup, predictions: Mapping[float, Predictions]
    ) -> list[dict[str, Any]]:
        """Return the entry of ``results.json`` for each patching ratio; all processes call it."""
        return [{"patching_ratio": setup.name_ratio(ratio), **self.score_videos(setup, one)}
                for ratio, one in predictions.items()]

    def score_videos(self, setup: Setup, predictions: Predictions) -> dict[str, Any]:
        """Return the entry of ``results.json`` for one patching ratio."""
        raise NotImplementedError

    def write(
        self, setup: Setup, results: dict[str, Any], predictions: Mapping[float, Predictions]
    ) -> None:
        """Write other files; the main process calls it once ``results.json`` exists."""
