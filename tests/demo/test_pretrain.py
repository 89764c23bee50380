"""Pretraining of the demo's small CLIP."""

from __future__ import annotations

import math

import pytest
import torch

from openvclip.clip.weights import load_clip
from openvclip.demo import pretrain as demo_clip
from openvclip.demo.pretrain import PretrainOptions, image_text_loss, pretrain
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.utils.errors import CheckpointError, DataError

TINY = CLIPConfig(embed_dim=16, image_size=32, patch_size=16, vision_width=32, vision_layers=1,
                  text_width=16, text_layers=1)
OPTIONS = PretrainOptions(steps=6, batch_size=8, warmup=2, save_every=2)


def test_contrastive_loss_by_hand() -> None:
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)
    logits = 10 * torch.tensor([[1.0, half], [0.0, half]])
    rows = -(logits.softmax(1).diagonal().log().mean() + logits.softmax(0).diagonal().log().mean())
    loss = image_text_loss(images, texts, torch.tensor(math.log(10)))
    torch.testing.assert_close(loss, rows / 2)


def test_learning_rate_rises_then_falls() -> None:
    rates = [demo_clip.learning_rate_at(k, OPTIONS) for k in range(OPTIONS.steps)]
    assert rates[0] == pytest.approx(OPTIONS.learning_rate / 2)
    assert max(rates) == rates[1] and rates[-1] < 0.1 * OPTIONS.learning_rate


def test_weights_are_a_plain_clip_and_learn(tmp_path) -> None:
    options = PretrainOptions(steps=30, batch_size=32, learning_rate=3e-3, warmup=5)
    assert pretrain(tmp_path / "clip.pt", 0, TINY, options)
    model = CLIP.from_state_dict(load_clip(str(tmp_path / "clip.pt")))
    assert model.image_size == 32 and model.config == TINY
    torch.manual_seed(0)
    start = CLIP(TINY)
    losses = {}
    for name, clip in (("start", start), ("trained", model)):
        images, tokens = demo_clip.still_batch(7, 0, 64, 32)
        with torch.no_grad():
            losses[name] = image_text_loss(
                clip.encode_image(images), clip.encode_text(tokens), model.logit_scale
            ).item()
    assert losses["trained"] < losses["start"] - 0.2


def test_resumed_training_equals_one_that_was_not_cut_off(tmp_path, monkeypatch) -> None:
    pretrain(tmp_path / "whole.pt", 3, TINY, OPTIONS)
    step = demo_clip._train_step

    def cut_off(model, optimizer, seed, number, options):
        if number == 5:
            raise KeyboardInterrupt
        return step(model, optimizer, seed, number, options)

    monkeypatch.setattr(demo_clip, "_train_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "cut.pt", 3, TINY, OPTIONS)
    assert not (tmp_path / "cut.pt").exists() and (tmp_path / "cut.pt.partial").exists()
    numbers = []

    def count(model, optimizer, seed, number, options):
        numbers.append(number)
        return step(model, optimizer, seed, number, options)

    monkeypatch.setattr(demo_clip, "_train_step", count)
    assert pretrain(tmp_path / "cut.pt", 3, TINY, OPTIONS)
    assert numbers == [4, 5] and not (tmp_path / "cut.pt.partial").exists()
    whole, cut = (load_clip(str(tmp_path / name)) for name in ("whole.pt", "cut.pt"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_done_is_skipped_and_other_parameters_are_refused(tmp_path) -> None:
    path = tmp_path / "clip.pt"
    pretrain(path, 0, TINY, OPTIONS)
    time = path.stat().st_mtime_ns
    assert not pretrain(path, 0, TINY, OPTIONS)
    assert path.stat().st_mtime_ns == time
    with pytest.raises(CheckpointError, match="made with other parameters"):
        pretrain(path, 1, TINY, OPTIONS)
    with pytest.raises(DataError, match="at least 1"):
        pretrain(tmp_path / "other.pt", 0, TINY, PretrainOptions(steps=0))
