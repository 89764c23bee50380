"""cfg -> everything that training needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import (
    build_autocast,
    build_scaler,
    build_weights,
    copy_text_tower,
    load_weights,
    require_prompts,
    text_tower_differs,
    unwrap,
)
from openvclip.checkpoints.training_config import check_resumed, describe_videos
from openvclip.config.defaults import get_cfg
from openvclip.config.doors import OBJECTIVES
from openvclip.config.validate import find_ratios
from openvclip.data.augment.mixup import build_mixup
from openvclip.data.lists.labels import build_label_space
from openvclip.data.lists.locate import build_list_path
from openvclip.data.loader import Loader, build_loader
from openvclip.interpolation import Weights
from openvclip.models.backbone import Backbone
from openvclip.models.build import build_classifier, build_model
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.writers import TensorboardWriter, build_tensorboard
from openvclip.training.batches import Batches, build_captions
from openvclip.training.objectives.connect import build_interpolator
from openvclip.training.objectives.keys import switched_on
from openvclip.training.objectives.losses import build_loss, build_loss_weight
from openvclip.training.objectives.objective import Objective
from openvclip.training.optim import (
    Schedule,
    build_optimizer,
    build_schedule,
    freeze_parameters,
)
from openvclip.training.sharding import build_wrapped
from openvclip.training.step import PlainStep
from openvclip.training.train_state import Output
from openvclip.training.trainer import Trainer
from openvclip.training.validation import Validator
from openvclip.utils import distributed
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import is_file

logger = get_logger(__name__)


def build_objectives(cfg, model: nn.Module) -> list[Objective]:
    """Build the objectives that the config switches on and names, in the registry's order."""
    objectives = []
    for name in build_objective_names(cfg):
        objective = OBJECTIVES.get(name).build(cfg, model)
        objective.name = name
        objectives.append(objective)
    return objectives


def build_objective_names(cfg) -> list[str]:
    """Return the objectives that the config switches on and names, in the registry's order."""
    on = {*switched_on(cfg), *cfg.TRAIN.OBJECTIVES}
    return [name for name in OBJECTIVES.names() if name is not None and name in on]


def build_validator(
    cfg, step: PlainStep, loader: Any, device: torch.device, *, frozen: Collection[str],
    writer: TensorboardWriter | None, embed_classes: Callable[[Backbone], torch.Tensor] | None,
) -> Validator:
    """Build the validation, with the patching that ``TRAIN.EVAL_PATCHING_RATIO`` asks for."""
    weights = None
    # VAL_MODE with the ratios of a test patches as that does (_build_start): no other mixer then.
    if cfg.TRAIN.EVAL_PATCHING_RATIO > 0 and not (cfg.VAL_MODE and find_ratios(cfg)):
        # The step's own, if it mixes what a test would patch with CLIP: no second copy then.
        others = frozen or cfg.TRAIN.LINEAR_CONNECT_ANCHOR != "clip"
        shared = None if others else step.interpolator
        weights = shared or build_interpolator(
            cfg, unwrap(step.model), frozen, "for patched validation")
    return Validator(
        loader=loader,
        num_classes=cfg.MODEL.NUM_CLASSES,
        device=device,
        autocast=build_autocast(cfg, device, "TEST"),
        output_dir=cfg.OUTPUT_DIR,
        max_epoch=cfg.SOLVER.MAX_EPOCH,
        multi_label=cfg.DATA.MULTI_LABEL,
        weights=weights or Weights(),
        ratios=(cfg.TRAIN.EVAL_PATCHING_RATIO,) if weights else (),
        embed_classes=embed_classes,
        others={name: held for objective in step.objectives
                for name, held in objective.validated_weights().items()},
        writer=writer,
        log_period=cfg.LOG_PERIOD,
    )


def find_last_checkpoint(output_dir: str) -> tuple[Path, dict] | None:
    """Read the newest usable checkpoint, the same in every process: rank 0 checks and chooses.

    Raises:
        CheckpointError: another process cannot read what rank 0 chose.
    """
    last = ckpt.load_last_checkpoint(output_dir) if distributed.is_main() else None
    path = distributed.all_gather_object(last and last[0])[0]
    if path is None:
        return None
    return path, distributed.run_together(
        lambda: last[1] if last else ckpt.load_file(path, verify=False))


