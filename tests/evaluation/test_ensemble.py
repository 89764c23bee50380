"""Ensembles of views against recorded ones."""

from __future__ import annotations

import json

import pytest
import torch

from openvclip.evaluation.runner import ViewEnsemble
from openvclip.metrics.classification import compute_accuracy
from openvclip.utils.errors import ConfigError


@pytest.fixture
def recorded(golden):
    return json.loads((golden / "meter.json").read_text())


def ensemble(recorded, order, method):
    clips = recorded["num_clips"]
    result = ViewEnsemble(recorded["num_videos"], recorded["num_classes"], clips, method)
    logits = torch.tensor(recorded["preds"])
    order = torch.tensor(order)
    for part in order.split(4):
        result.add(logits[part], part // clips, part % clips)
    return result


@pytest.mark.parametrize("case", ["sum", "sum_reversed", "max"])
def test_ensembles_reproduce_the_recorded_ones(recorded, case):
    wanted = recorded["cases"][case]
    result = ensemble(recorded, wanted["order"], wanted["method"])
    assert bool(result.complete.all())
    # The recorded maximum began at 0 (ours at -inf): negative maxima were recorded as 0.
    scores = result.scores if wanted["method"] == "sum" else result.scores.clamp(min=0)
    recorded_scores = torch.tensor(wanted["video_preds"])
    torch.testing.assert_close(scores, recorded_scores, atol=1e-5, rtol=0)
    labels = torch.tensor(recorded["clip_labels"])[:: recorded["num_clips"]]
    top1, top5 = compute_accuracy(result.scores, labels)
    assert f"{top1:.2f}" == wanted["top1"]
    assert f"{top5:.2f}" == wanted["top5"]


def test_order_and_batching_do_not_change_a_bit_within_a_batch(recorded):
    order = list(range(21))
    whole = ViewEnsemble(7, 6, 3, "sum")
    logits = torch.tensor(recorded["preds"])
    shuffled = torch.tensor(order)[torch.randperm(21, generator=torch.Generator().manual_seed(1))]
    whole.add(logits[shuffled], shuffled // 3, shuffled % 3)
    assert torch.equal(whole.scores, ensemble(recorded, order, "sum").scores)


def test_maximum_starts_below_everything():
    result = ViewEnsemble(1, 2, 2, "max")
    result.add(torch.tensor([[-3.0, -1.0], [-2.0, -5.0]]), torch.tensor([0, 0]),
               torch.tensor([0, 1]))
    assert result.scores.tolist() == [[-2.0, -1.0]]


def test_a_clip_counts_once_and_a_missing_one_is_seen():
    result = ViewEnsemble(2, 2, 2, "sum")
    result.add(torch.ones(3, 2), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    assert result.complete.tolist() == [True, False]
    with pytest.raises(ValueError, match="clip 1 of video 1 was evaluated twice"):
        result.add(torch.ones(1, 2), torch.tensor([1]), torch.tensor([1]))


def test_unknown_method_is_refused():
    with pytest.raises(ConfigError, match="DATA.ENSEMBLE_METHOD is 'mean'"):
        ViewEnsemble(1, 1, 1, "mean")
