"""The epoch loop: train, checkpoint, validate, resume, stop when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import unwrap
from openvclip.checkpoints.training_config import VIDEOS
from openvclip.clip.towers import TOWER
from openvclip.clip.weights import find_state_dict
from openvclip.config.extensions import parse_stored
from openvclip.models.backbone import Backbone
from openvclip.models.build import load_model_weights
from openvclip.report.run.curves import write_curves
from openvclip.training.batches import BadRows, Batches
from openvclip.training.log import IterationTimer, TrainingLog, gather_means, restore_means
from openvclip.training.optim import Schedule, set_learning_rate
from openvclip.training.step import PlainStep, StepResult
from openvclip.training.train_state import (
    Output,
    check_progress,
    load_objectives,
    load_optimizer,
    stop_at_nonfinite,
    validation_missed,
)
from openvclip.training.validation import Validator
from openvclip.utils import distributed, live
from openvclip.utils.logging import get_logger
from openvclip.utils.shards import gather
from openvclip.utils.signals import Interrupted, StopSignals

logger = get_logger(__name__)


@dataclass(eq=False, kw_only=True)
class Trainer:
    """Trains a video classifier with a step from :mod:`openvclip.training.step`.

    Args:
        step: leaves the gradients of a batch on the parameters; holds the model.
        optimizer: groups carry ``lr_factor``; None to only validate.
        schedule: how long training lasts, and when it does what.
        batches: the training videos.
        validator: evaluates the validation list, or None.
        output: what is written, and where.
        device: where the model is.
        clip_value: limit of each entry of the gradient; None: none.
        clip_norm: limit of its global L2 norm, used if ``clip_value`` is None; None: none.
        embed_classes: makes the (C, D) classifier with the text tower, if that trains.
    """

    step: PlainStep
    optimizer: torch.optim.Optimizer | None
    schedule: Schedule
    batches: Batches
    validator: Validator | None
    output: Output
    device: torch.device
    clip_value: float | None = None
    clip_norm: float | None = None
    embed_classes: Callable[[Backbone], Tensor] | None = None

    def __post_init__(self) -> None:
        self.train_loader = self.batches.loader
        self.start_epoch = self.start_iteration = self.skipped_steps = 0
        self.log = TrainingLog(self.output.folder, self.schedule.max_epoch, self.device,
                               multi_label=self.batches.multi_label, writer=self.output.writer)
        self.stop, self._stopping = StopSignals(), False
        self.bad_rows = BadRows(self.train_loader.dataset if self.train_loader else None,
                                self.batches.max_bad_fraction)

    @property
    def model(self) -> nn.Module:
        """The model, possibly wrapped by DDP."""
        return self.step.model

    def _trained_by(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None  # VAL_MODE has none, and trains nothing
        return self.optimizer

    def run(self, stop: StopSignals | None = None) -> None:
        """Train from ``start_epoch``, at ``start_iteration``, to the end.

        Raises:
            Interrupted: ``stop`` of any process recorded a signal; all write a checkpoint after the
                step before they raise.
        """
        self.stop = stop or self.stop
        self.stop.take_interrupts()
        schedule, folder = self.schedule, self.output.folder
        if self.start_epoch >= schedule.max_epoch:
            logger.info("training is complete (%d epochs)", schedule.max_epoch)
        for objective in self.step.objectives if self.start_epoch < schedule.max_epoch else ():
            objective.prepare()
        last = self.start_epoch - 1
        whole = last >= 0 and self.start_iteration == 0 and self.validator is not None
        if whole and schedule.due(last, schedule.eval_period) and validation_missed(folder, last):
            self.validate(last)
        for epoch in range(self.start_epoch, schedule.max_epoch):
            if epoch == self.start_epoch:
                logger.info("epoch %d of %d: starting the decoding processes; %d iterations",
                            epoch + 1, schedule.max_epoch, len(self.train_loader))
            self.train_epoch(epoch)
            if schedule.due(epoch, schedule.checkpoint_period):
                self.save(epoch)
            if self.validator is not None and schedule.due(epoch, schedule.eval_period):
                self.validate(epoch)
        if self.output.writer is not None:
            self.output.writer.close()
        if (line := live.current()) is not None:
            line.clear()
        if distributed.is_main():
            write_curves(folder)

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch, or the rest of one that was started, and log its statistics."""
        start = self.start_iteration if epoch == self.start_epoch else 0
        if not start:
            self.log.means = restore_means({})
        self.model.train()
        for objective in self.step.objectives:
            objective.begin_epoch(epoch)
        self.train_loader.set_epoch(epoch, start)
        iterations = len(self.train_loader)
        timer = IterationTimer((self.schedule.max_epoch - epoch) * iterations - start)
        lr = self._learning_rate(epoch + max(start - 1, 0) / iterations)
        for i, batch in enumerate(self.train_loader, start):
            timer.data_ready()
            self.bad_rows.note(batch["bad"])
            lr = self._learning_rate(epoch + i / iterations)
            set_learning_rate(self._trained_by(), lr)
            result, label, norm = self.train_iteration(batch, epoch, i, epoch * iterations + i)
            self.log.add(result, label, norm)
            timer.iteration_done(len(label) * distributed.world_size())
            place = epoch, i, iterations
            self.log.show_iteration(place, result.ratio, lr, timer)
            if (i + 1) % self.schedule.log_period == 0 or i + 1 == iterations:
                self.log.write_iteration(place, result.ratio, lr, timer, self.skipped_steps)
            self._checkpoint_inside(epoch, i + 1)
        self.log.write_epoch(epoch, lr, timer)
        self.bad_rows.write(self.output.folder)
        if self.embed_classes is not None:  # the text tower has trained
            model = unwrap(self.model)
            model.set_classifier(self.embed_classes(model.model))
        for objective in self.step.objectives:
            objective.end_epoch(epoch)

    def _learning_rate(self, epoch: float) -> float:
        factor = math.prod(objective.rate for objective in self.step.objectives)
        return self.schedule.learning_rate(epoch) * factor

    def train_iteration(
        self, batch: dict, epoch: int, iteration: int, step: int
    ) -> tuple[StepResult, Tensor, float]:
        """Forward, backward, clip and update for one batch."""
        video, label, captions = self.batches.load(batch, self.device, epoch, step)
        optimizer = self._trained_by()
        optimizer.zero_grad(set_to_none=True)
        result = self.step(video, label, step, captions)
        scaler = self.step.scaler
        scaler.unscale_(optimizer)
        norm = self._clip_gradients()
        finite = scaler.is_enabled() or (result.is_finite() and math.isfinite(norm))
        self._stopping, broken = self._agree(bool(self.stop.received), not finite)
        if broken:
            rows = batch["index"].tolist()
            stop_at_nonfinite(
                self.output, epoch=epoch, iteration=iteration, model=self.model, result=result,
                norm=norm, rows=rows, videos=self.train_loader.dataset.describe(rows),
            )
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped = scaler.get_scale() < before
        self.skipped_steps += skipped
        for objective in self.step.objectives:
            if skipped:
                objective.update_skipped(step)
            objective.after_update(step)
        return result, label, norm

    def _clip_gradients(self) -> float:
        """Limit the gradients and return their global L2 norm from before."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.clip_value is None:
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        return float(gather(norm))

    def _agree(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has it set; one exchange, in all processes."""
        return [x > 0 for x in distributed.all_reduce_sum([float(f) for f in flags], self.device)]

    def _checkpoint_inside(self, epoch: int, done: int) -> None:
        """After ``done`` iterations: write the state if it is due, and exit if that was agreed."""
        iterations = len(self.train_loader)
        period = self.schedule.checkpoint_iters
        due = period > 0 and (epoch * iterations + done) % period == 0
        own = done == iterations and self.schedule.due(epoch, self.schedule.checkpoint_period)
        if self._stopping or (due and not own):
            self.save_partial(epoch, done)
        if self._stopping:
            self._leave()

    def _leave(self) -> None:
        if self.output.writer is not None:
            self.output.writer.close()
        leaving = Interrupted(self.stop.received)
        logger.warning("%s: the state is saved, and the same command resumes from there (exit "
                       "code %d)", self.stop.received or "a signal elsewhere", leaving.code)
        raise leaving

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate the validation list; see :meth:`Validator.report` for what is returned.

        Raises:
            Interrupted: for a signal; the validation is done when the run resumes.
        """
        assert self.validator is not None  # the caller asks
        predictions = self.validator.predict(unwrap(self.model), epoch, self.stop)
        if self._agree(bool(self.stop.received))[0]:
            if not self.schedule.due(epoch, self.schedule.checkpoint_period):
                self.save_partial(epoch, len(self.train_loader))
            self._leave()
        return self.validator.report(predictions, epoch)

    def save(self, epoch: int) -> None:
        """Write the checkpoint after ``epoch`` (counted from 0), then delete what it replaces."""
        path = ckpt.checkpoint_path(self.output.folder, epoch + 1)
        self._write(path, (epoch + 1, 0), {"epoch": epoch})

    def save_partial(self, epoch: int, done: int) -> None:
        """Write the state after ``done`` iterations of ``epoch``, replacing an earlier one."""
        path = ckpt.partial_path(self.output.folder, epoch + 1, done)
        self._write(path, (epoch, done), {
            "epoch": epoch - 1,  # the last complete one, as in every checkpoint
            "iteration": done,
            "iterations": len(self.train_loader),
            "means": gather_means(self.log.means),
        })

    def _write(self, path: Path, position: tuple[int, int], progress: dict[str, Any]) -> None:
        """Rank 0 writes; all processes must call it, and all raise if it fails."""
        content = {
            **progress,
            "model_state": self._whole(unwrap(self.model).state_dict()),
            "optimizer_state": self._whole(self._trained_by().state_dict()),
            "scaler_state": self.step.scaler.state_dict(),
            "random_state": ckpt.get_random_state(),
            "bad_rows": self.bad_rows.gather(),
            "skipped_steps": int(self.skipped_steps),
            "cfg": self.output.config,
        }
        tower = getattr(unwrap(self.model).model, "tower", None)
        if tower is not None:  # heads and activations, which weights do not tell
            content[TOWER] = tower.to_dict()
        if self.output.train_videos is not None:
            content[VIDEOS] = self.output.train_videos
        if self.embed_classes is not None:  # that of the epoch's beginning, for resuming within it
            content["classifier"] = unwrap(self.model).classifier
        states = {x.name: self._whole(state) for x in self.step.objectives
                  if (state := x.state_dict())}
        if states:
            content["objectives"] = states

        def write() -> None:
            if distributed.is_main():
                ckpt.save_file(path, content)
                ckpt.remove_outdated(self.output.folder, position, self.output.keep)

        distributed.run_together(write)
        logger.info("saved %s", path)

    @staticmethod
    def _whole(state: Any) -> Any:
        """Tensors whole, as if nothing had been sharded, in the process that writes them."""
        return gather(state, keep=distributed.is_main())

    def load(self, content: dict, where: str | Path, *, reset_epoch: bool = False) -> None:
        """Resume training from the content of a checkpoint of :meth:`save`.

        With ``reset_epoch`` it takes only the weights and starts at epoch 0.

        Raises:
            CheckpointError: weights or optimizer state belong to another model.
            ConfigError: its config names extensions that this run does not.
        """
        parse_stored(content.get("cfg"), where)
        load_model_weights(unwrap(self.model), find_state_dict(content, where), str(where))
        logger.info("loaded the weights of %s", where)
        if reset_epoch or "optimizer_state" not in content:
            return
        if self.optimizer is not None:
            load_optimizer(self.optimizer, content["optimizer_state"], where)
            load_objectives(self.step.objectives, content.get("objectives", {}), where)
        if content.get("scaler_state"):
            self.step.scaler.load_state_dict(content["scaler_state"])
        if "random_state" in content:
            ckpt.set_random_state(content["random_state"])
        self.start_epoch, self.start_iteration = check_progress(
            content, where, len(self.train_loader) if self.train_loader is not None else 0
        )
        if self.start_iteration and "classifier" in content:
            unwrap(self.model).set_classifier(content["classifier"])
        self.log.means = restore_means(content.get("means", {}))
        self.bad_rows.reasons = dict(content.get("bad_rows", {}))
        self.skipped_steps = content.get("skipped_steps", 0)
        logger.info("resuming after epoch %d, iteration %d from %s", self.start_epoch,
                    self.start_iteration, where)