def build_initial_weights(cfg, trainer: Trainer) -> str | None:
    """Load the weights that training starts from, and log which; return their file, if any.

    In this order: the newest checkpoint of ``OUTPUT_DIR`` (``TRAIN.AUTO_RESUME``);
    ``TRAIN.CHECKPOINT_FILE_PATH``, with its optimizer and epoch unless
    ``TRAIN.CHECKPOINT_EPOCH_RESET``; the weights of ``TRAIN.CUSTOM_LOAD_FILE``; CLIP.
    """
    train = cfg.TRAIN
    if distributed.is_main():
        ckpt.remove_leftovers(cfg.OUTPUT_DIR)
    last = find_last_checkpoint(cfg.OUTPUT_DIR) if train.AUTO_RESUME else None
    if last is not None:
        path, content = last
        videos = trainer.output.train_videos  # the main process has them
        distributed.run_together(
            lambda: None if videos is None else check_resumed(content, path, videos))
        trainer.load(content, path)
        return str(path)
    if train.CHECKPOINT_FILE_PATH:
        trainer.load(ckpt.load_file(train.CHECKPOINT_FILE_PATH), train.CHECKPOINT_FILE_PATH,
                     reset_epoch=train.CHECKPOINT_EPOCH_RESET)
        return train.CHECKPOINT_FILE_PATH
    if train.CUSTOM_LOAD:
        load_weights(unwrap(trainer.model), train.CUSTOM_LOAD_FILE)
        return train.CUSTOM_LOAD_FILE
    logger.info("%s the original CLIP", "validating" if cfg.VAL_MODE else "training begins at")
    return None


def _build_val_loader(cfg, **here: Any) -> Loader | None:
    """Build the loader of validation; without the list of the default name there is none.

    A list that VAL_FILE names and that is missing is an error, which reading it explains.
    """
    if cfg.VAL_MODE or cfg.VAL_FILE != get_cfg().VAL_FILE or is_file(build_list_path(cfg, "val")):
        return build_loader(cfg, "val", **here)
    logger.warning("no %s in %s: training without validation", cfg.VAL_FILE,
                   cfg.DATA.PATH_TO_DATA_DIR)
    return None


def build_trainer(cfg) -> Trainer:
    """Build the trainer, with its initial weights already loaded.

    Lists, class names and weights are all read and checked here, before any long work.
    """
    torch.manual_seed(cfg.RNG_SEED)
    device = distributed.select_device(cfg.NUM_GPUS)
    share = cfg.TRAIN.BATCH_SIZE // distributed.world_size()
    _check_share(share, parts=cfg.TRAIN.GRAD_ACCUM_STEPS, in_pairs=cfg.MIXUP.ENABLE)
    labels = build_label_space(cfg)
    here: dict[str, Any] = {"rank": distributed.rank(), "world_size": distributed.world_size(),
                            "device": device}
    train_loader = None if cfg.VAL_MODE else build_loader(cfg, "train", **here)
    batches = _build_batches(cfg, train_loader)
    val_loader = _build_val_loader(cfg, **here)
    model = build_model(cfg, labels.names)
    if batches.captions is not None:
        batches.captions.tokenizer = model.model.tokenizer
    trained = _list_trained(model)
    if not cfg.VAL_MODE:
        for name in build_objective_names(cfg):
            OBJECTIVES.get(name).extend_model(cfg, model)
    frozen = freeze_parameters(model, cfg) | (trained - _list_trained(model))
    if cfg.LOG_MODEL_INFO:
        log_model_info(model)
    embed_classes = partial(build_classifier, cfg, label_names=labels.names, cache=False)
    step, optimizer = build_updates(cfg, model, device)
    own_text = embed_classes if model.train_text else None
    writer = build_tensorboard(cfg, labels.names)
    trainer = Trainer(
        step=step,
        optimizer=optimizer,
        schedule=Schedule(
            build_schedule(cfg),
            max_epoch=cfg.SOLVER.MAX_EPOCH,
            checkpoint_period=cfg.TRAIN.CHECKPOINT_PERIOD,
            eval_period=cfg.TRAIN.EVAL_PERIOD,
            log_period=cfg.LOG_PERIOD,
            checkpoint_iters=cfg.TRAIN.CHECKPOINT_ITERS,
        ),
        batches=batches,
        validator=None if val_loader is None else build_validator(
            cfg, step, val_loader, device, frozen=frozen, writer=writer, embed_classes=own_text),
        output=_build_output(cfg, train_loader, writer),
        device=device,
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        embed_classes=own_text,
    )
    _build_start(cfg, trainer, embed_classes)
    return trainer


