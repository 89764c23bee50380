"""Which caption a training video gets, and what a step does with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openvclip.clip.tokenizer import tokenize
from openvclip.data.captions.index import CaptionFile, write_captions
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.batches import CaptionSampler
from openvclip.training.objectives.caption import CaptionContrast
from openvclip.training.objectives.losses import LOSSES, cross_entropy
from openvclip.training.step import Captions, InterpolatedStep, PlainStep
from openvclip.utils.errors import DataError

PATHS = ["/data/train/one.mp4", "/data/train/two.mp4", "/data/train/three.mp4"]


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.sqlite"
    write_captions(path, {"one": ["a dog"], "three": [f"sentence number {i}" for i in range(9)]})
    return CaptionFile(path)


def words(tokens):
    """Number of tokens of each text."""
    return (tokens.argmax(dim=1) + 1).tolist()


def test_a_batch_gets_the_captions_of_the_videos_that_have_any(captions, caplog):
    caplog.set_level("INFO")
    sampler = CaptionSampler(captions, PATHS, seed=1)
    assert "captions: 2 of 3 training videos have one; the others, such as" in caplog.text
    found = sampler(torch.tensor([1, 0, 2, 1]), epoch=0)
    assert found.videos.tolist() == [1, 2]
    assert torch.equal(found.tokens[0], tokenize("a dog")[0]) and words(found.tokens)[1] == 5
    none = sampler(torch.tensor([1, 1]), epoch=0)
    assert none.tokens.shape == (0, 77) and none.videos.shape == (0,)


def test_one_of_several_is_drawn_for_each_epoch(captions):
    sampler = CaptionSampler(captions, PATHS, seed=1)
    drawn = [sampler(torch.tensor([2]), epoch).tokens for epoch in range(12)]
    again = [CaptionSampler(captions, PATHS, seed=1)(torch.tensor([0, 2]), epoch).tokens[1:]
             for epoch in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert len({tuple(tokens.flatten().tolist()) for tokens in drawn}) > 4
    first = CaptionSampler(captions, PATHS, seed=1, sample="first")
    for epoch in range(3):
        assert torch.equal(first(torch.tensor([2]), epoch).tokens, tokenize("sentence number 0"))


def test_long_captions_are_cut_off(tmp_path):
    write_captions(tmp_path / "long.sqlite", {"one": ["word " * 100]})
    sampler = CaptionSampler(CaptionFile(tmp_path / "long.sqlite"), PATHS, seed=0)
    assert words(sampler(torch.tensor([0]), 0).tokens) == [77]


def test_a_file_of_other_videos_is_refused(captions):
    with pytest.raises(DataError, match=r"none of the 1 training videos .*four.*captions\.sqlite"):
        CaptionSampler(captions, ["/data/four.mp4"], seed=0)


def make_model(train_text: bool, seed: int = 0) -> VideoCLIP:
    torch.manual_seed(seed)
    config = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64,
                        vision_layers=2, text_width=64, text_layers=1)
    clip = build_temporal_clip(CLIP(config).state_dict(), num_frames=2,
                               temporal_type="expand_temporal_view")
    classifier = F.normalize(torch.randn(3, 16), dim=1)
    return VideoCLIP(clip, 2, classifier, train_text=train_text).double()


def batch():
    torch.manual_seed(5)
    video, label = torch.randn(4, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1])
    tokens = tokenize(["a dog runs", "a red bar", "somebody sings a song"])
    return video, label, Captions(tokens, torch.tensor([0, 2, 3]))


def expected(model, captions, video, label, ratio):
    """Both losses, written out with the model's own towers."""
    frames = video.transpose(1, 2).flatten(0, 1)
    features = F.normalize(model.model.encode_image(frames), dim=1).view(len(video), 2, -1)
    pooled, scale = features.mean(dim=1), model.model.logit_scale.exp()
    loss = F.cross_entropy(scale * pooled @ model.classifier.T, label)
    text = F.normalize(model.model.encode_text(captions.tokens), dim=1)
    logits = scale * F.normalize(pooled[captions.videos], dim=1) @ text.T
    own = torch.arange(len(logits))
    caption = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, caption, loss + ratio * caption


@pytest.mark.parametrize("train_text", [False, True])
def test_the_plain_step_adds_the_gradient_of_both_losses(train_text):
    model, (video, label, captions) = make_model(train_text), batch()
    loss, caption, total = expected(model, captions, video, label, ratio=0.3)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert any("ln_final" in name for name in trained) == train_text
    gradients = torch.autograd.grad(total, list(trained.values()))
    result = PlainStep(model, cross_entropy, caption_ratio=0.3)(video, label, 0, captions)
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.caption_loss, caption.detach())
    for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda m, n=name: f"{n}: {m}")
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)


