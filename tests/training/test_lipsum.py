"""Lipsum-FT: the energy gap over random texts."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.tokenizer import tokenize
from openvclip.config import get_cfg, load_cfg
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import build_model
from openvclip.models.raw import build_raw_model, has_text
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.distill import RawDistillation
from openvclip.training.objectives.lipsum import EnergyGap, RandomTexts
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.raw_features import RawFeatures
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError

SMALL = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1,
                   text_width=32, text_layers=1)


def make_pair():
    """A float64 model and its raw model, of other weights than the model's."""
    torch.manual_seed(0)
    original = CLIP(SMALL).state_dict()
    moved = {n: t + 0.05 * torch.randn_like(t) if n.startswith("visual.") else t
             for n, t in original.items()} | {"logit_scale": torch.tensor(3.0)}
    classifier = F.normalize(torch.randn(3, 16), dim=1)
    clip = build_temporal_clip(moved, temporal_type="expand_temporal_view", num_frames=2)
    model = VideoCLIP(clip, 2, classifier).double()
    model.keep_frames = True
    raw = VideoCLIP(build_temporal_clip(original, num_frames=2), 2, classifier).double()
    return model, raw.requires_grad_(False).eval(), original


def test_texts_are_random_tokens_by_seed_and_step():
    """Between a start and an end token, of all of CLIP's words, the same in all processes."""
    clip = CLIP(SMALL)
    draw = RandomTexts(clip, count=200, length=8, seed=3)
    tokens = draw(5)
    start, end = tokenize([""])[0, :2].tolist()
    assert tokens.shape == (200, 77) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == start).all() and (tokens[:, 9] == end).all()
    assert not tokens[:, 10:].any()
    words = tokens[:, 1:9]
    assert words.min() >= 0 and 49000 < words.max() < start  # start and end are no words
    assert len(words.unique()) > 1500
    random.seed(99)
    torch.manual_seed(99)
    assert torch.equal(RandomTexts(clip, 200, 8, 3)(5), tokens)
    assert not torch.equal(draw(6), tokens)
    assert not torch.equal(RandomTexts(clip, 200, 8, 4)(5), tokens)
    assert torch.equal(clip.encode_text(tokens), clip.encode_text(tokens[:, :10]))


def test_texts_that_the_tower_cannot_read_are_refused():
    clip = CLIP(SMALL)
    assert RandomTexts(clip, 2, 75, 0)(0).shape == (2, 77)
    with pytest.raises(ConfigError, match=r"TRAIN.LIPSUM.LENGTH is 76, .* set it to 75 or less"):
        RandomTexts(clip, 2, 76, 0)
    other = type("Other", (CLIP,), {"tokenizer": object()})(SMALL)
    with pytest.raises(ConfigError, match="TRAIN.OBJECTIVES has 'lipsum'.*has another"):
        RandomTexts(other, 2, 8, 0)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_gradients_are_those_of_the_formula_also_interpolated(accumulate):
    """In float64, beside distillation, which shares the raw model's one forward pass."""
    model, raw, original = make_pair()
    torch.manual_seed(1)
    video, label = torch.randn(5, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1, 0])
    draw = RandomTexts(model.model, count=7, length=4, seed=0)
    tokens = draw(6)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    own = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def parts(weights):
        logits, frames = torch.func.functional_call(model, weights, (video,))[:2]
        pooled = frames.view(5, 2, -1).mean(dim=1)
        with torch.no_grad():
            texts = F.normalize(raw.model.encode_text(tokens), dim=1)
            still = raw.embed_frames(video).view(5, 2, -1).mean(dim=1)
        scale = original["logit_scale"].double().exp()  # of the original, for both
        gap = 0.0
        for i in range(5):
            for m in range(7):
                gap += (scale * (pooled[i] - still[i]) @ texts[m]) ** 2 / (2 * 7) / 5
        log_q = raw(video).log_softmax(1)
        divergence = (log_q.exp() * (log_q - logits.log_softmax(1))).sum() / logits.numel()
        return F.cross_entropy(logits, label) + 0.3 * gap + 0.7 * divergence, gap

    anchor = {f"model.{n}": t.double() for n, t in original.items()}
    here = {n: own[n].clone().requires_grad_() for n in names}
    mixed = {n: (0.4 * anchor[n] + 0.6 * own[n]).requires_grad_() for n in names}
    (total, gap), (at_mixed, _) = parts(here), parts(mixed)
    wanted = [a + 0.5 * b for a, b in zip(
        torch.autograd.grad(total, list(here.values())),
        torch.autograd.grad(at_mixed, list(mixed.values())), strict=True)]

    seen = []
    raw.model.visual.register_forward_hook(lambda *args: seen.append(1))
    connect = Connect(
        model=model, interpolator=WeightInterpolator(
            {n: p for n, p in model.named_parameters() if p.requires_grad}, anchor),
        low=0.4, high=0.4, loss_ratio=0.5, seed=0)
    features = RawFeatures(raw)
    lipsum = EnergyGap(features, draw, model.encode_text, 0.3)
    result = PlainStep(
        model, cross_entropy, accumulate=accumulate,
        objectives=[connect, RawDistillation(features, 0.7), lipsum])(video, label, 6)
    assert len(seen) == accumulate
    assert float(gap.detach()) > 0.1
    torch.testing.assert_close(result.lipsum_loss, gap.detach())
    torch.testing.assert_close(result.total_loss, (total + 0.5 * at_mixed).detach())
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)
    assert all(p.grad is None for p in model.model.text_parameters().values())


