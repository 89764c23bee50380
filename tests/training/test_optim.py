"""Parameter groups and schedule against recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from openvclip.config import get_cfg
from openvclip.training.optim import (
    build_optimizer,
    build_schedule,
    compute_parameter_groups,
    freeze_parameters,
    set_learning_rate,
)
from openvclip.utils.errors import ConfigError


def schedule_of(solver: dict):
    cfg = get_cfg()
    for key, value in solver.items():
        if key in cfg.SOLVER:
            cfg.SOLVER[key] = value
    return build_schedule(cfg)


@pytest.mark.parametrize("case", ["recipe", "yaml_only", "cosine_after_warmup_false"])
def test_schedule_reproduces_the_recorded_rates(golden, case):
    recorded = json.loads((golden / "lr.json").read_text())
    solver = dict(recorded["solver"])
    wanted = recorded["lr"]
    if case == "yaml_only":
        solver.update(recorded["yaml_only_solver"])
        wanted = recorded["yaml_only_lr"]
    elif case == "cosine_after_warmup_false":
        solver["COSINE_AFTER_WARMUP"] = False
        wanted = recorded["cosine_after_warmup_false_lr"]
    rate = schedule_of(solver)
    for epoch, lr in wanted.items():
        assert rate(float(epoch)) == pytest.approx(lr, rel=1e-9)


def test_schedule_scales_with_the_number_of_nodes():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.COSINE_END_LR = 0.5, 0.1
    cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.WARMUP_START_LR = 2.0, 0.05
    alone = [build_schedule(cfg)(e) for e in (0.0, 1.0, 7.5, 299.0)]
    cfg.NUM_SHARDS = 3
    assert [build_schedule(cfg)(e) for e in (0.0, 1.0, 7.5, 299.0)] == alone
    cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS = True
    scaled = [build_schedule(cfg)(e) for e in (0.0, 1.0, 7.5, 299.0)]
    assert scaled == pytest.approx([3 * lr for lr in alone])


def test_stepped_policy_and_restarts():
    steps = schedule_of(
        {"LR_POLICY": "steps_with_relative_lrs", "STEPS": [0, 10, 20], "LRS": [1, 0.1, 0.01],
         "BASE_LR": 2.0}
    )
    assert [steps(e) for e in (0, 9.9, 10, 25)] == pytest.approx([2.0, 2.0, 0.2, 0.02])
    restarts = schedule_of({"COSINE_RESTART_EPOCH": 5, "MAX_EPOCH": 20, "BASE_LR": 1.0})
    assert restarts(2.5) == pytest.approx(0.5)
    assert restarts(10.0) == pytest.approx(1.0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.message_fc = nn.Linear(2, 2)
        self.stadapt_up_1 = nn.Linear(2, 2)
        self.mlp = nn.Linear(2, 2)
        self.attn = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(()))


def test_factors_reach_the_parameters_they_name():
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZING_METHOD = "adamw"
    cfg.MODEL.FINETUNE_FACTOR = 2.0
    cfg.MODEL.ADAPT_FINETUNE_FACTOR = 3.0
    cfg.MODEL.MLP_FINETUNE_FACTOR = 5.0
    optimizer = build_optimizer(Block(), cfg)
    set_learning_rate(optimizer, 0.1)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["names"]}
    assert rates["message_fc.weight"] == pytest.approx(0.2)
    assert rates["stadapt_up_1.bias"] == pytest.approx(0.3)
    assert rates["mlp.weight"] == pytest.approx(0.5)
    assert rates["attn.weight"] == rates["scale"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("method", "cls"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_every_method_is_built(method, cls):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZING_METHOD = method
    assert type(build_optimizer(Block(), cfg)) is cls


def test_groups_reproduce_the_recorded_ones(golden, tiny_video_clip):
    recorded = json.loads((golden / "iwo_param_groups.json").read_text())
    groups = compute_parameter_groups(
        tiny_video_clip.named_parameters(), weight_decay=0.01, zero_wd_1d=True
    )
    assert len(groups) == len(recorded)
    for ours, theirs in zip(groups, recorded, strict=True):
        assert ours["weight_decay"] == theirs["weight_decay"]
        assert set(ours["names"]) == {n.removeprefix("module.") for n in theirs["names"]}


def test_factor_zero_freezes_and_is_in_no_group():
    cfg = get_cfg()
    cfg.MODEL.MLP_FINETUNE_FACTOR, cfg.MODEL.FINETUNE_FACTOR = 0.0, 2.0
    block = Block()
    block.attn.bias.requires_grad_(False)  # frozen before: stays in its group, as published
    assert freeze_parameters(block, cfg) == {"mlp.weight", "mlp.bias"}
    assert not block.mlp.weight.requires_grad and block.attn.weight.requires_grad
    names = [n for g in build_optimizer(block, cfg).param_groups for n in g["names"]]
    assert sorted(names) == sorted(n for n, _ in block.named_parameters() if "mlp" not in n)


def test_everything_frozen_is_an_error_and_nothing_frozen_is_no_work():
    cfg = get_cfg()
    cfg.MODEL.MLP_FINETUNE_FACTOR = 0.0
    with pytest.raises(ConfigError, match="all 2 parameters are frozen.*MLP_FINETUNE_FACTOR 0.0"):
        freeze_parameters(nn.ModuleDict({"mlp": nn.Linear(2, 2)}), cfg)
    assert freeze_parameters(Block(), get_cfg()) == set()


FACTOR_KEYS = {"FINETUNE_FACTOR", "ADAPT_FINETUNE_FACTOR", "MLP_FINETUNE_FACTOR"}


def test_frozen_names_are_the_recorded_ones(shared):
    recorded = json.loads((shared / "golden" / "param_groups_factors.json").read_text())
    checked = 0
    for case in recorded["cases"]:
        # The default factor, which is not built, freezes nothing where it is over 0.
        settings = {key: value for key, value in case["settings"].items()
                    if key != "DEFAULT_FINETUNE_FACTOR" or value == 0.0}
        if not set(settings) <= FACTOR_KEYS or 0.0 not in settings.values():
            continue
        factors = {"message": case["settings"].get("FINETUNE_FACTOR", 1.0),
                   "stadapt": case["settings"].get("ADAPT_FINETUNE_FACTOR", 1.0),
                   "mlp": case["settings"].get("MLP_FINETUNE_FACTOR", 1.0)}
        named = [(name, torch.zeros(1)) for name in case["group_of"]]
        groups = compute_parameter_groups(named, weight_decay=0.01, lr_factors=factors)
        kept = {name for group in groups for name in group["names"]}
        assert kept == {name for name, group in case["group_of"].items() if group >= 0}
        checked += 1
    assert checked >= 3
