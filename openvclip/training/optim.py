"""Optimizer, its parameter groups and the learning-rate schedule, as in PySlowFast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


def compute_parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    zero_wd_1d: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict]:
    """Group parameters by weight decay and learning-rate factor.

    Args:
        named_parameters: all parameters; frozen ones may be among them (no gradient, no update).
        weight_decay: weight decay of those that decay.
        zero_wd_1d: no decay on 1-D tensors and names ending ``.bias``; ``logit_scale`` (0-D),
            positional embeddings and projections do decay.
        lr_factors: prefix of the last-but-one part of a name (``message`` matches
            ``...resblocks.0.message_fc.weight``) -> factor on its learning rate.

    Returns:
        Groups for a torch optimizer, decaying ones first, with ``lr_factor`` and ``names``.
        Parameters with the factor 0 are in none.
    """
    groups: dict[tuple[bool, float], dict] = {}
    for name, parameter in named_parameters:
        plain = zero_wd_1d and (parameter.dim() == 1 or name.endswith(".bias"))
        factor = find_factor(name, lr_factors or {})
        if factor == 0.0:
            continue
        group = groups.setdefault((plain, factor), {
            "params": [], "names": [], "weight_decay": 0.0 if plain else weight_decay,
            "lr_factor": factor,
        })
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def find_factor(name: str, lr_factors: Mapping[str, float]) -> float:
    """Return the learning-rate factor of the parameter ``name``; 1 if no prefix matches."""
    factor = 1.0
    for prefix, value in lr_factors.items():
        if any(part.startswith(prefix) for part in name.split(".")):
            factor = value
    return factor


def build_factors(cfg) -> dict[str, float]:
    """Return the config's learning-rate factors by the prefix of the parameters' names."""
    return {
        "message": cfg.MODEL.FINETUNE_FACTOR,
        "stadapt": cfg.MODEL.ADAPT_FINETUNE_FACTOR,
        "mlp": cfg.MODEL.MLP_FINETUNE_FACTOR,
    }


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
    frozen = {name for name in trained if find_factor(name, factors) == 0.0}
    for name in frozen:
        trained[name].requires_grad_(False)
    if frozen and len(frozen) == len(trained):
        raise ConfigError(
            f"all {len(frozen)} parameters are frozen: MODEL.FINETUNE_FACTOR is "
            f"{factors['message']}, ADAPT_FINETUNE_FACTOR {factors['stadapt']} and "
            f"MLP_FINETUNE_FACTOR {factors['mlp']}; give one of them more than 0"
        )
    if frozen:
        logger.info("%d of %d parameters are frozen: their learning-rate factor is 0", len(frozen),
                    len(trained))
    return frozen


def cosine_lr(
    epoch: float,
    *,
    base_lr: float,
    end_lr: float,
    max_epoch: float,
    offset: float = 0.0,
    restart_epoch: float = 0,
) -> float:
    """Cosine from ``base_lr`` to ``end_lr`` over the epochs after ``offset``.

    With ``restart_epoch`` the cosine has that period and restarts (SGDR).
    """
    done, length = epoch - offset, max_epoch - offset
    if restart_epoch:
        done, length = done % restart_epoch, restart_epoch
    # Over no epochs at all (warm-up until the very end) the cosine has not begun to fall.
    fraction = done / length if length else 0.0
    return end_lr + (base_lr - end_lr) * (math.cos(math.pi * fraction) + 1.0) * 0.5


def stepped_lr(
    epoch: float, *, base_lr: float, steps: Sequence[float], lrs: Sequence[float]
) -> float:
    """``base_lr`` times the entry of ``lrs`` for the latest step (``steps[i] <= epoch``)."""
    index = max(i for i, step in enumerate(steps) if i == 0 or step <= epoch)
    return lrs[index] * base_lr


def with_warmup(
    policy: Callable[[float], float], *, warmup_epochs: float, start_lr: float
) -> Callable[[float], float]:
    """Rise linearly from ``start_lr`` to the policy at ``warmup_epochs``, then follow it."""

    def rate(epoch: float) -> float:
        if epoch >= warmup_epochs:
            return policy(epoch)
        return start_lr + epoch * (policy(warmup_epochs) - start_lr) / warmup_epochs

    return rate


def build_schedule(cfg) -> Callable[[float], float]:
    """Return the learning rate as a function of ``epoch + iteration / iterations``.

    ``BASE_LR_SCALE_NUM_SHARDS`` multiplies the base, final and warm-up rates by the number of
    nodes (linear scaling, as PySlowFast does).
    """
    solver = cfg.SOLVER
    scale = cfg.NUM_SHARDS if solver.BASE_LR_SCALE_NUM_SHARDS else 1
    base_lr = solver.BASE_LR * scale
    if solver.LR_POLICY == "cosine":
        policy = partial(
            cosine_lr,
            base_lr=base_lr,
            end_lr=solver.COSINE_END_LR * scale,
            max_epoch=solver.MAX_EPOCH,
            offset=solver.WARMUP_EPOCHS if solver.COSINE_AFTER_WARMUP else 0.0,
            restart_epoch=solver.COSINE_RESTART_EPOCH,
        )
    elif solver.LR_POLICY == "steps_with_relative_lrs":
        policy = partial(stepped_lr, base_lr=base_lr, steps=solver.STEPS, lrs=solver.LRS)
    else:
        raise ConfigError(
            f"SOLVER.LR_POLICY is {solver.LR_POLICY!r}; it must be cosine or "
            "steps_with_relative_lrs"
        )
    return with_warmup(
        policy, warmup_epochs=solver.WARMUP_EPOCHS, start_lr=solver.WARMUP_START_LR * scale
    )


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
    method = solver.OPTIMIZING_METHOD
    if method == "sgd":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM,
                               dampening=solver.DAMPENING, nesterov=solver.NESTEROV)
    if method in ("adam", "adamw"):
        cls = torch.optim.Adam if method == "adam" else torch.optim.AdamW
        return cls(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), eps=1e-8, fused=True)
    raise ConfigError(f"SOLVER.OPTIMIZING_METHOD is {method!r}; it must be sgd, adam or adamw")
