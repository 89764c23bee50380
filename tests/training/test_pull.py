"""Pulling weights back to CLIP: the recorded epochs and ratios, what moves, resumed runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openvclip.config import load_cfg
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives import pull as module
from openvclip.training.objectives.pull import Pull, PullPlan, build_pull_plan, find_sources
from openvclip.utils.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = json.loads((GOLDEN / "zs_cons.json").read_text("utf-8"))


def build_plan(settings, solver):
    values = {f"SOLVER.{key}": value for key, value in solver.items()}
    values.update({key if "." in key else f"TRAIN.{key}": value
                   for key, value in settings.items()})
    cfg = load_cfg(None, [])
    cfg.defrost()
    # Past the rules: two of the recorded settings are refused.
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    return build_pull_plan(cfg), cfg


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: str(case["settings"]))
def test_recorded_epochs_and_ratios(case):
    plan, cfg = build_plan(case["settings"], RECORDED["solver"])
    epochs = range(RECORDED["solver"]["MAX_EPOCH"])
    assert [plan.pulls(e) for e in epochs] == case["pulled"]
    for e in epochs:
        if case["pulled"][e]:
            assert plan.ratio(e) == pytest.approx(case["ratio_exact"][e], rel=1e-9)
            assert plan.ratio(e) == pytest.approx(case["ratio"][e], abs=1e-7)
    restarting = [e for e in epochs if plan.restarts(e) or not cfg.TRAIN.ZS_RESTART_CONS]
    assert restarting == case["ewc_penalty_epochs"]


def test_the_share_does_not_depend_on_the_number_of_nodes():
    settings = {"ZS_CONS": True, "ADAPT_ZS_CONS_RATIO": True}
    plan, cfg = build_plan(settings, RECORDED["solver"])
    cfg.NUM_SHARDS, cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS = 4, True
    four = build_pull_plan(cfg)
    assert [four.ratio(e) for e in range(22)] == pytest.approx([plan.ratio(e) for e in range(22)])


@pytest.fixture
def model(tiny_clip_state):
    clip = build_temporal_clip(tiny_clip_state, temporal_type="stadapt_zeroinit", num_frames=8)
    return VideoCLIP(clip, 8, torch.eye(5, 64))


@pytest.fixture
def clip(tiny_clip_state):
    return {f"model.{name}": tensor for name, tensor in tiny_clip_state.items()}


def always(ratio):
    return PullPlan(lambda epoch: ratio, always=True)


def perturb(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.0])
def test_every_tensor_of_clip_is_pulled_and_no_other(ratio, model, clip):
    before = perturb(model)
    kept = {name: p for name, p in model.named_parameters()}
    Pull(model, {n: t for n, t in clip.items() if n in kept}, always(ratio)).begin_epoch(0)
    pulled = 0
    for name, p in model.named_parameters():
        assert p is kept[name]
        if name in clip:
            wanted = ratio * clip[name].double() + (1 - ratio) * before[name].double()
            torch.testing.assert_close(p.double(), wanted, atol=1e-6, rtol=0)
            pulled += not torch.equal(p, before[name])
            assert ratio < 1 or torch.equal(p, clip[name])
        else:
            assert "stadapt" in name or "adapter" in name.lower()
            assert torch.equal(p, before[name])
    assert pulled >= 45


def test_moments_of_the_optimizer_stay(model, clip):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    optimizer.step()
    before = [{k: v.clone() for k, v in state.items()} for state in optimizer.state.values()]
    Pull(model, clip_of(model, clip), always(0.5)).begin_epoch(0)
    for old, new in zip(before, optimizer.state.values(), strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)


def clip_of(model, clip):
    return {name: clip[name] for name, _ in model.named_parameters() if name in clip}


def test_experts_are_pulled_to_clips_mlp():
    block = "model.visual.transformer.resblocks.2."
    clip = {f"{block}mlp.{layer}.{kind}": None for layer in ("c_fc", "c_proj")
            for kind in ("weight", "bias")}
    names = dict.fromkeys((f"{block}experts_head.0.c_fc.weight",
                           f"{block}experts_tail.3.c_proj.bias", f"{block}mlp.c_fc.weight",
                           f"{block}routing1.weight", f"{block}routing2.bias"))
    assert find_sources(names, clip) == {
        f"{block}experts_head.0.c_fc.weight": f"{block}mlp.c_fc.weight",
        f"{block}experts_tail.3.c_proj.bias": f"{block}mlp.c_proj.bias",
        f"{block}mlp.c_fc.weight": f"{block}mlp.c_fc.weight"}


def test_a_run_that_resumes_within_an_epoch_does_not_pull_again(model, clip):
    perturb(model)
    first = Pull(model, clip_of(model, clip), always(0.5))
    first.begin_epoch(3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    resumed = Pull(model, clip_of(model, clip), always(0.5))
    resumed.load_state_dict(first.state_dict())
    resumed.begin_epoch(3)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    resumed.begin_epoch(4)
    assert not torch.equal(model.model.visual.proj, before["model.visual.proj"])


def test_a_text_tower_that_is_pulled_makes_the_classes_anew(model, clip):
    model.requires_grad_(True)
    perturb(model)
    Pull(model, clip_of(model, clip), always(0.5),
         embed=lambda towers: torch.ones(5, 64)).begin_epoch(0)
    assert torch.equal(model.classifier, torch.ones(5, 64))


@pytest.mark.parametrize("moves", [False, True])
def test_the_raw_model_stays_clip_or_becomes_the_last_restart(moves, model, clip):
    names = {name: p for name, p in model.named_parameters() if p.requires_grad and name in clip}
    raw_clip = build_temporal_clip({n.removeprefix("model."): t for n, t in clip.items()},
                                   num_frames=8)
    raw = VideoCLIP(raw_clip, 8, torch.eye(5, 64)).requires_grad_(False)
    tensors = {name: clip[name].clone() for name in names}

    def attach(target):
        target.__dict__.update(raw_model=raw, raw_tensors=tensors)

    attach(model)
    perturb(model)
    pull = Pull(model, clip_of(model, clip), always(0.5), moves_raw=moves)
    pull.begin_epoch(0)
    left = {name: p.detach().clone() for name, p in names.items()}
    perturb(model)  # training goes on
    for name in names:
        wanted = left[name] if moves else clip[name]
        assert torch.equal(tensors[name], wanted)
        assert torch.equal(dict(raw.named_parameters())[name], wanted)
    state = pull.state_dict()
    assert ("raw" in state) == moves
    tensors.update({name: clip[name].clone() for name in names})
    raw.load_state_dict({n: t for n, t in clip.items() if n in raw.state_dict()}, strict=False)
    Pull(model, clip_of(model, clip), always(0.5), moves_raw=moves).load_state_dict(state)
    for name in names:
        wanted = left[name] if moves else clip[name]
        assert torch.equal(tensors[name], wanted)
        assert torch.equal(dict(raw.named_parameters())[name], wanted)


RESTARTS = ["TRAIN.ZS_RESTART_CONS", "True", "SOLVER.MAX_EPOCH", "22", "SOLVER.WARMUP_EPOCHS", "2",
            "SOLVER.WARMUP_START_LR", "1e-8"]


@pytest.mark.parametrize(("options", "said"), [
    (RESTARTS, "TRAIN.ZS_RESTART_EPOCH is -1.*never"),
    ([*RESTARTS, "TRAIN.ZS_RESTART_EPOCH", "0"], "TRAIN.ZS_RESTART_EPOCH is 0"),
    ([*RESTARTS, "TRAIN.ZS_RESTART_EPOCH", "21"], "first restart would be before epoch 23"),
    ([*RESTARTS, "TRAIN.ZS_RESTART_EPOCH", "5", "SOLVER.WARMUP_EPOCHS", "1.5"],
     "SOLVER.WARMUP_EPOCHS is 1.5.*whole"),
    (["TRAIN.ZS_RESTART_EPOCH", "5"], "no effect without TRAIN.ZS_RESTART_CONS True"),
    (["TRAIN.ZS_CONS_RATIO", "0.5"], "no effect without TRAIN.ZS_CONS, "),
    (["TRAIN.ADAPT_ZS_CONS_RATIO", "True"], "no effect without TRAIN.ZS_CONS, "),
    (["TRAIN.ZS_CONS", "True", "TRAIN.ZS_CONS_ANCHOR", "restart"],
     "no effect without TRAIN.EWC_SET or "),
    (["TRAIN.ZS_CONS", "True", "TRAIN.ZS_CONS_ANCHOR", "restart", "TRAIN.EWC_SET", "True",
      "MODEL.KEEP_RAW_MODEL", "True", "TRAIN.OBJECTIVES", "['froster']"],
     "TRAIN.ZS_CONS_ANCHOR is restart; with 'froster' in TRAIN.OBJECTIVES it must be clip"),
    (["TRAIN.ZS_CONS", "True", "TRAIN.ZS_CONS_RATIO", "0"], "ratio over 0"),
    (["TRAIN.ZS_CONS", "True", "TRAIN.ZS_CONS_RATIO", "1.5"], "TRAIN.ZS_CONS_RATIO is 1.5"),
    (["TRAIN.ZS_CONS", "True", "TRAIN.SHARDING", "fsdp"], "TRAIN.SHARDING is fsdp"),
    (["TRAIN.OBJECTIVES", "['pull']"], "which TRAIN.ZS_CONS True or TRAIN.ZS_INIT_CONS True or"),
])
def test_settings_that_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, ["TRAIN.ENABLE", "True", *options])


def test_the_log_says_what_the_raw_model_is():
    cfg = load_cfg(None, ["TRAIN.ENABLE", "True", *RESTARTS, "TRAIN.ZS_RESTART_EPOCH", "20",
                          "TRAIN.EWC_SET", "True", "MODEL.KEEP_RAW_MODEL", "True",
                          "TRAIN.ZS_CONS_ANCHOR", "restart"])
    assert "the weights after the last pull (TRAIN.ZS_CONS_ANCHOR restart)" in (
        module._build_note(cfg))
