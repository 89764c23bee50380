"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796), towards CLIP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.data.lists.labels import build_label_space
from openvclip.data.loader import build_loader
from openvclip.models.build import build_classifier
from openvclip.models.raw import build_raw_tensors
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.fisher import (
    Fisher,
    compute_fisher,
    digest,
    find_used,
    iterate_logged,
    load_fisher,
    save_fisher,
)
from openvclip.training.objectives.losses import build_loss
from openvclip.training.objectives.penalty import Quadratic, WeightPenalty
from openvclip.training.objectives.pull import build_pull_plan
from openvclip.utils import distributed
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

FILE = "fisher_0.pth"  # published: fisher_<local rank>.pth, the same in all processes
LOGIT_SCALE = "model.logit_scale"
STATE = "fisher"


class EWC(WeightPenalty):
    """Adds ``weight * 1/2 sum_k F_k (theta_k - raw_k)^2``, F being the Fisher information.

    It is computed, or read, when training begins, and written to ``file``. Checkpoints hold its
    checksum, and a resumed run reads the file.

    Args:
        parameters: those that train and that CLIP has, by name.
        anchors: the raw model's tensors under their names, at each step.
        weight: factor of the penalty.
        compute: makes the Fisher information at the model's weights; None: ones for ``used``.
        file: where it is written to.
        load_file: where it is read from instead, or None.
        optional: names of parameters that this file may lack.
        left_out: names of parameters that are not penalised.
        due: whether the term is there in an epoch.
    """

    name = "ewc"

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], anchors: Mapping[str, Tensor],
        weight: float, *, compute: Callable[[], Fisher], file: str | Path | None,
        load_file: str | Path | None = None, optional: Collection[str] = (),
        left_out: Collection[str] = (), due: Callable[[int], bool] = lambda epoch: True,
    ) -> None:
        self.parameters, self.anchors, self.weight = dict(parameters), anchors, weight
        self.compute, self.file, self.load_file = compute, file, load_file
        self.optional, self.left_out, self.due = optional, left_out, due
        self.active = True
        self.fisher: Fisher = {}
        self._digest = self._expected = ""

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> EWC:
        """Build what ``TRAIN.EWC_*`` ask for."""
        train = cfg.TRAIN
        anchors = build_raw_tensors(cfg, model)
        parameters = {name: p for name, p in model.named_parameters() if name in anchors}
        if not parameters:
            raise ConfigError("TRAIN.EWC_SET is True, but nothing that CLIP has trains; set it to "
                              "False, or let CLIP's weights train")
        identity = train.EWC_IDENTITY_FISHER
        make = partial(_build_ones if identity else _build_fisher, cfg, model, parameters)
        text = {f"model.{name}" for name in model.model.text_parameters()}
        plan = build_pull_plan(cfg)
        return cls(
            parameters, anchors, train.EWC_CONSTRAIN_RATIO, compute=make,
            file=None if identity else Path(cfg.OUTPUT_DIR) / FILE,
            load_file=train.EWC_LOAD_FILE or None,
            optional=text | {"model.logit_bias"}
            | ({LOGIT_SCALE} if train.EWC_IGNORE_LOGIT_SCALE else set()),
            left_out={LOGIT_SCALE} if train.EWC_IGNORE_LOGIT_SCALE else (),
            due=plan.restarts if train.ZS_RESTART_CONS else lambda epoch: True,
        )

    def prepare(self) -> None:
        """Compute the Fisher information or read it.

        Raises:
            CheckpointError: a file does not fit, or is not that with which training began.
            TrainingError: as :func:`compute_fisher`.
        """
        path = self.load_file or (self.file if self._expected else None)
        if path is not None:
            fisher = distributed.run_together(lambda: self._read(path))
            logger.info("EWC: Fisher information of %d tensors from %s", len(fisher), path)
        else:
            fisher = self.compute()
            if self.file is not None:
                save_fisher(self.file, fisher)
                logger.info("EWC: Fisher information of %d tensors is in %s", len(fisher),
                            self.file)
        self._digest = digest(fisher)
        if self._expected and self._digest != self._expected:
            raise CheckpointError(
                f"the Fisher information {f'in {path}' if path else 'of this run'} is not that "
                "with which the checkpoint was trained; put that file back, or name it in "
                "TRAIN.EWC_LOAD_FILE")
        if free := self.parameters.keys() - fisher.keys():
            logger.warning("EWC: %d tensors that train have no Fisher information, such as %s: it "
                           "does not hold them", len(free), min(free))
        self.fisher = {name: tensor for name, tensor in fisher.items()
                       if name not in self.left_out}

    def _read(self, path: str | Path) -> Fisher:
        try:
            return load_fisher(path, self.parameters, self.optional)
        except CheckpointError as error:
            if self.load_file:
                raise CheckpointError(f"TRAIN.EWC_LOAD_FILE: {error}") from error
            raise CheckpointError(
                f"EWC goes on with the Fisher information of the run's beginning: {error}. Put the "
                "file back, or name it in TRAIN.EWC_LOAD_FILE") from error

    def begin_epoch(self, epoch: int) -> None:
        """Decide whether the term is there."""
        self.active = self.due(epoch)

    def quadratics(self) -> Iterator[Quadratic]:
        """Yield the penalty, if it is there in this epoch."""
        if self.active:
            names = list(self.fisher)
            yield Quadratic([self.parameters[name] for name in names],
                            [self.anchors[name] for name in names], list(self.fisher.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return the checksum of the Fisher information; the file has the values."""
        return {STATE: self._digest or self._expected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Expect the Fisher information with which training began."""
        self._expected = state[STATE]


def _build_ones(cfg: Any, model: VideoCLIP, parameters: Mapping[str, nn.Parameter]) -> Fisher:
    """Return ones for the parameters on which logits depend; it takes no data."""
    size, scale = model.model.image_size, model.model.logit_scale
    video = torch.zeros(1, 3, model.num_frames, size, size, device=scale.device)
    return {name: torch.ones_like(parameters[name])
            for name in find_used(model, parameters, video)}


def _build_fisher(cfg: Any, model: VideoCLIP, parameters: Mapping[str, nn.Parameter]) -> Fisher:
    """Compute it over the training list: its augmentation, half of the batch, no mixing, fp32."""
    device, processes = model.model.logit_scale.device, distributed.world_size()
    half = cfg.clone()
    half.defrost()
    share = max(1, cfg.TRAIN.BATCH_SIZE // processes // 2)
    half.TRAIN.BATCH_SIZE = share * processes
    half.freeze()
    loader = build_loader(half, "train", distributed.rank(), processes, device)
    logger.info("EWC: computing the Fisher information over %d batches of %d clips", len(loader),
                half.TRAIN.BATCH_SIZE)
    batches = iterate_logged(loader, device, period=cfg.LOG_PERIOD,
                             max_bad_fraction=cfg.DATA.MAX_BAD_FRACTION)
    training = model.training
    model.train()
    if model.embeds_classes:  # at each step, and not yet: prompts have no embeddings so far
        names = build_label_space(cfg).names
        model.live_classifier = build_classifier(cfg, model.model, names, cache=False).to(
            device, model.model.logit_scale.dtype)
    try:
        fisher = compute_fisher(model, build_loss(cfg), parameters, batches,
                                parts=min(cfg.TRAIN.GRAD_ACCUM_STEPS, share))
    finally:
        model.live_classifier = None
        model.train(training)
    return fisher