def test_the_interpolated_step_mixes_both_towers_and_the_classifier():
    model, (video, label, captions) = make_model(True), batch()
    anchor = {f"model.{n}": t for n, t in make_model(True, seed=1).model.state_dict().items()}
    original = F.normalize(torch.randn(3, 16).double(), dim=1)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    step = InterpolatedStep(
        model, cross_entropy, WeightInterpolator(trained, anchor), low=0.4, high=0.4, seed=0,
        loss_ratio=0.5, caption_ratio=0.3, original_classifier=original,
    )
    mixed = make_model(True)
    mixed.load_state_dict({n: 0.4 * anchor[n] + 0.6 * t for n, t in model.state_dict().items()})
    mixed.set_classifier(F.normalize(0.4 * original + 0.6 * model.classifier, dim=1))
    connect = expected(mixed, captions, video, label, ratio=0.3)
    current = expected(model, captions, video, label, ratio=0.3)
    wanted = [
        0.5 * at_mixed + at_current for at_mixed, at_current in zip(
            torch.autograd.grad(connect[2], [p for p in mixed.parameters() if p.requires_grad]),
            torch.autograd.grad(current[2], list(trained.values())), strict=True)
    ]
    before = model.classifier.clone()
    result = step(video, label, 0, captions)
    assert torch.equal(model.classifier, before)
    found = [result.connect_loss, result.connect_caption_loss, result.loss, result.caption_loss]
    for ours, theirs in zip(found, (*connect[:2], *current[:2]), strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    for (name, parameter), gradient in zip(trained.items(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda m, n=name: f"{n}: {m}")


def make_sigmoid_model(bias: float = -4.0) -> VideoCLIP:
    model = make_model(True)
    model.model.logit_bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))
    return model


@pytest.mark.parametrize("parts", [1, 3])
def test_the_sigmoid_losses_use_and_train_the_bias(parts):
    model, (video, label, captions) = make_sigmoid_model(), batch()
    frames = video.transpose(1, 2).flatten(0, 1)
    pooled = F.normalize(model.model.encode_image(frames), dim=1).view(4, 2, -1).mean(dim=1)
    scale, bias = model.model.logit_scale.exp(), model.logit_bias
    logits = scale * pooled @ model.classifier.T + bias
    wanted = -torch.stack([F.logsigmoid(x if j == label[i] else -x)
                           for i, row in enumerate(logits) for j, x in enumerate(row)]).sum() / 4
    text = F.normalize(model.model.encode_text(captions.tokens), dim=1)
    pairs = scale * F.normalize(pooled[captions.videos], dim=1) @ text.T + bias
    caption = -torch.stack([F.logsigmoid(x if i == j else -x)
                            for i, row in enumerate(pairs) for j, x in enumerate(row)]).sum() / 3
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(wanted + 0.3 * caption, list(trained.values()))
    step = PlainStep(model, LOSSES["sigmoid"], caption_ratio=None, accumulate=parts,
                     objectives=[CaptionContrast(0.3, "sigmoid")])
    result = step(video, label, 0, captions)
    torch.testing.assert_close(result.loss, wanted.detach())
    torch.testing.assert_close(result.caption_loss, caption.detach())
    assert abs(model.logit_bias.grad) > 1e-3
    for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda m, n=name: f"{n}: {m}")


def test_a_bias_on_which_no_loss_depends_does_not_train():
    clip = make_sigmoid_model().model
    for train in (False, True):
        model = VideoCLIP(clip, 2, torch.zeros(0, 16), train_bias=train)
        assert model.logit_bias.requires_grad == train
        assert "logit_bias" not in model.model.text_parameters()


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("train_text", [False, True])
def test_parts_of_a_batch_meet_the_captions_of_all(parts, train_text):
    """One of the four videos has no caption; the scale trains, too."""
    video, label, captions = batch()
    results, gradients = [], []
    for accumulate in (1, parts):
        model = make_model(train_text)
        step = PlainStep(model, cross_entropy, accumulate=accumulate, caption_ratio=0.7)
        results.append(step(video, label, 0, captions))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, loss in results[0].losses().items():
        torch.testing.assert_close(results[1].losses()[name], loss, atol=1e-9, rtol=0,
                                   check_dtype=False)
    assert gradients[0]["model.logit_scale"].abs() > 1e-4
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-9, rtol=0,
                                   msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_without_captions_gives_the_text_tower_a_gradient_of_zero():
    model, (video, label, _) = make_model(True), batch()
    none = Captions(torch.zeros(0, 77, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    result = PlainStep(model, cross_entropy)(video, label, 0, none)
    assert result.caption_loss == 0 and result.is_finite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert model.model.ln_final.weight.grad.abs().max() == 0