def _list_trained(model: VideoCLIP) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def _build_batches(cfg, loader: Any) -> Batches:
    return Batches(
        loader,
        mixup=build_mixup(cfg),
        captions=build_captions(cfg, loader.dataset.videos.paths) if loader else None,
        multi_label=cfg.DATA.MULTI_LABEL,
        max_bad_fraction=cfg.DATA.MAX_BAD_FRACTION,
        seed=cfg.RNG_SEED,
    )


def _build_output(cfg, loader: Any, writer: TensorboardWriter | None) -> Output:
    train, own = cfg.TRAIN, loader is not None and distributed.is_main()
    return Output(
        Path(cfg.OUTPUT_DIR),
        config=cfg.dump(),
        train_videos=describe_videos(loader.dataset.videos.paths, cfg.DATA.PATH_PREFIX)
        if own else None,
        keep=ckpt.Keep(train.CHECKPOINT_KEEP_LAST, train.CHECKPOINT_KEEP_EVERY,
                       *train.CHECKPOINT_KEEP_RANGE),
        writer=writer,
    )


def build_updates(
    cfg, model: VideoCLIP, device: torch.device
) -> tuple[PlainStep, torch.optim.Optimizer | None]:
    """Build the step that changes the weights; for ``VAL_MODE`` one that merely holds the model."""
    if cfg.VAL_MODE:
        return PlainStep(model.to(device), build_loss(cfg)), None
    wrapped = build_wrapped(cfg, model, device)
    step = PlainStep(
        wrapped, build_loss(cfg), autocast=build_autocast(cfg, device, "TRAIN"),
        scaler=build_scaler(cfg, device), accumulate=cfg.TRAIN.GRAD_ACCUM_STEPS,
        caption_ratio=None, objectives=build_objectives(cfg, model),
        loss_weight=build_loss_weight(cfg),
    )
    logger.info("making the optimizer, for which torch loads its compiler")
    return step, build_optimizer(model, cfg)


def _check_share(share: int, *, parts: int, in_pairs: bool) -> None:
    """Check that a process's ``share`` of a batch can be cut into parts, and mixed in pairs."""
    if parts > max(share, 1):
        raise ConfigError(
            f"TRAIN.GRAD_ACCUM_STEPS is {parts}, but a process has only {share} videos of a batch; "
            "lower it, or raise TRAIN.BATCH_SIZE"
        )
    if in_pairs and share % 2:
        raise ConfigError(
            f"MIXUP.ENABLE is True, but a process has {share} videos of a batch; videos are mixed "
            "in pairs: make TRAIN.BATCH_SIZE an even multiple of the number of processes"
        )


def _build_start(cfg, trainer: Trainer, embed_classes: Callable[[Backbone], torch.Tensor]) -> None:
    """Load the weights that a run starts from, with a classifier by their own text tower."""
    model = unwrap(trainer.model)
    text = copy_text_tower(model)
    loaded = build_initial_weights(cfg, trainer)
    other_text = text_tower_differs(model, text)
    # Within an epoch of a text tower that trains, the checkpoint has that of the epoch's beginning.
    if other_text and (trainer.start_iteration == 0 or trainer.embed_classes is None):
        model.set_classifier(embed_classes(model.model))
    if cfg.VAL_MODE:
        if loaded is None:
            require_prompts(model, None)
        weights, ratios = build_weights(cfg, model, loaded)
        if ratios and (validator := trainer.validator) is not None:
            shares = dict.fromkeys((cfg.TRAIN.EVAL_PATCHING_RATIO, *ratios))
            validator.weights, validator.ratios = weights, [r for r in shares if r > 0]
            if other_text:
                validator.embed_classes = embed_classes


def log_model_info(model: nn.Module) -> None:
    """Log the number of parameters, and how many of them train."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("%s: %.2f M parameters, %.2f M train", type(model).__name__, total / 1e6,
                trained / 1e6)
