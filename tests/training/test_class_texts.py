"""The text tower trained by classification: gradients are those of the written formula."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.tokenizer import tokenize
from openvclip.config import load_cfg
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.class_texts import ClassTextTraining, TextDraw
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.contrastive import contrastive_loss
from openvclip.training.objectives.distill import RawDistillation, compute_divergence
from openvclip.training.objectives.live_classifier import LiveClassifier, tokenize_classes
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.objective import Captions
from openvclip.training.objectives.raw_features import RawFeatures
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError

# Classes with unequal numbers of texts of unequal lengths.
TEXTS = [["a dog runs", "a photo of a dog that runs over a field", "dog"],
         ["a red bar"], ["singing", "somebody sings a song", "a song", "the singer"]]


def make_model(seed=0):
    torch.manual_seed(seed)
    config = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64,
                        vision_layers=1, text_width=64, text_layers=1)
    clip = build_temporal_clip(CLIP(config).state_dict(), num_frames=2)
    classifier = F.normalize(torch.randn(3, 16), dim=1)
    return VideoCLIP(clip, 2, classifier, train_text=True).double()


@pytest.fixture
def batch():
    torch.manual_seed(5)
    return torch.randn(4, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1])


def classify(model, video, texts=TEXTS):
    """Logits, written out: every class is encoded with its own texts."""
    classes = []
    for own in texts:
        features = F.normalize(model.model.encode_text(tokenize(own)), dim=1)
        classes.append(F.normalize(features.mean(dim=0), dim=0))
    frames = F.normalize(model.model.encode_image(video.transpose(1, 2).flatten(0, 1)), dim=1)
    pooled = frames.view(len(video), 2, -1).mean(dim=1)
    return model.model.logit_scale.exp() * pooled @ torch.stack(classes).T


def objective(model, chunk, draw=None):
    live = LiveClassifier(model, tokenize_classes(model.model, TEXTS, 77), chunk)
    return ClassTextTraining(live, draw)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def check(model, wanted, scale=1.0):
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, scale * wanted[name], atol=1e-12, rtol=1e-9, msg=name)
    assert all(wanted[name].abs().max() > 0 for name in wanted)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("chunk", [100, 3, 1])
def test_gradients_are_those_of_the_formula(batch, accumulate, chunk):
    video, label = batch
    model, other = make_model(), make_model()
    cross_entropy(classify(other, video), label).backward()
    step = PlainStep(model, cross_entropy, accumulate=accumulate,
                     objectives=[objective(model, chunk)])
    result = step(video, label, 0)
    torch.testing.assert_close(result.logits, classify(other, video).detach().float())
    assert list(result.losses()) == ["loss"] and model.live_classifier is None
    check(model, gradients(other))


@pytest.mark.parametrize("chunk", [100, 3])
def test_interpolated_classes_are_those_of_the_mixed_tower(batch, chunk):
    video, label = batch
    model, plain, mixed, clip = make_model(), make_model(), make_model(), make_model(seed=1)
    names = dict(model.named_parameters())
    connect = Connect(model=model, interpolator=WeightInterpolator(names, clip.state_dict()),
                      low=0.3, high=0.3, loss_ratio=0.5, seed=0)
    with torch.no_grad():
        for p, q in zip(mixed.parameters(), clip.parameters(), strict=True):
            p.lerp_(q, 0.3)
    loss = cross_entropy(classify(plain, video), label)
    at_mixed = cross_entropy(classify(mixed, video), label)
    loss.backward()
    at_mixed.backward()
    first, second = gradients(plain), gradients(mixed)
    result = PlainStep(model, cross_entropy, accumulate=2,
                       objectives=[connect, objective(model, chunk)])(video, label, 0)
    torch.testing.assert_close(result.connect_loss, at_mixed.detach())
    torch.testing.assert_close(result.loss, loss.detach())
    check(model, {name: first[name] + 0.5 * second[name] for name in first})


def test_a_loss_scale_reaches_the_texts(batch):
    video, label = batch
    model, other = make_model(), make_model()
    cross_entropy(classify(other, video), label).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    PlainStep(model, cross_entropy, accumulate=2, scaler=scaler,
              objectives=[objective(model, 3)])(video, label, 0)
    check(model, gradients(other), 1024.0)


@pytest.mark.parametrize("chunk", [100, 3])
def test_mixed_precision_has_classes_in_fp32(batch, chunk):
    """The tower computes in bf16; embeddings, their means and their gradient do not."""
    video, label = batch[0].float(), batch[1]
    model, other = make_model().float(), make_model().float()
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    cross_entropy(classify(other, video), label).backward()
    own = objective(model, chunk)
    own.live.autocast = autocast
    assert own.live.start().dtype == torch.float32
    own.live.stop()
    PlainStep(model, cross_entropy, autocast=autocast, accumulate=2, objectives=[own])(
        video, label, 0)
    wanted = gradients(other)
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        difference = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert 0 < difference < 0.1, name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_with_captions_and_a_raw_model(batch, accumulate):
    """One text tower trains by both; the raw model keeps its classifier."""
    video, label = batch
    captions = Captions(tokenize(["a dog runs", "red", "a long song"]), torch.tensor([0, 2, 3]))
    model, other, raw = make_model(), make_model(), make_model(seed=1)
    logits = classify(other, video)
    with torch.no_grad():
        raw_logits = raw(video)
    divergence = compute_divergence(logits, raw_logits)
    output = other(video, *captions).captioned
    contrast = contrastive_loss(output.video, output.text, output.scale)
    (cross_entropy(logits, label) + 0.7 * contrast + 2 * divergence).backward()
    result = PlainStep(
        model, cross_entropy, accumulate=accumulate, caption_ratio=0.7,
        objectives=[RawDistillation(RawFeatures(raw), 2.0), objective(model, 3)],
    )(video, label, 0, captions)
    torch.testing.assert_close(result.caption_loss, contrast.detach())
    torch.testing.assert_close(result.distill_loss, divergence.detach())
    check(model, gradients(other))


def test_drawn_texts_are_the_only_ones(batch):
    video, label = batch
    draw = TextDraw([len(own) for own in TEXTS], 2, shared=False, seed=7)
    texts = [text for own in TEXTS for text in own]
    drawn = [[texts[row] for row in draw(3).tolist() if texts[row] in own] for own in TEXTS]
    assert [len(own) for own in drawn] == [2, 1, 2]
    model, other = make_model(), make_model()
    cross_entropy(classify(other, video, drawn), label).backward()
    PlainStep(model, cross_entropy, objectives=[objective(model, 2, draw)])(video, label, 3)
    check(model, gradients(other))


def test_draws_depend_on_seed_and_step_and_templates_are_shared():
    draw = TextDraw([28, 28, 28], 4, shared=True, seed=7)
    rows = [draw(step).view(3, 4) for step in range(50)]
    assert all(torch.equal(own, draw(step).view(3, 4)) for step, own in enumerate(rows))
    assert all(torch.equal(own[0] + 28 * i, own[i]) for own in rows for i in (1, 2))
    assert {int(place) for own in rows for place in own[0]} == set(range(28))
    other = TextDraw([28, 28, 28], 4, shared=True, seed=8)
    assert any(not torch.equal(other(step).view(3, 4), own) for step, own in enumerate(rows))


def test_a_failed_step_does_not_leave_its_classes_to_the_next(batch):
    video, label = batch
    model = make_model()
    own = objective(model, 3)
    step = PlainStep(model, cross_entropy, objectives=[own])
    with pytest.raises(IndexError):
        step(video, label + 7, 0)
    kept = copy.deepcopy(make_model())
    model.zero_grad()
    step(video, label, 0)
    cross_entropy(classify(kept, video), label).backward()
    check(model, gradients(kept))
    own.live.start()
    assert model.live_classifier is not None
    own.live.stop()
    assert model.live_classifier is None


def build(tmp_path, *opts):
    names = {str(i): name for i, name in enumerate(("dog", "bar", "song"))}
    (tmp_path / "names.json").write_text(json.dumps(names))
    cfg = load_cfg(None, ["DATA.INDEX_LABEL_MAPPING_FILE", str(tmp_path / "names.json"),
                          "MODEL.NUM_CLASSES", "3", "MODEL.TEXT_TOWER", "trainable", *opts])
    return ClassTextTraining.build(cfg, make_model())


def test_built_from_templates_or_descriptions(tmp_path):
    whole = build(tmp_path)
    assert whole.draw is None and len(whole.live.texts.tokens) == 84
    drawn = build(tmp_path, "MODEL.TEXT_SAMPLE", "1", "MODEL.TEXT_CHUNK", "2")
    drawn.begin_step(0)
    assert len(drawn._rows) == 3 and drawn.live.chunk == 2
    described = {"dog": ["a dog"], "bar": ["a bar", "a red bar " + "very " * 90], "song": "song"}
    (tmp_path / "texts.json").write_text(json.dumps(described))
    own = build(tmp_path, "MODEL.CLASS_DESCRIPTIONS", str(tmp_path / "texts.json"))
    assert own.live.texts.classes.tolist() == [0, 1, 1, 2]
    with pytest.raises(ConfigError, match="MODEL.TEXT_SAMPLE is 3, but a class has at most 2"):
        build(tmp_path, "MODEL.CLASS_DESCRIPTIONS", str(tmp_path / "texts.json"),
              "MODEL.TEXT_SAMPLE", "3")


@pytest.mark.parametrize(("opts", "said"), [
    (["TUNE_HEAD", "True"], "TUNE_HEAD is True; with MODEL.TEXT_TOWER trainable"),
    (["TRAIN.SHARDING", "fsdp"], "TRAIN.SHARDING is fsdp; with MODEL.TEXT_TOWER trainable"),
    (["MODEL.STATIC_GRAPH", "True"], "MODEL.STATIC_GRAPH is True; with MODEL.TEXT_TOWER"),
    (["TRAIN.LINEAR_CONNECT_CLIMB", "True", "TRAIN.LINEAR_CONNECT_PER_RANK", "True"],
     "LINEAR_CONNECT_PER_RANK is True; with MODEL.TEXT_TOWER trainable it must be False"),
    (["TRAIN.CAPTION.ENABLE", "True", "TRAIN.CAPTION.FILE", "a.sqlite"],
     "TRAIN.CAPTION.TEXT_TOWER is frozen; with MODEL.TEXT_TOWER trainable"),
    (["MODEL.TEXT_TOWER", "train"], "MODEL.TEXT_TOWER is 'train'.*trainable"),
    (["MODEL.TEXT_SAMPLE", "-1"], "MODEL.TEXT_SAMPLE is -1"),
    (["TRAIN.OBJECTIVES", "['class_texts']"], "which MODEL.TEXT_TOWER trainable switches on"),
])
def test_what_the_config_refuses(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, ["MODEL.TEXT_TOWER", "trainable", *opts])


@pytest.mark.parametrize("key", ["SAMPLE", "CHUNK"])
def test_settings_without_their_switch_are_refused(key):
    with pytest.raises(ConfigError, match=f"MODEL.TEXT_{key}.*MODEL.TEXT_TOWER trainable"):
        load_cfg(None, [f"MODEL.TEXT_{key}", "2"])
