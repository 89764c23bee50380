"""EMA: the average of the weights, what it is kept with, and mixtures with it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.files import load_file, save_file
from openvclip.checkpoints.held import choose_weights, name_weights
from openvclip.config import load_cfg
from openvclip.interpolation import (
    AverageWeights,
    MixedWeights,
    MovingAverage,
    WeightInterpolator,
)
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.ema import WeightAverage, build_moving_average
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.step import PlainStep
from openvclip.utils.errors import CheckpointError, ConfigError


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).double()
    model[0].bias.requires_grad_(False)
    return model


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def move(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.5, True), (0.9999, True)])
def test_is_the_sum_of_all_weights_with_their_shares(model, decay, warmup):
    average = MovingAverage(trained(model), decay, warmup)
    seen, shares = [model[0].weight.detach().clone()], [1.0]
    for n in range(12):
        move(model)
        average.update()
        kept = min(decay, (1 + n) / (10 + n)) if warmup else decay
        seen.append(model[0].weight.detach().clone())
        shares = [share * kept for share in shares] + [1 - kept]
    assert sum(shares) == pytest.approx(1)
    wanted = sum(share * weight for share, weight in zip(shares, seen, strict=True))
    torch.testing.assert_close(average.tensors["0.weight"], wanted, atol=1e-12, rtol=0)
    assert set(average.tensors) == {"0.weight", "1.weight", "1.bias"}, "no frozen ones"


def test_is_at_least_in_fp32():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    average = MovingAverage({"a": parameter}, 0.999, warmup=False)
    parameter.data += 1
    average.update()
    assert average.tensors["a"].dtype == torch.float32
    torch.testing.assert_close(average.tensors["a"], torch.full((2,), 1.001))
    with AverageWeights(average).at(0.0):
        assert parameter.dtype == torch.bfloat16


def test_a_state_continues_bit_for_bit_and_must_fit(model):
    average = MovingAverage(trained(model), 0.999)
    for _ in range(3):
        move(model)
        average.update()
    state = average.state_dict()
    state["weights"] = {name: t.clone() for name, t in state["weights"].items()}
    other = MovingAverage(trained(model), 0.999)
    held = dict(other.tensors)
    other.load_state_dict(state)
    for both in (average, other):
        both.update()
    for name, tensor in average.tensors.items():
        assert torch.equal(other.tensors[name], tensor) and other.tensors[name] is held[name]
    assert other.updates == 4
    del state["weights"]["1.bias"]
    with pytest.raises(CheckpointError, match="1 tensors differ, the first 1.bias; resume"):
        other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="damaged"):
        other.load_state_dict({"weights": 3})


def test_a_skipped_step_leaves_it_as_it_is(model):
    objective = WeightAverage(MovingAverage(trained(model), 0.9))
    move(model)
    objective.prepare()
    before = objective.average.tensors["0.weight"].clone()
    assert torch.equal(before, model[0].weight), "it begins where training does"
    move(model)
    objective.update_skipped(0)
    objective.after_update(0)
    assert torch.equal(objective.average.tensors["0.weight"], before)
    assert objective.average.updates == 0
    objective.after_update(1)
    assert not torch.equal(objective.average.tensors["0.weight"], before)


def test_a_loaded_state_is_not_begun_anew(model):
    objective = WeightAverage(MovingAverage(trained(model), 0.9))
    state = {"weights": {name: torch.zeros_like(p) for name, p in trained(model).items()},
             "updates": 5}
    objective.load_state_dict(state)
    objective.prepare()
    assert objective.average.updates == 5 and not objective.average.tensors["1.bias"].any()


def test_the_model_holds_it_and_its_mixture_with_clip(model):
    average = MovingAverage(trained(model), 0.9)
    clip = {name: torch.randn_like(p) for name, p in trained(model).items()}
    move(model)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    ema = {name: tensor.clone() for name, tensor in average.tensors.items()}
    weights = MixedWeights(AverageWeights(average), WeightInterpolator(trained(model), clip))
    for ratio in (0.0, 0.3, 1.0):
        with weights.at(ratio):
            for name, p in trained(model).items():
                torch.testing.assert_close(p.data, (1 - ratio) * ema[name] + ratio * clip[name])
        for name, p in model.named_parameters():
            assert torch.equal(p, own[name])
        assert all(torch.equal(average.tensors[name], ema[name]) for name in ema)


def test_as_the_anchor_it_moves(model):
    """The mixture's gradient against autograd, before and after the average has moved."""
    average = MovingAverage(trained(model), 0.5, warmup=False)
    interpolator = WeightInterpolator(trained(model), average.tensors, live=True)
    connect = Connect(model=model, interpolator=interpolator, low=0.3, high=0.3, loss_ratio=0.7,
                      seed=0)
    step = PlainStep(model, cross_entropy, accumulate=2,
                     objectives=[connect, WeightAverage(average)])
    video, label = torch.randn(4, 6).double(), torch.tensor([0, 2, 1, 1])

    def loss(weights):
        logits = torch.func.functional_call(model, weights, video)
        return nn.functional.cross_entropy(logits, label)

    for n in range(3):
        move(model)
        step.objectives[-1].after_update(n)
        move(model)
        model.zero_grad()
        result = step(video, label, n)
        own = {name: p.detach().clone().requires_grad_() for name, p in trained(model).items()}
        mixed = {name: (0.3 * average.tensors[name] + 0.7 * p).detach().requires_grad_()
                 for name, p in own.items()}
        wanted = [a + 0.7 * b for a, b in zip(
            torch.autograd.grad(loss(own), list(own.values())),
            torch.autograd.grad(loss(mixed), list(mixed.values())), strict=True)]
        for p, gradient in zip(trained(model).values(), wanted, strict=True):
            torch.testing.assert_close(p.grad, gradient, atol=1e-12, rtol=0)
        torch.testing.assert_close(result.connect_loss, loss(mixed).detach())


