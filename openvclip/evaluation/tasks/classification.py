"""Zero-shot classification: each video among the classes of a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from openvclip.data.lists.draws import read_draw
from openvclip.data.lists.labels import build_label_space
from openvclip.data.lists.locate import build_list_path
from openvclip.evaluation.tasks.task import Predictions, Setup, Task
from openvclip.metrics.classification import compute_mean_average_precision, compute_scores
from openvclip.models.text_choices import build_text_choice
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.run.details import build_details
from openvclip.report.run.page import write_report
from openvclip.report.run.predictions_file import save_predictions
from openvclip.report.summary.sweeps import write_test_sweep
from openvclip.report.writers import (
    TensorboardWriter,
    build_tensorboard,
    name_top1,
    write_per_class,
)
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


@dataclass(eq=False)
class Classification(Task):
    """Scores the classes of each video; accuracies, or mean average precision for several labels.

    Args:
        class_names, method: see :class:`Task`.
        multi_label: labels are 0/1 vectors (N, C).
        facts: what the results say about list, label set and sentences.
    """

    class_names: Sequence[str]
    method: str = "sum"
    multi_label: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    writer: TensorboardWriter | None = None

    @classmethod
    def build(cls, cfg: Any) -> Classification:
        """Read the label map and the sentences."""
        labels = build_label_space(cfg)
        videos = build_list_path(cfg, "test")
        draw = read_draw(videos.parent)
        facts = {
            "list": str(videos),
            "draw": draw and asdict(draw),
            "label_set": {"file": cfg.DATA.INDEX_LABEL_MAPPING_FILE, "classes": len(labels),
                          "sha256": labels.digest()},
            "prompts": build_text_choice(cfg, labels.names).facts(),
        }
        return cls(labels.names, method=cfg.DATA.ENSEMBLE_METHOD,
                   multi_label=cfg.DATA.MULTI_LABEL, facts=facts,
                   writer=build_tensorboard(cfg, labels.names))

    def prepare(self, model: VideoCLIP) -> dict[str, Any]:
        """See :meth:`Task.prepare`."""
        return self.facts

    def score_videos(self, setup: Setup, predictions: Predictions) -> dict[str, Any]:
        """Return accuracies in per cent, over all videos and over those that were decoded."""
        labels, done = setup.loader.dataset.label_tensor(), predictions.complete
        if self.multi_label:
            precision = compute_mean_average_precision(predictions.scores[done], labels[done])
            return {"map_decoded": precision}
        return compute_scores(predictions.scores, labels, done)

    def write(
        self, setup: Setup, results: dict[str, Any], predictions: Mapping[float, Predictions]
    ) -> None:
        """Write the picture of the sweep, accuracies per class, predictions and the report."""
        dataset, folder = setup.loader.dataset, setup.output_dir
        labels = dataset.label_tensor()
        clips = setup.num_clips if self.method == "sum" else 1  # in a score
        pairs = {ratio: (one.scores, one.complete) for ratio, one in predictions.items()}
        write_test_sweep(folder, results)
        if not self.multi_label:
            columns = {name_top1(setup.name_ratio(ratio)): pair for ratio, pair in pairs.items()}
            write_per_class(folder / "per_class.csv", self.class_names, labels, columns)
        for ratio, (scores, done) in pairs.items():
            if setup.save_path is not None:
                path = setup.name_saved(ratio)
                save_predictions(path, scores, labels)
                logger.info("wrote %s", path)
            if self.writer is not None and not self.multi_label:
                tag = f"Test/ratio_{ratio:g}" if setup.ratios else "Test"
                self.writer.add_predictions(tag, scores, labels, done, 0, dataset, clips)
        write_report(folder / "report.html", lambda: build_details(
            results, self.class_names, labels, list(pairs.values()), dataset, clips))
