"""The epoch loop: train, checkpoint, validate, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvclip.data.augment import Mixup
from openvclip.engine import checkpoint as ckpt
from openvclip.engine.evaluate import predict
from openvclip.engine.meters import IterationTimer, Mean, memory_stats
from openvclip.engine.optim import set_learning_rate
from openvclip.engine.setup import load_weights, unwrap
from openvclip.engine.train_step import PlainStep, StepResult
from openvclip.report.metrics import (
    compute_accuracy,
    compute_mean_average_precision,
    compute_topk_correct,
)
from openvclip.report.writers import TensorboardWriter, write_csv
from openvclip.utils import distributed
from openvclip.utils.errors import CheckpointError, DataError, TrainingError
from openvclip.utils.logging import get_logger, log_json_stats

logger = get_logger(__name__)


class Trainer:
    """Trains a video classifier by one of the steps of :mod:`openvclip.engine.train_step`.

    Args:
        step: leaves the gradients of a batch on the parameters; holds the model.
        optimizer: groups carry ``lr_factor``.
        schedule: learning rate as a function of the exact epoch.
        train_loader: batches of ``video``, ``label``, ``index`` and ``bad``; None to only validate.
        val_loader: the same for validation, or None.
        output_dir: where log, checkpoints and statistics go.
        max_epoch: number of epochs in all.
        seed: the run's seed.
        device: where the model is.
        config: text of the resolved config, kept in checkpoints.
        checkpoint_period, eval_period, log_period: in epochs, epochs, iterations.
        clip_value, clip_norm: limits of each gradient entry or of the global L2 norm, or None.
        mixup: mixes a batch, or None.
        multi_label: labels are 0/1 vectors (B, C); mean average precision is reported.
        max_bad_fraction: share of training rows that may fail to decode before the run stops.
        num_classes: C.
        writer: TensorBoard, or None.
    """

    def __init__(
        self,
        *,
        step: PlainStep,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[float], float],
        train_loader: Any,
        val_loader: Any | None,
        output_dir: str | Path,
        max_epoch: int,
        seed: int,
        device: torch.device,
        num_classes: int,
        config: str = "",
        checkpoint_period: int = 1,
        eval_period: int = 1,
        log_period: int = 10,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        mixup: Mixup | None = None,
        multi_label: bool = False,
        max_bad_fraction: float = 0.01,
        writer: TensorboardWriter | None = None,
    ) -> None:
        self.step = step
        self.optimizer, self.schedule = optimizer, schedule
        self.train_loader, self.val_loader = train_loader, val_loader
        self.output_dir = Path(output_dir)
        self.max_epoch, self.seed, self.device = max_epoch, seed, device
        self.num_classes, self.config = num_classes, config
        self.checkpoint_period, self.eval_period = checkpoint_period, eval_period
        self.log_period = log_period
        self.clip_value, self.clip_norm = clip_value, clip_norm
        self.mixup, self.multi_label = mixup, multi_label
        self.max_bad_fraction = max_bad_fraction
        self.writer = writer
        self.start_epoch = 0
        self.bad_rows: dict[int, str] = {}
        self.skipped_steps = 0

    @property
    def model(self) -> nn.Module:
        """The model, possibly wrapped by DDP."""
        return self.step.model

    def run(self) -> None:
        """Train from ``start_epoch`` to the end."""
        if self.start_epoch >= self.max_epoch:
            logger.info("training is complete (%d epochs)", self.max_epoch)
        for epoch in range(self.start_epoch, self.max_epoch):
            self.train_epoch(epoch)
            if self._due(epoch, self.checkpoint_period):
                self.save(epoch)
            if self.val_loader is not None and self._due(epoch, self.eval_period):
                self.validate(epoch)
        if self.writer is not None:
            self.writer.close()

    def _due(self, epoch: int, period: int) -> bool:
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch and log its statistics."""
        self.model.train()
        self.train_loader.set_epoch(epoch)
        iterations = len(self.train_loader)
        timer = IterationTimer((self.max_epoch - epoch) * iterations)
        means = {name: Mean() for name in ("loss", "connect_loss", "grad_norm", "top1_err")}
        lr = 0.0
        for i, batch in enumerate(self.train_loader):
            timer.data_ready()
            self._note_bad(batch["bad"])
            lr = self.schedule(epoch + i / iterations)
            set_learning_rate(self.optimizer, lr)
            result, label, norm = self._train_iteration(batch, epoch, i, epoch * iterations + i)
            self._add_to_means(means, result, label, norm)
            timer.iteration_done()
            if (i + 1) % self.log_period == 0:
                self._log_iteration(epoch, i, iterations, means, result, lr, timer)
        self._log_epoch(epoch, means, lr, timer)
        self._gather_bad()

    def _train_iteration(
        self, batch: dict, epoch: int, iteration: int, step: int
    ) -> tuple[StepResult, Tensor, float]:
        """Forward, backward, clip and update for one batch."""
        video = batch["video"].to(self.device, non_blocking=True)
        label = batch["label"].to(self.device, non_blocking=True)
        if self.mixup is not None:
            # The same in every process, so that their number does not matter.
            draws = np.random.default_rng((self.seed % 2**64, step))
            video, label = self.mixup(video, label, draws)
        self.optimizer.zero_grad(set_to_none=True)
        result = self.step(video, label, step)
        scaler = self.step.scaler
        scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        if not scaler.is_enabled() and not (result.is_finite() and math.isfinite(norm)):
            rows = batch["index"].tolist()
            raise TrainingError(
                f"epoch {epoch + 1}, iteration {iteration + 1}: loss {float(result.loss)}, "
                f"connect loss {result.connect_loss}, gradient norm {norm} (ratio "
                f"{result.ratio}); videos {self.train_loader.dataset.describe(rows)}. Lower "
                "SOLVER.BASE_LR, or train in fp32 (TRAIN.MIXED_PRECISION False); the last "
                "checkpoint is whole"
            )
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        self.skipped_steps += scaler.get_scale() < before
        return result, label, norm

    def _clip_gradients(self) -> float:
        """Limit the gradients and return their global L2 norm before that."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.clip_value is not None:
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        return float(norm)

    def _add_to_means(
        self, means: dict[str, Mean], result: StepResult, label: Tensor, norm: float
    ) -> None:
        count = len(label)
        means["loss"].add(float(result.loss), count)
        if result.connect_loss is not None:
            means["connect_loss"].add(float(result.connect_loss), count)
        if math.isfinite(norm):
            means["grad_norm"].add(norm, count)
        if not self.multi_label:
            hits = compute_topk_correct(result.logits, label, (1,))
            means["top1_err"].add(100.0 - 100.0 * float(hits.double().mean()), count)

    def _log_iteration(
        self,
        epoch: int,
        i: int,
        iterations: int,
        means: dict[str, Mean],
        result: StepResult,
        lr: float,
        timer: IterationTimer,
    ) -> None:
        stats: dict[str, Any] = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "iter": f"{i + 1}/{iterations}",
            **{name: mean.window() for name, mean in means.items() if mean.count},
        }
        if result.ratio is not None:
            stats["ratio"] = result.ratio
        if self.skipped_steps:
            stats["skipped_steps"] = self.skipped_steps
        stats.update(
            lr=lr,
            dt=timer.total.window(),
            dt_data=timer.data.window(),
            eta=timer.eta(),
            **memory_stats(self.device),
        )
        if distributed.is_main():
            log_json_stats(stats, self.output_dir)
        if self.writer is not None:
            self.writer.add_scalars("Train", stats, epoch * iterations + i)

    def _log_epoch(
        self, epoch: int, means: dict[str, Mean], lr: float, timer: IterationTimer
    ) -> None:
        """Log the epoch's means over all processes."""
        present = [name for name, mean in means.items() if mean.count]
        sums = distributed.all_reduce_sum(
            [x for name in present for x in (means[name].total, means[name].count)], self.device
        )
        stats = {
            "_type": "train_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            **{name: sums[2 * j] / sums[2 * j + 1] for j, name in enumerate(present)},
            "lr": lr,
            "dt": timer.total.mean,
            "dt_data": timer.data.mean,
            "eta": timer.eta(),
            **memory_stats(self.device),
        }
        if distributed.is_main():
            log_json_stats(stats, self.output_dir)

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate the validation list at the current weights.

        Returns:
            ``top1_acc`` and ``top5_acc`` (or ``map``) in percent; videos that fail to decode
            count as wrong.
        """
        dataset = self.val_loader.dataset
        self.val_loader.set_epoch(epoch)
        found = predict(
            unwrap(self.model),
            self.val_loader,
            num_videos=len(dataset),
            num_classes=self.num_classes,
            device=self.device,
            autocast=self.step.autocast,
            what=f"validation after epoch {epoch + 1}",
        )[0.0]
        done = found.complete
        labels = dataset.label_tensor()
        stats: dict[str, Any] = {
            "_type": "val_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "videos": len(dataset),
            "failed": len(found.failures),
        }
        if self.multi_label:
            stats["map"] = compute_mean_average_precision(found.scores[done], labels[done])
        else:
            share = float(done.double().mean())
            top1, top5 = compute_accuracy(found.scores[done], labels[done])
            stats.update(top1_acc=top1 * share, top5_acc=top5 * share)
        if distributed.is_main():
            log_json_stats(stats, self.output_dir)
        if self.writer is not None:
            self.writer.add_scalars("Val", stats, epoch)
            if not self.multi_label:
                self.writer.add_predictions("Val", found.scores[done], labels[done], epoch)
                self.writer.add_wrong_predictions(
                    "Val", dataset, found.scores, labels, done, epoch
                )
        return {k: v for k, v in stats.items() if isinstance(v, float)}

    def _note_bad(self, bad: list[tuple[int, str]]) -> None:
        """Count rows that could not be decoded, name each once, stop when there are too many."""
        rows = len(self.train_loader.dataset)
        for row, reason in bad:
            if row not in self.bad_rows:
                self.bad_rows[row] = reason
                logger.warning("bad video (row %d): %s", row, reason)
        if bad and len(self.bad_rows) > self.max_bad_fraction * rows:
            raise DataError(
                f"{len(self.bad_rows)} of {rows} training videos could not be decoded, more than "
                f"DATA.MAX_BAD_FRACTION ({self.max_bad_fraction:g}) allows; the last: "
                f"{bad[-1][1]}. Repair or leave out these files, or raise the fraction"
            )

    def _gather_bad(self) -> None:
        """Share the bad rows among processes and write them to ``bad_videos.csv``."""
        for part in distributed.all_gather_object(self.bad_rows):
            self.bad_rows.update(part)
        if self.bad_rows and distributed.is_main():
            rows = sorted(self.bad_rows.items())
            paths = self.train_loader.dataset.describe([row for row, _ in rows])
            write_csv(
                self.output_dir / "bad_videos.csv",
                ["row", "path", "reason"],
                ([row, path, reason] for (row, reason), path in zip(rows, paths, strict=True)),
            )

    def save(self, epoch: int) -> None:
        """Write the checkpoint after ``epoch`` (counted from 0)."""
        if distributed.is_main():
            path = ckpt.checkpoint_path(self.output_dir, epoch + 1)
            ckpt.save_file(
                path,
                {
                    "epoch": epoch,
                    "model_state": unwrap(self.model).state_dict(),
                    "optimizer_state": self.optimizer.state_dict(),
                    "scaler_state": self.step.scaler.state_dict(),
                    "random_state": ckpt.get_random_state(),
                    "cfg": self.config,
                },
            )
            logger.info("saved %s", path)
        distributed.barrier()

    def load(self, content: dict, where: str | Path, *, reset_epoch: bool = False) -> None:
        """Take up training from a checkpoint of :meth:`save`.

        Args:
            content: what the file holds.
            where: its path, for messages.
            reset_epoch: take the weights only and begin at epoch 0.

        Raises:
            CheckpointError: weights or optimizer state are of another model.
        """
        load_weights(unwrap(self.model), where)
        if reset_epoch or "optimizer_state" not in content:
            return
        self._load_optimizer(content["optimizer_state"], where)
        if content.get("scaler_state"):
            self.step.scaler.load_state_dict(content["scaler_state"])
        if "random_state" in content:
            ckpt.set_random_state(content["random_state"])
        self.start_epoch = content["epoch"] + 1
        logger.info("resuming after epoch %d from %s", self.start_epoch, where)

    def _load_optimizer(self, state: dict, where: str | Path) -> None:
        """Take the optimizer's state, if it is that of the very same parameters."""
        names = [group.get("names") for group in state["param_groups"]]
        if names != [group["names"] for group in self.optimizer.param_groups]:
            raise CheckpointError(
                f"the optimizer state in {where} is not of this model's parameters (it was "
                "written by other code or for another model); take the weights only, with "
                "TRAIN.CHECKPOINT_EPOCH_RESET True"
            )
        self.optimizer.load_state_dict(state)