@pytest.mark.parametrize("train_text", [False, True])
def test_a_second_text_tower_is_kept_only_beside_one_that_trains(train_text, tmp_path):
    torch.save(CLIP(SMALL).state_dict(), tmp_path / "clip.pt")
    cfg = get_cfg()
    cfg.merge_from_list([
        "OUTPUT_DIR", str(tmp_path), "NUM_GPUS", 0, "DATA.NUM_FRAMES", 2,
        "DATA.TRAIN_CROP_SIZE", 16, "DATA.TEST_CROP_SIZE", 16, "MODEL.ARCH", "auto",
        "MODEL.NUM_CLASSES", 2, "MODEL.CLIP_PATH", str(tmp_path / "clip.pt"),
        "MODEL.TEXT_TOWER", "trainable" if train_text else "frozen",
        "TRAIN.OBJECTIVES", "['lipsum']"])
    model = build_model(cfg, ["abseiling", "brush hair"])
    EnergyGap.extend_model(cfg, model)
    assert model.keep_frames
    objective = EnergyGap.build(cfg, model)
    assert (objective.weight, objective.draw.count, objective.draw.length) == (1.0, 80, 8)
    assert has_text(build_raw_model(cfg, model)) == train_text
    objective.begin_step(0)
    before = objective._texts
    torch.testing.assert_close(before.norm(dim=1), torch.ones(80))
    if train_text:  # what the texts are is then not changed by training
        with torch.no_grad():
            for parameter in model.model.text_parameters().values():
                parameter.add_(0.1)
    objective.begin_step(0)
    assert torch.equal(objective._texts, before) and not before.requires_grad


LIPSUM = ["TRAIN.OBJECTIVES", "['lipsum']"]


@pytest.mark.parametrize(("opts", "said"), [
    (["TRAIN.LIPSUM.RATIO", "0.5"], "no effect without 'lipsum' in TRAIN.OBJECTIVES"),
    (["TRAIN.LIPSUM.TEXTS", "8"], "no effect without 'lipsum' in TRAIN.OBJECTIVES"),
    (["TRAIN.LIPSUM.LENGTH", "4"], "no effect without 'lipsum' in TRAIN.OBJECTIVES"),
    ([*LIPSUM, "TRAIN.LIPSUM.RATIO", "0.0"], "TRAIN.LIPSUM.RATIO is 0.0; .* over 0"),
    ([*LIPSUM, "TRAIN.LIPSUM.TEXTS", "0"], "TRAIN.LIPSUM.TEXTS is 0"),
    ([*LIPSUM, "TRAIN.LIPSUM.LENGTH", "0"], "TRAIN.LIPSUM.LENGTH is 0"),
])
def test_settings_that_the_config_refuses(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, opts)


def test_the_raw_model_may_be_asked_for_as_well():
    load_cfg(None, [*LIPSUM, "MODEL.KEEP_RAW_MODEL", "True"])
