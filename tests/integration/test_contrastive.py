"""The losses of pairs of videos and captions, and their gradients on several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contrastive_run import compute

from openvclip.training.objectives.contrastive import contrastive_loss, sigmoid_pair_loss

PROGRAM = Path(__file__).with_name("contrastive_run.py")
WIDTH = 7


def write_out(video, text, scale):
    """The loss pair by pair."""
    total = 0.0
    for i in range(len(video)):
        for one, others in ((video[i], text), (text[i], video)):
            cosines = torch.stack([scale * (one * other).sum() for other in others])
            total = total - (cosines[i] - cosines.exp().sum().log()) / 2
    return total / len(video)


def test_equals_the_loss_written_out_pair_by_pair():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(5, WIDTH, dtype=torch.float64), dim=1)
                   for _ in range(2))
    video.requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    ours = contrastive_loss(video, text, scale)
    theirs = write_out(video, text, scale)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for a, b in zip(torch.autograd.grad(ours, (video, scale)),
                    torch.autograd.grad(theirs, (video, scale)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_equals_siglips_loss_written_out_pair_by_pair():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(5, WIDTH, dtype=torch.float64), dim=1)
                   for _ in range(2))
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, -4.0))
    theirs = sum(
        -torch.log(torch.sigmoid((1 if i == j else -1) * (scale * (v * t).sum() + bias)))
        for i, v in enumerate(video) for j, t in enumerate(text)) / 5
    ours = sigmoid_pair_loss(video, text, scale, bias)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for a, b in zip(torch.autograd.grad(ours, (scale, bias)),
                    torch.autograd.grad(theirs, (scale, bias)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_no_pairs_give_zero_and_a_gradient():
    video = torch.zeros(0, WIDTH, requires_grad=True)
    loss = contrastive_loss(video, torch.zeros(0, WIDTH), torch.tensor(1.0))
    loss.backward()
    assert loss == 0 and video.grad.shape == (0, WIDTH)


def run(processes: int, shares: list[int], *extra: str) -> dict[str, list]:
    """Loss, and the gradients that DistributedDataParallel leaves, by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc_per_node", str(processes), str(PROGRAM), json.dumps(shares), *extra]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("found ")]
    return json.loads(line[6:])


@pytest.mark.parametrize(("shares", "sigmoid"), [
    ([5, 7], False), ([4, 0, 7, 1], False), ([5, 7], True), ([4, 0, 7, 1], True),
], ids=str)
def test_loss_and_gradients_do_not_depend_on_processes(shares, sigmoid):
    alone = compute([sum(shares)], 0, lambda model: model, lambda model: nullcontext(), sigmoid)
    found = run(len(shares), shares, *(["sigmoid"] if sigmoid else []))
    assert ("bias" in found) == sigmoid
    for name, value in alone.items():
        expected = torch.tensor(value, dtype=torch.float64)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float64), expected,
                                   atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
