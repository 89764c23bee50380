"""Losses against their definitions in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.config import get_cfg
from openvclip.training.objectives.losses import LOSSES, build_loss, soft_cross_entropy
from openvclip.utils.errors import ConfigError


def test_soft_cross_entropy_takes_indices_and_soft_targets():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    hard = F.cross_entropy(logits.double(), labels).float()
    torch.testing.assert_close(soft_cross_entropy(logits, labels), hard)
    torch.testing.assert_close(soft_cross_entropy(logits, F.one_hot(labels, 5).float()), hard)
    # Rows are not renormalised: twice the target is twice the loss.
    torch.testing.assert_close(
        soft_cross_entropy(logits, 2.0 * F.one_hot(labels, 5).float()), 2 * hard
    )


def test_binary_losses_are_the_same_and_finite_for_large_logits():
    logits, target = torch.tensor([[80.0, -80.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    wanted = (80.0 + 80.0 + torch.log(torch.tensor(2.0))) / 3
    for name in ("bce", "bce_logit"):
        torch.testing.assert_close(LOSSES[name](logits, target), wanted)


def test_the_sigmoid_loss_adds_up_a_yes_or_no_for_each_class():
    torch.manual_seed(1)
    logits, labels = torch.randn(4, 3).double(), torch.tensor([2, 0, 0, 1])
    wanted = -sum(torch.log(torch.sigmoid(x if j == labels[i] else -x))
                  for i, row in enumerate(logits) for j, x in enumerate(row)) / 4
    torch.testing.assert_close(LOSSES["sigmoid"](logits, labels), wanted)
    torch.testing.assert_close(LOSSES["sigmoid"](logits, F.one_hot(labels, 3)), wanted)
    several = torch.tensor([[1.0, 0.0, 1.0]])
    both = -torch.log(torch.sigmoid(logits[0] * torch.tensor([1.0, -1.0, 1.0]))).sum()
    torch.testing.assert_close(LOSSES["sigmoid"](logits[:1], several), both)


def test_losses_are_computed_in_fp32_under_half_precision():
    logits = torch.tensor([[10.0, 0.0]], dtype=torch.bfloat16)
    for name in ("cross_entropy", "soft_cross_entropy"):
        assert LOSSES[name](logits, torch.tensor([0])).dtype == torch.float32


def test_unknown_loss_is_refused_by_name():
    cfg = get_cfg()
    cfg.MODEL.LOSS_FUNC = "hinge"
    with pytest.raises(ConfigError, match=r"MODEL.LOSS_FUNC is 'hinge'.*soft_cross_entropy"):
        build_loss(cfg)
