"""Validation as it is and patched: one decoding, the right weights, nothing left behind."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from openvclip.interpolation import WeightInterpolator, WeightPatcher
from openvclip.training.validation import Validator
from openvclip.utils.signals import StopSignals

LABELS = torch.tensor([0, 1, 2, 0])


class Dataset:
    def __len__(self) -> int:
        return len(LABELS)

    def label_tensor(self) -> torch.Tensor:
        return LABELS


class Loader:
    """Four videos, one a batch; the last cannot be decoded. Counts how often they are asked for."""

    def __init__(self) -> None:
        self.dataset, self.decoded, self.epoch = Dataset(), 0, None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def count_rows(self) -> int:
        return len(LABELS)

    def __iter__(self):
        for row in range(len(LABELS)):
            self.decoded += 1
            bad = row == 3
            video = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(row))
            yield {"video": video[:0] if bad else video, "bad": [(row, "broken")] if bad else [],
                   "index": torch.tensor([] if bad else [row], dtype=torch.int64)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-0.0, 1e-45, 0.1]))
    return model


@pytest.fixture
def clip(model):
    return {name: torch.randn_like(p) for name, p in model.named_parameters()}


def build(tmp_path, **options):
    return Validator(loader=Loader(), num_classes=3, device=torch.device("cpu"),
                     output_dir=tmp_path, max_epoch=2, **options)


def bits(model):
    return [p.detach().view(torch.int32).tolist() for p in model.parameters()]


def test_patched_scores_are_those_of_a_patched_test(tmp_path, model, clip):
    before, kept = bits(model), [p.data_ptr() for p in model.parameters()]
    interpolator = WeightInterpolator(dict(model.named_parameters()), clip)
    validator = build(tmp_path, weights=interpolator, ratios=[0.3])
    found = validator.predict(model, 0, StopSignals())
    assert bits(model) == before and [p.data_ptr() for p in model.parameters()] == kept
    assert validator.loader.decoded == 4, "each video is decoded once for both"
    videos = torch.cat([batch["video"] for batch in Loader()])
    with torch.no_grad():
        torch.testing.assert_close(found[0.0].scores[:3], model(videos), atol=1e-6, rtol=0)
        WeightPatcher(dict(model.named_parameters()), clip).set_ratio(0.3)
        torch.testing.assert_close(found[0.3].scores[:3], model(videos), atol=1e-6, rtol=0)
    accuracies = validator.report(found, 0)
    right = (found[0.3].scores[:3].argmax(1) == LABELS[:3]).sum()
    assert accuracies["top1_acc_patched"] == pytest.approx(25.0 * int(right)), "the bad one counts"
    (line,) = (tmp_path / "json_stats.jsonl").read_text().splitlines()
    stats = json.loads(line)
    assert stats["_type"] == "val_epoch" and stats["patching_ratio"] == 0.3
    assert stats["top1_acc"] + stats["top1_err"] == 100.0 and stats["failed"] == 1


def test_without_a_ratio_there_is_one_forward_pass(tmp_path, model):
    validator = build(tmp_path)
    found = validator.predict(model, 1, StopSignals())
    assert list(found) == [0.0] and validator.loader.epoch == 1
    assert set(validator.report(found, 1)) == {"top1_acc", "top5_acc"}


def test_weights_come_back_after_an_error_or_a_signal(tmp_path, model, clip, monkeypatch):
    before = bits(model)
    interpolator = WeightInterpolator(dict(model.named_parameters()), clip)
    validator = build(tmp_path, weights=interpolator, ratios=[1.0])
    stop = StopSignals()
    seen = []

    def forward(video):
        seen.append(model[1].weight.detach().clone())
        stop.received = "SIGTERM"
        return torch.zeros(len(video), 3)

    monkeypatch.setattr(model, "forward", forward)
    validator.predict(model, 0, stop)
    assert validator.loader.decoded == 2 and len(seen) == 2, "the rest is left out"
    assert torch.equal(seen[1], clip["1.weight"]) and bits(model) == before
    stop.received = None
    monkeypatch.setattr(model, "forward", lambda video: math.nan + None)
    with pytest.raises(TypeError):
        validator.predict(model, 0, stop)
    assert bits(model) == before
