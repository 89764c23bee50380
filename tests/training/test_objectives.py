"""Objectives: terms of the loss, passes at other weights, what they keep, and their names."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from openvclip.config import load_cfg
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.objective import Objective, Pass
from openvclip.training.step import PlainStep
from openvclip.training.train_state import load_objectives
from openvclip.utils.errors import ConfigError


class Spread(Objective):
    """Penalises large logits."""

    name, weight = "spread", 0.25

    def loss(self, logits, part):
        return logits.square().mean()


class AtHalf(Objective):
    """Also the losses at half of the weights."""

    name = "half"

    def __init__(self, model):
        self.model = model

    @contextmanager
    def halved(self):
        kept = self.model.weight.data
        self.model.weight.data = kept / 2
        yield
        self.model.weight.data = kept

    def passes(self, step):
        yield Pass("half", 0.5, self.halved(), ratio=0.5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(6, 3, bias=False).double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(5, 6).double(), torch.tensor([0, 2, 1, 1, 0])


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_terms_are_means_over_the_batch_and_weighted(model, batch, accumulate):
    video, label = batch
    result = PlainStep(model, cross_entropy, accumulate=accumulate, objectives=[Spread()])(
        video, label, 0)
    logits = model(video)
    loss, spread = nn.functional.cross_entropy(logits, label), logits.square().mean()
    assert list(result.losses()) == ["loss", "spread_loss", "total_loss"]
    torch.testing.assert_close(result.total_loss, (loss + 0.25 * spread).detach())
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.spread_loss, spread.detach())
    wanted, = torch.autograd.grad(loss + 0.25 * spread, [model.weight])
    torch.testing.assert_close(model.weight.grad, wanted)
    with pytest.raises(AttributeError, match="this step has no caption_loss"):
        _ = result.caption_loss


def test_a_pass_at_other_weights_adds_its_gradient(model, batch):
    video, label = batch
    before = model.weight.detach().clone()
    result = PlainStep(model, cross_entropy, objectives=[Spread(), AtHalf(model)])(video, label, 0)
    assert torch.equal(model.weight, before) and result.ratio == 0.5

    def total(weight):
        logits = video @ weight.T
        return nn.functional.cross_entropy(logits, label) + 0.25 * logits.square().mean()

    halved, weight = (before / 2).requires_grad_(), before.clone().requires_grad_()
    wanted = [torch.autograd.grad(total(w), [w])[0] for w in (weight, halved)]
    torch.testing.assert_close(model.weight.grad, wanted[0] + 0.5 * wanted[1])
    assert list(result.losses()) == [
        "loss", "spread_loss", "half_loss", "half_spread_loss", "total_loss"]
    torch.testing.assert_close(
        result.total_loss, (total(weight) + 0.5 * total(halved)).detach())
    assert result.half_spread_loss == pytest.approx(float(result.spread_loss) / 4)


def test_states_go_to_the_objectives_of_their_names(caplog):
    class Counting(Objective):
        name, seen = "counting", 0

        def load_state_dict(self, state):
            self.seen = state["seen"]

    objectives = [Spread(), Counting()]
    load_objectives(objectives, {"counting": {"seen": 7}, "gone": {}}, "a.pyth")
    assert objectives[1].seen == 7
    assert "a.pyth holds the state of the objective 'gone', which this run does not" in caplog.text


@pytest.mark.parametrize(("names", "said"), [
    ("['conect']", "TRAIN.OBJECTIVES is 'conect'; one of 'connect', .*; nearest: connect"),
    ("['connect']", "has 'connect', which TRAIN.LINEAR_CONNECT_CLIMB True switches on"),
    ("['caption']", "has 'caption', which TRAIN.CAPTION.ENABLE True switches on"),
])
def test_names_that_the_config_refuses(names, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, ["TRAIN.OBJECTIVES", names])
