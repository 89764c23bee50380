"""Optimizer, its parameter groups and the learning-rate schedule, as in PySlowFast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


DEFAULT, PROMPTS = "default", "prompt_embed"
# The words of learning-rate factors and their keys in MODEL, in the order of the groups.
FACTORS = {
    DEFAULT: "DEFAULT_FINETUNE_FACTOR", "message": "FINETUNE_FACTOR",
    "stadapt": "ADAPT_FINETUNE_FACTOR", "mlp": "MLP_FINETUNE_FACTOR",
    "experts": "EXPERT_FINETUNE_FACTOR", "routing": "ROUTING_FINETUNE_FACTOR",
    PROMPTS: "PROMPT_FINETUNE_FACTOR",
}


def compute_parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float,
    zero_wd_1d: bool = False, lr_factors: Mapping[str, float] | None = None,
) -> list[dict]:
    """Group parameters by weight decay and the word of their learning-rate factor, as published.

    Args:
        named_parameters: all parameters; frozen ones may be among them (no gradient, no update).
        weight_decay: of those that decay.
        zero_wd_1d: no decay on 1-D tensors and names ending ``.bias``; ``logit_scale`` (0-D),
            positional embeddings and projections do decay.
        lr_factors: word -> factor on the learning rate, see :func:`find_word`; words left out have
            the factor 1. If all are 1, no word has groups of its own.

    Returns:
        Groups for a torch optimizer, with ``lr_factor`` and ``names``: by word, ``default`` first,
        and of each word the decaying ones first. Parameters with the factor 0 are in none.
    """
    factors = dict(lr_factors or {})
    if all(factor == 1.0 for factor in factors.values()):
        factors = {}
    order = [DEFAULT, *(word for word in factors if word != DEFAULT)]
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in named_parameters:
        plain = zero_wd_1d and (parameter.dim() == 1 or name.endswith(".bias"))
        word = find_word(name, factors)
        factor = factors.get(word, 1.0)
        if factor == 0.0:
            continue
        group = groups.setdefault((order.index(word), plain), {
            "params": [], "names": [], "weight_decay": 0.0 if plain else weight_decay,
            "lr_factor": factor,
        })
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def find_word(name: str, words: Iterable[str]) -> str:
    """Return which of ``words`` is in the path of the parameter's module; ``default``: none.

    The module of ``...resblocks.0.message_fc.weight`` is ``...resblocks.0.message_fc``. Prompts,
    which belong to the towers as a whole, have a word of their own.
    """
    module, _, own = name.rpartition(".")
    return next((word for word in words if word != DEFAULT
                 and (word in module or word == own == PROMPTS)), DEFAULT)


def build_factors(cfg) -> dict[str, float]:
    """Return the config's learning-rate factors by their words, in the order of the groups."""
    return {word: cfg.MODEL[key] for word, key in FACTORS.items()}


def freeze_parameters(model: nn.Module, cfg) -> set[str]:
    """Freeze parameters of learning-rate factor 0, as published: no gradient, update or state.

    Call it before the model is wrapped for distributed training and before its parameters are
    mixed: frozen parameters are not mixed in training either.

    Returns:
        The names of the parameters that this froze, not of those already frozen.

    Raises:
        ConfigError: nothing is left to train.
    """
    factors = build_factors(cfg)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name in trained if factors[find_word(name, factors)] == 0.0}
    for name in frozen:
        trained[name].requires_grad_(False)
    if frozen and len(frozen) == len(trained):
        zero = [f"MODEL.{key}" for word, key in FACTORS.items() if factors[word] == 0.0]
        raise ConfigError(
            f"all {len(frozen)} parameters are frozen: {' and '.join(zero)} "
            f"{'is' if len(zero) == 1 else 'are'} 0, and no parameter of this model has another "
            "factor; give one of them more than 0"
        )
    if frozen:
        logger.info("%d of %d parameters are frozen: their learning-rate factor is 0", len(frozen),
                    len(trained))
    return frozen


@dataclass(frozen=True)
class Schedule:
    """How long training lasts, and when it does what.

    Attributes:
        learning_rate: as a function of the exact epoch.
        max_epoch: total number of epochs.
        checkpoint_period, eval_period: in epochs; the last epoch always counts.
        log_period: in iterations; an epoch's last one has its own line.
        checkpoint_iters: iterations between states written within epochs; 0: none.
    """

    learning_rate: Callable[[float], float]
    max_epoch: int
    checkpoint_period: int = 1
    eval_period: int = 1
    log_period: int = 10
    checkpoint_iters: int = 0

    def due(self, epoch: int, period: int) -> bool:
        """Whether an action with this period is due after ``epoch``, counted from 0."""
        return (epoch + 1) % period == 0 or epoch + 1 == self.max_epoch


def build_schedule(cfg) -> Callable[[float], float]:
    """Return the learning rate as a function of ``epoch + iteration / iterations``.

    ``BASE_LR_SCALE_NUM_SHARDS`` multiplies the base, final and warm-up rates by the number of
    nodes (linear scaling, as PySlowFast does). The rate rises linearly to the policy at
    ``WARMUP_EPOCHS``, then follows it: a cosine over the epochs, or with ``COSINE_RESTART_EPOCH``
    one of that period that restarts (SGDR); or the base rate times the entry of ``LRS`` for the
    latest of ``STEPS``.
    """
    solver = cfg.SOLVER
    scale = cfg.NUM_SHARDS if solver.BASE_LR_SCALE_NUM_SHARDS else 1
    base_lr, end_lr = solver.BASE_LR * scale, solver.COSINE_END_LR * scale
    start_lr, warmup_epochs = solver.WARMUP_START_LR * scale, solver.WARMUP_EPOCHS
    offset = warmup_epochs if solver.COSINE_AFTER_WARMUP else 0.0
    period = solver.COSINE_RESTART_EPOCH

    def cosine(epoch: float) -> float:
        done, length = epoch - offset, solver.MAX_EPOCH - offset
        if period:
            done, length = done % period, period
        # Over no epochs at all (warm-up until the very end) the cosine has not begun to fall.
        fraction = done / length if length else 0.0
        return end_lr + (base_lr - end_lr) * (math.cos(math.pi * fraction) + 1.0) * 0.5

    def stepped(epoch: float) -> float:
        index = max(i for i, step in enumerate(solver.STEPS) if i == 0 or step <= epoch)
        return solver.LRS[index] * base_lr

    policy = {"cosine": cosine, "steps_with_relative_lrs": stepped}[solver.LR_POLICY]

    def rate(epoch: float) -> float:
        if epoch >= warmup_epochs:
            return policy(epoch)
        return start_lr + epoch * (policy(warmup_epochs) - start_lr) / warmup_epochs

    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def build_optimizer(model: nn.Module, cfg) -> torch.optim.Optimizer:
    """Build ``SOLVER.OPTIMIZING_METHOD`` over all parameters of ``model`` except those of factor 0.

    A frozen text tower is in the groups, as in published checkpoints, but gets no gradient and
    holds no state.
    """
    solver = cfg.SOLVER
    groups = compute_parameter_groups(
        model.named_parameters(),
        weight_decay=solver.WEIGHT_DECAY,
        zero_wd_1d=solver.ZERO_WD_1D_PARAM,
        lr_factors=build_factors(cfg),
    )
    if solver.OPTIMIZING_METHOD == "sgd":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM,
                               dampening=solver.DAMPENING, nesterov=solver.NESTEROV)
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZING_METHOD]
    return cls(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), eps=1e-8, fused=True)