class Config:
    class TRAIN:
        class EMA:
            DECAY, WARMUP = 0.9, False


def test_one_average_is_shared_and_extras_are_left_out(model):
    model.extras = nn.ModuleDict({"froster": nn.Linear(2, 2)})
    average = build_moving_average(Config, model)
    assert build_moving_average(Config, model) is average
    assert WeightAverage.build(Config, model).average is average
    assert set(average.tensors) == {"0.weight", "1.weight", "1.bias"}
    assert not any("average" in name for name in model.state_dict())


def write(path, current, ema, **more):
    state = {"model.a": torch.full((2,), current), "model.b": torch.ones(1)}
    average = {"weights": {"model.a": torch.full((2,), ema)}, "updates": 1}
    return save_file(path, {
        "epoch": 0, "model_state": state, "objectives": {"ema": average}, **more})


def test_averaging_takes_the_weights_that_are_asked_for(tmp_path):
    folder = tmp_path / "checkpoints"
    for number in (1, 2):
        write(folder / f"checkpoint_epoch_{number:05d}.pyth", float(number), 10.0 * number)
    for which, value in (("current", 1.5), ("ema", 15.0)):
        out = average_checkpoints(folder, start=1, end=2, output=tmp_path / "a.pth", which=which)
        content = load_file(out)
        torch.testing.assert_close(content["model_state"],
                                   {"model.a": torch.full((2,), value), "model.b": torch.ones(1)})
        assert name_weights(content, "current") == which
    with pytest.raises(CheckpointError, match="a.pth is itself an average of ema weights"):
        choose_weights(content, "ema", "a.pth")


@pytest.mark.parametrize(("states", "said"), [
    (None, "a.pyth has no ema weights; checkpoints of a training with TRAIN.EMA.ENABLE True have"),
    ({"ema": {"weights": 3}}, "a.pyth has no ema weights"),
    ({"ema": {"weights": {"model.z": torch.ones(2)}}}, "1 of its ema weights .* first 'model.z'"),
    ({"ema": {"weights": {"model.a": torch.ones(3)}}}, "not of its model, the first 'model.a'"),
    ({"ema": {"weights": {"model.a": 1}}}, "not of its model, the first 'model.a'"),
])
def test_files_without_such_weights_are_refused(states, said):
    content = {"model_state": {"model.a": torch.ones(2)}, "objectives": states}
    assert choose_weights(content, "current", "a.pyth") is content
    with pytest.raises(CheckpointError, match=said):
        choose_weights(content, "ema", "a.pyth")


@pytest.mark.parametrize(("settings", "said"), [
    ({"TRAIN.EMA.DECAY": 1.5, "TRAIN.EMA.ENABLE": True}, "TRAIN.EMA.DECAY is 1.5"),
    ({"TRAIN.EMA.DECAY": 0.9}, "TRAIN.EMA.DECAY is 0.9, .* without TRAIN.EMA.ENABLE True"),
    ({"TRAIN.OBJECTIVES": json.dumps(["ema"])}, "TRAIN.EMA.ENABLE True switches on"),
    ({"TRAIN.LINEAR_CONNECT_CLIMB": True, "TRAIN.LINEAR_CONNECT_ANCHOR": "ema"},
     "TRAIN.LINEAR_CONNECT_ANCHOR is 'ema', but TRAIN.EMA.ENABLE is False"),
    ({"TRAIN.LINEAR_CONNECT_ANCHOR": "ema", "TRAIN.EMA.ENABLE": True},
     "LINEAR_CONNECT_ANCHOR is 'ema', .* without TRAIN.LINEAR_CONNECT_CLIMB True"),
    ({"TRAIN.LINEAR_CONNECT_CLIMB": True, "TRAIN.LINEAR_CONNECT_ANCHOR": "raw"},
     "TRAIN.LINEAR_CONNECT_ANCHOR is 'raw'"),
    ({"TRAIN.LINEAR_CONNECT_CLIMB": True, "TRAIN.LINEAR_CONNECT_ANCHOR": "ema",
      "TRAIN.EMA.ENABLE": True, "TRAIN.CAPTION.ENABLE": True, "TRAIN.CAPTION.FILE": "a",
      "TRAIN.CAPTION.TEXT_TOWER": "trainable"},
     "TEXT_TOWER is trainable; with TRAIN.LINEAR_CONNECT_ANCHOR ema it must be frozen"),
    ({"TEST.WEIGHTS": "ema"}, "TEST.WEIGHTS is 'ema', but TRAIN.EMA.ENABLE is False"),
    ({"TEST.WEIGHTS": "swa"}, "TEST.WEIGHTS is 'swa'"),
    ({"TEST.WEIGHTS": "ema", "TRAIN.ENABLE": False}, "TEST.WEIGHTS is 'ema', which has no effect"),
    ({"TEST.WEIGHTS": "ema", "VAL_MODE": True, "TRAIN.EMA.ENABLE": True},
     "TEST.WEIGHTS is 'ema', .* and VAL_MODE False"),
])
def test_settings_that_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, [str(x) for pair in settings.items() for x in pair])
