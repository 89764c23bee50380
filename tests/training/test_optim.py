"""Parameter groups and schedule against recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from openvclip.config import get_cfg
from openvclip.models.build import build_experts
from openvclip.models.temporal import build_temporal_clip
from openvclip.training.optim import (
    FACTORS,
    build_optimizer,
    build_schedule,
    compute_parameter_groups,
    freeze_parameters,
    set_learning_rate,
)
from openvclip.training.train_state import load_optimizer
from openvclip.utils.errors import CheckpointError, ConfigError


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
    with pytest.raises(ConfigError, match="all 2 parameters are frozen.*MLP_FINETUNE_FACTOR is 0"):
        freeze_parameters(nn.ModuleDict({"mlp": nn.Linear(2, 2)}), cfg)
    assert freeze_parameters(Block(), get_cfg()) == set()


CASES = range(21)


@pytest.mark.parametrize("index", CASES)
def test_groups_with_factors_are_the_recorded_ones(golden, tiny_clip_state, index):
    case = json.loads((golden / "param_groups_factors.json").read_text())["cases"][index]
    solver = json.loads((golden / "lr.json").read_text())["solver"]
    cfg, alone = get_cfg(), False
    for key, value in solver.items():
        if key in cfg.SOLVER:
            cfg.SOLVER[key] = value
    cfg.SOLVER.OPTIMIZING_METHOD = "adamw"
    for key, value in case["settings"].items():
        cfg.MODEL[key] = value
        alone = set(case["settings"]) & set(FACTORS.values()) == {"ROUTING_FINETUNE_FACTOR"}
    clip = build_temporal_clip(tiny_clip_state, temporal_type=case["type"], num_frames=8,
                               experts=build_experts(cfg)).requires_grad_(True)
    if alone:  # published code ignores it then
        cfg.MODEL.ROUTING_FINETUNE_FACTOR = 1.0
    frozen = freeze_parameters(clip, cfg)
    assert frozen == {name for name, group in case["group_of"].items() if group < 0}
    optimizer = build_optimizer(clip, cfg)
    set_learning_rate(optimizer, build_schedule(cfg)(5.0))
    assert len(optimizer.param_groups) == len(case["groups"])
    for place, (ours, theirs) in enumerate(
            zip(optimizer.param_groups, case["groups"], strict=True)):
        assert (ours["lr_factor"], ours["weight_decay"]) == (
            theirs["lr_factor"], theirs["weight_decay"])
        assert ours["lr"] == pytest.approx(theirs["lr_at_epoch_5"], rel=1e-9)
        assert len(ours["names"]) == theirs["count"]
        assert set(ours["names"]) == {n for n, at in case["group_of"].items() if at == place}


def test_the_factor_of_routers_works_alone():
    model = nn.ModuleDict({"routing1": nn.Linear(2, 2), "attn": nn.Linear(2, 2)})
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZING_METHOD = "adamw"
    cfg.MODEL.ROUTING_FINETUNE_FACTOR = 20.0
    factors = {n: g["lr_factor"] for g in build_optimizer(model, cfg).param_groups
               for n in g["names"]}
    assert factors == {"attn.weight": 1.0, "attn.bias": 1.0,
                       "routing1.weight": 20.0, "routing1.bias": 20.0}


def test_a_state_grouped_by_values_resumes_in_groups_by_words():
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("mlp", "attn", "stadapt_up_1")})
    named = dict(model.named_parameters())
    factors = {"default": 1.0, "stadapt": 1.0, "mlp": 0.5}

    def build(order):
        groups = compute_parameter_groups(order, weight_decay=0.1, lr_factors=factors)
        return torch.optim.AdamW(groups, lr=0.1)

    new = build(named.items())
    # As earlier versions grouped: attn and stadapt share the factor 1 and so a group.
    names = [[n for n in named if "mlp" in n], [n for n in named if "mlp" not in n]]
    old = torch.optim.AdamW([
        {"params": [named[n] for n in group], "names": group, "lr_factor": factor}
        for group, factor in zip(names, (0.5, 1.0), strict=True)], lr=0.1)
    for i, parameter in enumerate(named.values()):
        parameter.grad = torch.full_like(parameter, i + 1.0)
    old.step()
    load_optimizer(new, old.state_dict(), "old.pyth")
    for parameter in named.values():
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[parameter]["exp_avg"])
    assert [g["lr_factor"] for g in new.param_groups] == [1.0, 1.0, 0.5]
    del model["attn"]
    with pytest.raises(CheckpointError, match="not of this model's parameters"):
        load_optimizer(build(model.named_parameters()), old.state_dict(), "old.pyth")
