"""Files that a run leaves: JSON and CSV results, TensorBoard."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvclip.metrics.classification import (
    compute_confusion,
    compute_per_class_accuracy,
    rank_mistakes,
)
from openvclip.utils import distributed
from openvclip.utils.errors import ConfigError
from openvclip.utils.files import MOST_JSON_BYTES, read_text, replacing
from openvclip.utils.json_text import parse_json
from openvclip.utils.text import show_row


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, under a temporary name first."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file with a header line, under a temporary name first.

    It is for people: invisible characters become codes, and texts that a spreadsheet would take
    for formulas begin with an apostrophe (``openvclip.utils.text``).
    """
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(show_row(header))
        writer.writerows(map(show_row, rows))


def name_top1(ratio: float | None) -> str:
    """Return the heading of a patching ratio's column in ``per_class.csv``; None: not patched."""
    return "top1" if ratio is None else f"top1_ratio{ratio:g}"


def write_per_class(
    path: str | Path,
    class_names: Sequence[str],
    labels: Tensor,
    columns: Mapping[str, tuple[Tensor, Tensor]],
) -> None:
    """Write the number of videos and the top-1 accuracy (%) of every class.

    Args:
        path: the CSV file.
        class_names: names of the C classes.
        labels: (N,) class indices.
        columns: heading -> scores (N, C) and whether each video was evaluated, bool (N,). Videos
            that were not count as wrong.
    """
    totals = torch.bincount(labels, minlength=len(class_names))
    shares = []
    for scores, done in columns.values():
        _, right = compute_per_class_accuracy(scores[done], labels[done])
        shares.append((right.double() / totals.clamp(min=1) * 100).tolist())
    write_csv(
        path,
        ["index", "class", "videos", *columns],
        (
            [i, name, int(totals[i]), *(f"{share[i]:.2f}" for share in shares)]
            for i, name in enumerate(class_names)
        ),
    )


class TensorboardWriter:
    """Scalars and, if switched on, pictures of a run for TensorBoard.

    Args:
        log_dir: folder of the event files.
        class_names: names for the pictures' axes.
        config: text of the resolved config.
        confusion_matrix: add the confusion matrix of every validation.
        histogram: add the accuracy of every class as bars, worst first.
        wrong_predictions: number of the surest mistakes to add as strips of frames with both names.
    """

    def __init__(
        self,
        log_dir: str | Path,
        class_names: Sequence[str],
        *,
        config: str = "",
        confusion_matrix: bool = False,
        histogram: bool = False,
        wrong_predictions: int = 0,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(log_dir))
        self.class_names = list(class_names)
        self.confusion_matrix = confusion_matrix
        self.histogram = histogram
        self.wrong_predictions = wrong_predictions
        if config:
            self.writer.add_text("config", f"```yaml\n{config}\n```")

    def add_scalars(self, prefix: str, stats: dict[str, Any], step: int) -> None:
        """Add the numbers of ``stats`` as ``prefix/name``."""
        for name, value in stats.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.writer.add_scalar(f"{prefix}/{name}", value, step)

    def add_predictions(
        self, prefix: str, scores: Tensor, labels: Tensor, done: Tensor, step: int, dataset: Any,
        clips: int = 1,
    ) -> None:
        """Add the pictures that are switched on of predictions (N, C) against labels (N,).

        ``done``, bool (N,), is False for videos that could not be evaluated. ``dataset`` gives the
        frames of a row. The confidence of wrong answers is the softmax of ``scores / clips``.
        """
        from openvclip.report import plots

        if self.confusion_matrix:
            counts = compute_confusion(scores[done], labels[done])
            figure = plots.draw_confusion(counts, self.class_names)
            self.writer.add_figure(f"{prefix}/confusion_matrix", figure, step)
        if self.histogram:
            total, right = compute_per_class_accuracy(scores[done], labels[done])
            figure = plots.draw_class_accuracy(total, right, self.class_names)
            self.writer.add_figure(f"{prefix}/class_accuracy", figure, step)
        if not self.wrong_predictions:
            return
        wrong = rank_mistakes(scores, labels, done, self.wrong_predictions, clips)
        for place, (row, answer, confidence) in enumerate(wrong):
            title = (
                f"is: {self.class_names[int(labels[row])]}\n"
                f"named: {self.class_names[answer]} ({confidence:.0%})"
            )
            figure = plots.draw_frames(dataset.frames(row), title)
            self.writer.add_figure(f"{prefix}/wrong_predictions/{place}", figure, step)

    def close(self) -> None:
        """Write out what is pending."""
        self.writer.close()


def build_tensorboard(cfg, class_names: Sequence[str]) -> TensorboardWriter | None:
    """Build the writer of ``TENSORBOARD.*`` on the main process, or None.

    Raises:
        ConfigError: LOG_DIR is not a folder, or CLASS_NAMES_PATH cannot be used.
    """
    tensorboard = cfg.TENSORBOARD
    if not tensorboard.ENABLE or not distributed.is_main():
        return None
    if tensorboard.CLASS_NAMES_PATH:
        class_names = read_class_names(tensorboard.CLASS_NAMES_PATH, len(class_names))
    folder = Path(cfg.OUTPUT_DIR) / (tensorboard.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"TENSORBOARD.LOG_DIR: {folder} is not a folder; move it or set another")
    return TensorboardWriter(
        folder,
        class_names,
        config=cfg.dump(),
        confusion_matrix=tensorboard.CONFUSION_MATRIX.ENABLE,
        histogram=tensorboard.HISTOGRAM.ENABLE,
        wrong_predictions=8 if tensorboard.WRONG_PRED_VIS.ENABLE else 0,
    )


def read_class_names(path: str | Path, count: int) -> list[str]:
    """Read PySlowFast's ``TENSORBOARD.CLASS_NAMES_PATH``: JSON of name -> index.

    Raises:
        ConfigError: the file is missing or does not name classes 0 .. count - 1.
    """
    try:
        content = parse_json(read_text(path, most=MOST_JSON_BYTES))
        names = {int(index): name for name, index in content.items()}
        return [names[i] for i in range(count)]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ConfigError(
            f"TENSORBOARD.CLASS_NAMES_PATH {path} must be a JSON object of name -> index for "
            f"all {count} classes: {type(error).__name__}: {error}"
        ) from error
