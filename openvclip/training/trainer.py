"""The epoch loop: train, checkpoint, validate, resume, stop when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import unwrap
from openvclip.checkpoints.training_config import VIDEOS
from openvclip.clip.weights import find_state_dict
from openvclip.config.extensions import parse_stored
from openvclip.data.augment.mixup import Mixup
from openvclip.metrics.classification import compute_topk_correct
from openvclip.models.backbone import CLIP
from openvclip.models.build import load_model_weights
from openvclip.report.run.curves import write_curves
from openvclip.report.writers import TensorboardWriter, write_csv
from openvclip.training.captions import CaptionSampler
from openvclip.training.meters import IterationTimer, Mean, describe_iteration
from openvclip.training.optim import set_learning_rate
from openvclip.training.step import Captions, PlainStep, StepResult
from openvclip.training.train_state import (
    check_progress,
    gather_means,
    load_optimizer,
    restore_means,
    stop_at_nonfinite,
    validation_missed,
)
from openvclip.training.validation import Validator
from openvclip.utils import distributed, live
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger, log_json_stats
from openvclip.utils.memory import memory_stats, peak_gpu_memory, resident_memory
from openvclip.utils.signals import Interrupted, StopSignals

logger = get_logger(__name__)


class Trainer:
    """Trains a video classifier by one of the steps of :mod:`openvclip.training.step`.

    Args:
        step: leaves the gradients of a batch on the parameters; holds the model.
        optimizer: groups carry ``lr_factor``; None to only validate.
        schedule: learning rate as a function of the exact epoch.
        train_loader: batches of ``video``, ``label``, ``index`` and ``bad``; None to only validate.
        validator: evaluates the validation list, or None.
        output_dir: where log, checkpoints and statistics go.
        max_epoch: number of epochs in all.
        seed: the run's seed.
        device: where the model is.
        config: text of the resolved config, kept in checkpoints.
        train_videos: what they keep of the training list, see
            :func:`openvclip.checkpoints.training_config.describe_videos`; or None.
        checkpoint_period, eval_period, log_period: in epochs, epochs, iterations. The last
            iteration of an epoch is logged, too, so that short epochs have a line.
        checkpoint_iters: iterations between states written inside epochs; 0: none.
        keep: which epoch checkpoints stay when a newer one is written.
        clip_value, clip_norm: limits of each gradient entry or of the global L2 norm, or None.
        mixup: mixes a batch, or None.
        multi_label: labels are 0/1 vectors (B, C); mean average precision is reported.
        max_bad_fraction: share of training rows that may fail to decode before the run stops.
        captions: gives the captions of a batch's videos, or None.
        embed_classes: makes the (C, D) classifier by the text tower, where that trains.
        writer: TensorBoard, or None.
    """

    def __init__(
        self,
        *,
        step: PlainStep,
        optimizer: torch.optim.Optimizer | None,
        schedule: Callable[[float], float],
        train_loader: Any,
        validator: Validator | None,
        output_dir: str | Path,
        max_epoch: int,
        seed: int,
        device: torch.device,
        config: str = "",
        train_videos: Tensor | None = None,
        checkpoint_period: int = 1,
        eval_period: int = 1,
        log_period: int = 10,
        checkpoint_iters: int = 0,
        keep: ckpt.Keep | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        mixup: Mixup | None = None,
        multi_label: bool = False,
        max_bad_fraction: float = 0.01,
        captions: CaptionSampler | None = None,
        embed_classes: Callable[[CLIP], Tensor] | None = None,
        writer: TensorboardWriter | None = None,
    ) -> None:
        self.step = step
        self.optimizer, self.schedule = optimizer, schedule
        self.train_loader, self.validator = train_loader, validator
        self.output_dir = Path(output_dir)
        self.max_epoch, self.seed, self.device = max_epoch, seed, device
        self.config, self.train_videos = config, train_videos
        self.checkpoint_period, self.eval_period = checkpoint_period, eval_period
        self.log_period = log_period
        self.checkpoint_iters, self.keep = checkpoint_iters, keep or ckpt.Keep()
        self.clip_value, self.clip_norm = clip_value, clip_norm
        self.mixup, self.multi_label = mixup, multi_label
        self.max_bad_fraction = max_bad_fraction
        self.captions, self.embed_classes = captions, embed_classes
        self.writer = writer
        self.start_epoch = self.start_iteration = 0
        self.means = restore_means({})
        self.stop, self._stopping = StopSignals(), False
        self.bad_rows: dict[int, str] = {}
        self.skipped_steps = 0

    @property
    def model(self) -> nn.Module:
        """The model, possibly wrapped by DDP."""
        return self.step.model

    def run(self, stop: StopSignals | None = None) -> None:
        """Train from ``start_epoch``, at ``start_iteration``, to the end.

        Args:
            stop: notes signals; when one has come to any process, all write a checkpoint after
                the step and leave.

        Raises:
            Interrupted: for a signal.
        """
        self.stop = stop or self.stop
        self.stop.take_interrupts()
        if self.start_epoch >= self.max_epoch:
            logger.info("training is complete (%d epochs)", self.max_epoch)
        last = self.start_epoch - 1
        whole = last >= 0 and self.start_iteration == 0 and self.validator is not None
        if whole and self._due(last, self.eval_period) and validation_missed(self.output_dir, last):
            self.validate(last)
        for epoch in range(self.start_epoch, self.max_epoch):
            if epoch == self.start_epoch:
                logger.info("epoch %d of %d: starting the decoding processes; %d iterations",
                            epoch + 1, self.max_epoch, len(self.train_loader))
            self.train_epoch(epoch)
            if self._due(epoch, self.checkpoint_period):
                self.save(epoch)
            if self.validator is not None and self._due(epoch, self.eval_period):
                self.validate(epoch)
        if self.writer is not None:
            self.writer.close()
        if (line := live.current()) is not None:
            line.clear()
        if distributed.is_main():
            write_curves(self.output_dir)

    def _due(self, epoch: int, period: int) -> bool:
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch, or the rest of the one that was begun, and log its statistics."""
        start = self.start_iteration if epoch == self.start_epoch else 0
        self.means = means = self.means if start else restore_means({})
        self.model.train()
        self.train_loader.set_epoch(epoch, start)
        iterations = len(self.train_loader)
        timer = IterationTimer((self.max_epoch - epoch) * iterations - start)
        lr = self.schedule(epoch + max(start - 1, 0) / iterations)
        for i, batch in enumerate(self.train_loader, start):
            timer.data_ready()
            self._note_bad(batch["bad"])
            lr = self.schedule(epoch + i / iterations)
            set_learning_rate(self.optimizer, lr)
            result, label, norm = self._train_iteration(batch, epoch, i, epoch * iterations + i)
            self._add_to_means(means, result, label, norm)
            timer.iteration_done(len(label) * distributed.world_size())
            if (line := live.current()) is not None:
                where = f"{epoch + 1}/{self.max_epoch}", f"{i + 1}/{iterations}"
                line.show(describe_iteration(where, means, result.ratio, lr, timer, self.device))
            if (i + 1) % self.log_period == 0 or i + 1 == iterations:
                self._log_iteration(epoch, i, iterations, means, result, lr, timer)
            self._checkpoint_inside(epoch, i + 1)
        self._log_epoch(epoch, means, lr, timer)
        self._gather_bad()
        self.refresh_classifier()

    def _train_iteration(
        self, batch: dict, epoch: int, iteration: int, step: int
    ) -> tuple[StepResult, Tensor, float]:
        """Forward, backward, clip and update for one batch."""
        video = batch["video"].to(self.device, non_blocking=True)
        label = batch["label"].to(self.device, non_blocking=True)
        if self.mixup is not None:
            # The same in every process, so that their number does not matter.
            rng = np.random.default_rng((self.seed % 2**64, step))
            video, label = self.mixup(video, label, rng)
        self.optimizer.zero_grad(set_to_none=True)
        result = self.step(video, label, step, self._captions_of(batch, epoch))
        scaler = self.step.scaler
        scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        finite = scaler.is_enabled() or (result.is_finite() and math.isfinite(norm))
        self._stopping, broken = self._agree(bool(self.stop.received), not finite)
        if broken:
            rows = batch["index"].tolist()
            stop_at_nonfinite(
                self.output_dir, epoch=epoch, iteration=iteration, model=self.model, result=result,
                norm=norm, rows=rows, videos=self.train_loader.dataset.describe(rows),
                config=self.config,
            )
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        self.skipped_steps += scaler.get_scale() < before
        return result, label, norm

    def _captions_of(self, batch: dict, epoch: int) -> Captions | None:
        if self.captions is None:
            return None
        return Captions(*(part.to(self.device) for part in self.captions(batch["index"], epoch)))

    def refresh_classifier(self) -> None:
        """Compute the class embeddings by a text tower that trains, as it is now."""
        if self.embed_classes is not None:
            model = unwrap(self.model)
            model.set_classifier(self.embed_classes(model.model))

    def _agree(self, *flags: bool) -> list[bool]:
        """Tell for each flag whether any process has it set; one exchange, in all processes."""
        return [x > 0 for x in distributed.all_reduce_sum([float(f) for f in flags], self.device)]

    def _checkpoint_inside(self, epoch: int, done: int) -> None:
        """After ``done`` iterations: write the state if it is due, and leave if that was agreed."""
        iterations = len(self.train_loader)
        period = self.checkpoint_iters
        due = period > 0 and (epoch * iterations + done) % period == 0
        own = done == iterations and self._due(epoch, self.checkpoint_period)
        if self._stopping or (due and not own):
            self.save_partial(epoch, done)
        if self._stopping:
            self._leave()

    def _leave(self) -> None:
        if self.writer is not None:
            self.writer.close()
        leaving = Interrupted(self.stop.received)
        logger.warning("%s: the state is saved, and the same command goes on from there (exit "
                       "code %d)", self.stop.received or "a signal elsewhere", leaving.code)
        raise leaving

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
        for name, loss in result.losses().items():
            means[name].add(float(loss), count)
        if math.isfinite(norm):
            means["grad_norm"].add(norm, count)
        if not self.multi_label:
            hits = compute_topk_correct(result.logits, label).double().mean(dim=1)
            for name, hit in zip(("top1_err", "top5_err"), hits.tolist(), strict=True):
                means[name].add(100.0 - 100.0 * hit, count)

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
        stats.update(lr=lr, **timer.stats(window=True), **memory_stats(self.device))
        if distributed.is_main():
            log_json_stats(stats, self.output_dir, terminal=live.current() is None)
        if self.writer is not None:
            memory = {"RAM_GiB": resident_memory()}
            if self.device.type == "cuda":
                memory["gpu_mem_GiB"] = peak_gpu_memory(self.device)
            self.writer.add_scalars("Train", {**stats, **memory}, epoch * iterations + i)

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
            **timer.stats(window=False),
            **memory_stats(self.device),
        }
        if distributed.is_main():
            log_json_stats(stats, self.output_dir)
        if self.writer is not None:
            self.writer.add_scalars("Epoch", stats, epoch)

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate the validation list; see :meth:`Validator.report` for what is returned.

        Raises:
            Interrupted: for a signal; the validation is done when the run goes on.
        """
        found = self.validator.predict(unwrap(self.model), epoch, self.stop)
        if self._agree(bool(self.stop.received))[0]:
            if not self._due(epoch, self.checkpoint_period):
                self.save_partial(epoch, len(self.train_loader))
            self._leave()
        return self.validator.report(found, epoch)

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
        """Write the checkpoint after ``epoch`` (counted from 0), then delete what it replaces."""
        path = ckpt.checkpoint_path(self.output_dir, epoch + 1)
        self._write(path, (epoch + 1, 0), {"epoch": epoch})

    def save_partial(self, epoch: int, done: int) -> None:
        """Write the state after ``done`` iterations of ``epoch``, in place of an earlier one."""
        path = ckpt.partial_path(self.output_dir, epoch + 1, done)
        self._write(path, (epoch, done), {
            "epoch": epoch - 1,  # the last whole one, as in every checkpoint
            "iteration": done,
            "iterations": len(self.train_loader),
            "means": gather_means(self.means),
        })

    def _write(self, path: Path, position: tuple[int, int], progress: dict[str, Any]) -> None:
        """Rank 0 writes; all processes must call it, and all raise if it fails."""
        for part in distributed.all_gather_object(self.bad_rows):
            self.bad_rows.update(part)
        content = {
            **progress,
            "model_state": unwrap(self.model).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.step.scaler.state_dict(),
            "random_state": ckpt.get_random_state(),
            "bad_rows": self.bad_rows,
            "skipped_steps": int(self.skipped_steps),
            "cfg": self.config,
        }
        if self.train_videos is not None:
            content[VIDEOS] = self.train_videos
        if self.embed_classes is not None:  # that of the epoch's beginning, for going on inside it
            content["classifier"] = unwrap(self.model).classifier

        def write() -> None:
            if distributed.is_main():
                ckpt.save_file(path, content)
                ckpt.remove_outdated(self.output_dir, position, self.keep)

        distributed.run_together(write)
        logger.info("saved %s", path)

    def load(self, content: dict, where: str | Path, *, reset_epoch: bool = False) -> None:
        """Take up training from a checkpoint of :meth:`save`.

        Args:
            content: what the file holds.
            where: its path, for messages.
            reset_epoch: take the weights only and begin at epoch 0.

        Raises:
            CheckpointError: weights or optimizer state are of another model.
            ConfigError: its config names extensions that this run does not.
        """
        parse_stored(content.get("cfg"), where)
        load_model_weights(unwrap(self.model), find_state_dict(content, where), str(where))
        logger.info("loaded the weights of %s", where)
        if reset_epoch or "optimizer_state" not in content:
            return
        if self.optimizer is not None:
            load_optimizer(self.optimizer, content["optimizer_state"], where)
        if content.get("scaler_state"):
            self.step.scaler.load_state_dict(content["scaler_state"])
        if "random_state" in content:
            ckpt.set_random_state(content["random_state"])
        self.start_epoch, self.start_iteration = check_progress(
            content, where, len(self.train_loader) if self.train_loader is not None else 0
        )
        if self.start_iteration and "classifier" in content:
            unwrap(self.model).set_classifier(content["classifier"])
        self.means = restore_means(content.get("means", {}))
        self.bad_rows = dict(content.get("bad_rows", {}))
        self.skipped_steps = content.get("skipped_steps", 0)
        logger.info("resuming after epoch %d, iteration %d from %s", self.start_epoch,
                    self.start_iteration, where)
