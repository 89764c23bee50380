"""Validation between epochs: the current weights, and these patched with the original CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvclip.evaluation.lines import EvaluationLines
from openvclip.evaluation.pace import find_idle_input
from openvclip.evaluation.runner import Held, ViewEnsemble, predict
from openvclip.evaluation.tasks.task import Predictions
from openvclip.interpolation import MixedWeights, Weights, WeightsAndClassifier
from openvclip.metrics.classification import compute_accuracy, compute_mean_average_precision
from openvclip.models.backbone import Backbone
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.writers import TensorboardWriter
from openvclip.utils import distributed
from openvclip.utils.logging import log_json_stats
from openvclip.utils.memory import memory_stats
from openvclip.utils.signals import StopSignals


@dataclass(eq=False, kw_only=True)
class Validator:
    """Evaluates the validation list; each video is decoded once, for all weights.

    Args:
        loader: validation batches.
        num_classes: C.
        output_dir: where statistics go.
        autocast: makes the context of the forward passes.
        multi_label: labels are 0/1 vectors (B, C); mean average precision is reported.
        weights: the model's, for also validating them mixed with CLIP's.
        ratios: shares of CLIP to validate at in addition to 0.0, each once, with ``weights``.
        embed_classes: makes the (C, D) classifier with the text tower, if that trains.
        others: further weights to validate at the same ratios, by what is put after the names of
            their numbers; ``weights`` mixes them, too.
        log_period: batches from one ``val_iter`` line in the log file to the next.
    """

    loader: Any
    num_classes: int
    device: torch.device
    output_dir: str | Path
    max_epoch: int
    autocast: Callable = nullcontext
    multi_label: bool = False
    weights: Weights = field(default_factory=Weights)
    ratios: Sequence[float] = ()
    embed_classes: Callable[[Backbone], Tensor] | None = None
    others: Mapping[str, Weights] = field(default_factory=dict)
    writer: TensorboardWriter | None = None
    log_period: int = 10

    def __post_init__(self) -> None:
        self.lines: EvaluationLines | None = None
        self.least = dict.fromkeys((1, 5), 100.0)  # errors of the best validation so far

    def predict(
        self, model: VideoCLIP, epoch: int, stop: StopSignals
    ) -> dict[Held, Predictions]:
        """Score the list, by share of CLIP in the weights; the model's own are 0.0.

        ``others`` are under their name and the share.

        The model is not wrapped by DDP; ``epoch`` is the last trained one, from 0. Once ``stop``
        has a signal, the rest of this process's share is skipped.
        """
        self.loader.set_epoch(epoch)
        self.lines = EvaluationLines(
            "val_iter", self.log_period, self.device, f"{epoch + 1}/{self.max_epoch}",
            None if self.multi_label else self.loader.dataset.label_tensor(),
        )
        ratios = (0.0, *self.ratios)
        weights = self._embed(self.weights, model)
        others = {name: self._embed(MixedWeights(held, self.weights), model)
                  for name, held in self.others.items()}
        was_training = model.training
        model.eval()
        try:
            return predict(
                model,
                _until_stopped(self.loader, stop),
                partial(ViewEnsemble, len(self.loader.dataset), self.num_classes),
                own_videos=self.loader.count_rows(),
                weights=weights,
                ratios=ratios,
                others=others,
                device=self.device,
                autocast=self.autocast,
                what=f"validation after epoch {epoch + 1}",
                lines=self.lines,
                idle=find_idle_input(model),
            )
        finally:
            model.train(was_training)

    def _embed(self, weights: Weights, model: VideoCLIP) -> Weights:
        """Let ``weights`` bring the class embeddings of their own text tower, if that trains."""
        if self.embed_classes is None:
            return weights
        return WeightsAndClassifier.embedded(
            weights, model, self.embed_classes, (0.0, *self.ratios))

    def report(self, predictions: dict[Held, Predictions], epoch: int) -> dict[str, float]:
        """Log what :meth:`predict` returned, and return the accuracies in per cent.

        ``top1_acc`` and ``top5_acc`` (or ``map``) are those of the unpatched weights, the same with
        ``_patched`` those at the first ratio; the log has a line for each further one. Those of
        ``others`` have their name in addition: ``top1_acc_ema``, ``top1_acc_ema_patched``. Videos
        that fail to decode count as wrong.
        """
        dataset, own = self.loader.dataset, predictions[0.0]
        labels = dataset.label_tensor()
        accuracies = self._score_all(predictions, 0.0, labels)
        stats: dict[str, Any] = {
            "_type": "val_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "videos": len(dataset),
            "failed": len(own.failures),
            **accuracies,
        }
        if not self.multi_label:  # as PySlowFast's lines have them
            stats.update({f"top{k}_err": 100.0 - accuracies[f"top{k}_acc"] for k in (1, 5)})
        lines = [stats]
        for ratio in self.ratios:
            patched = {f"{name}_patched": value for name, value
                       in self._score_all(predictions, ratio, labels).items()}
            if ratio == self.ratios[0]:
                accuracies.update(patched)
            else:
                lines.append({"_type": "val_epoch", "epoch": stats["epoch"]})
            lines[-1].update(patched, patching_ratio=ratio)
        if distributed.is_main():
            for line in lines:
                log_json_stats(line, self.output_dir, file_only=self._published_fields(line))
        if self.writer is not None:
            self.writer.add_scalars("Val", stats, epoch)
            if not self.multi_label:
                self.writer.add_predictions(
                    "Val", own.scores, labels, own.complete, epoch, dataset)
        return accuracies

    def _published_fields(self, stats: dict[str, Any]) -> dict[str, Any]:
        """What PySlowFast's ``val_epoch`` lines have in addition to ours."""
        fields: dict[str, Any] = memory_stats(self.device)
        if self.lines is not None:
            fields["time_diff"] = self.lines.seconds
        for k in (1, 5):
            if f"top{k}_err" in stats:
                self.least[k] = min(self.least[k], stats[f"top{k}_err"])
                fields[f"min_top{k}_err"] = self.least[k]
        return fields

    def _score_all(
        self, predictions: Mapping[Held, Predictions], ratio: float, labels: Tensor
    ) -> dict[str, float]:
        """The accuracies at a ratio, of the model's weights and of the others."""
        scores = self._score(predictions[ratio], labels)
        for name in self.others:
            found = self._score(predictions[name, ratio], labels)
            scores.update({f"{metric}_{name}": value for metric, value in found.items()})
        return scores

    def _score(self, predictions: Predictions, labels: Tensor) -> dict[str, float]:
        done = predictions.complete
        if self.multi_label:
            return {"map": compute_mean_average_precision(predictions.scores[done], labels[done])}
        share = float(done.double().mean())
        top1, top5 = compute_accuracy(predictions.scores[done], labels[done])
        return {"top1_acc": top1 * share, "top5_acc": top5 * share}


def _until_stopped(batches: Iterable[dict], stop: StopSignals) -> Iterator[dict]:
    """Yield batches until this process gets a signal; the others may go on to their end."""
    for batch in batches:
        if stop.received:
            return
        yield batch
