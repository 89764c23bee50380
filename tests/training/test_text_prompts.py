"""Text prompts: recorded numbers, what trains, and what files with prompts serve for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openvclip.clip.tokenizer import tokenize
from openvclip.config import load_cfg
from openvclip.interpolation import WeightInterpolator, WeightPatcher
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import load_model_weights
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.text import cache_key, class_embeddings, class_texts, prompt_templates
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.class_texts import ClassTextTraining
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.live_classifier import LiveClassifier, tokenize_classes
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.optim import build_optimizer, freeze_parameters
from openvclip.training.step import PlainStep
from openvclip.utils.errors import CheckpointError, ConfigError

CASES = ["n1", "n4", "n4_context24"]


def live(model, names, context_length=77, chunk=256):
    texts = class_texts(names, prompt_templates(len(model.model.prompts)))
    return LiveClassifier(model, tokenize_classes(model.model, texts, context_length), chunk)


@pytest.fixture(scope="module")
def recorded(golden):
    return torch.load(golden / "text_prompt.pt", weights_only=True)


@pytest.fixture(params=CASES)
def case(request, recorded, tiny_clip_state):
    """A recorded case, the model at its prompts, and its input."""
    own = recorded[request.param]
    clip = build_temporal_clip(tiny_clip_state, temporal_type=own["type"], num_frames=8)
    clip.add_prompts(own["prompt_num"])
    model = VideoCLIP(clip, 8, torch.zeros(0, 64), train_text=True)
    with torch.no_grad():
        model.model.prompts.copy_(own["prompts"])
    torch.manual_seed(own["input_seed"])
    video = torch.randn(*own["input_shape"])
    assert float(video.double().sum()) == pytest.approx(own["input_sum"], abs=1e-2)
    return own, model, video


def test_recorded_sentences_and_classifier(case):
    own, model, _ = case
    names, length = own["classnames"], own["context_length"]
    start = live(model, names, length)
    assert torch.equal(start.texts.tokens, own["tokens"])
    assert torch.equal(model.model.count_columns(start.texts.tokens) - 1, own["eot_position"])
    features = model.model.encode_classes(own["tokens"]).detach()
    torch.testing.assert_close(features, own["text_features"], atol=1e-5, rtol=0)
    for classifier in (start.start(), class_embeddings(model.model, names, context_length=length)):
        torch.testing.assert_close(classifier.detach(), own["classifier"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [256, 2])
def test_recorded_step(case, chunk):
    own, model, video = case
    model, video = model.double(), video.double()  # so that no processor's rounding is compared
    objective = ClassTextTraining(live(model, own["classnames"], own["context_length"], chunk))
    result = PlainStep(model, cross_entropy, objectives=[objective])(video, own["labels"], 0)
    torch.testing.assert_close(result.logits, own["logits_train"], atol=1e-5, rtol=0)
    assert float(result.loss) == pytest.approx(own["loss"], abs=1e-5)
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    renamed = {n.replace("model.prompt_embed", "prompt_embed") for n in with_gradient}
    assert renamed == set(own["with_gradient"])
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {*own["frozen"], *own["without_gradient"]}
    clip = model.model
    wanted = {
        "prompts": clip.prompts, "text_projection": clip.text_projection,
        "ln_final_weight": clip.ln_final.weight, "visual_proj": clip.visual.proj,
        "positional_embedding": clip.positional_embedding, "logit_scale": clip.logit_scale,
    }
    for name, parameter in wanted.items():
        expected, found = own[f"grad_{name}"], parameter.grad.float()
        largest = abs(expected) if isinstance(expected, float) else None
        if isinstance(expected, dict):
            found, largest = found.flatten()[::expected["step"]], expected["absmax"]
            expected = expected["values"]
        expected = torch.as_tensor(expected)
        largest = float(expected.abs().max()) if largest is None else largest
        torch.testing.assert_close(found, expected, atol=1e-5 * largest, rtol=0, msg=name)


def test_initial_values(case):
    own, model, _ = case
    clip = CLIP(CLIPConfig(embed_dim=8, image_size=16, patch_size=16, vision_width=64,
                           vision_layers=1, text_width=64, text_layers=1))
    clip.add_prompts(400, seed=3)
    values = clip.prompts.detach().clone()
    assert values.mean().abs() < 5e-4 and values.std() == pytest.approx(0.01, rel=0.03)
    clip.add_prompts(400, seed=3)
    assert torch.equal(clip.prompts, values)


def make_model(prompts=2, seed=0):
    torch.manual_seed(seed)
    config = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64,
                        vision_layers=1, text_width=64, text_layers=1)
    clip = build_temporal_clip(CLIP(config).state_dict(), num_frames=2)
    if prompts:
        clip.add_prompts(prompts)
    return VideoCLIP(clip, 2, torch.zeros(0, 16), train_text=bool(prompts)).double()


def test_interpolated_prompts_are_those_of_the_mixed_tower():
    names, label = ["a dog", "somebody sings", "red"], torch.tensor([0, 2, 1, 1])
    model, clip = make_model(), make_model(0, seed=1)
    torch.manual_seed(2)
    video = torch.randn(4, 3, 2, 16, 16).double()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    interpolator = WeightInterpolator(trained, clip.state_dict())
    assert "model.prompt_embed" not in interpolator.names
    connect = Connect(model=model, interpolator=interpolator, low=0.4, high=0.4, loss_ratio=0.5,
                      seed=0)
    wanted = {name: torch.zeros_like(p) for name, p in trained.items()}
    for ratio, weight in ((0.0, 1.0), (0.4, 0.5)):
        with interpolator.at(ratio):
            tokens = tokenize([f"X X {name}." for name in names])
            x = model.model.token_embedding(tokens)
            x = torch.cat([x[:, :1], model.model.prompts.expand(3, -1, -1), x[:, 3:]], dim=1)
            x = model.model.transformer(x + model.model.positional_embedding)
            x = model.model.ln_final(x)[torch.arange(3), tokens.argmax(dim=1)]
            classes = F.normalize(x @ model.model.text_projection, dim=1)
            frames = model.embed_frames(video).view(4, 2, -1).mean(dim=1)
            loss = F.cross_entropy(model.model.logit_scale.exp() * frames @ classes.T, label)
            for name, gradient in zip(
                    wanted, torch.autograd.grad(loss, list(trained.values())), strict=True):
                wanted[name] += weight * gradient
    objective = ClassTextTraining(live(model, names, chunk=2))
    PlainStep(model, cross_entropy, accumulate=2, objectives=[connect, objective])(video, label, 0)
    for name, gradient in wanted.items():
        torch.testing.assert_close(trained[name].grad, gradient, atol=1e-12, rtol=1e-9, msg=name)


ALONE = ["MODEL.TEXT_PROMPT", "True", "MODEL.DEFAULT_FINETUNE_FACTOR", "0",
         "MODEL.MLP_FINETUNE_FACTOR", "0"]


def test_prompts_train_alone():
    """The step needs no gradient of the towers; each group has its own rate."""
    cfg = load_cfg(None, [*ALONE, "MODEL.PROMPT_FINETUNE_FACTOR", "0.5"])
    model = make_model()
    freeze_parameters(model, cfg)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"model.prompt_embed"}
    group, = build_optimizer(model, cfg).param_groups
    assert group["names"] == ["model.prompt_embed"] and group["lr_factor"] == 0.5
    video, label = torch.randn(4, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1])
    objective = ClassTextTraining(live(model, ["a dog", "somebody sings", "red"], chunk=2))
    PlainStep(model, cross_entropy, accumulate=2, objectives=[objective])(video, label, 0)
    assert model.model.prompts.grad.abs().max() > 0
    assert sum(p.grad is not None for p in model.parameters()) == 1


def test_prompts_can_be_frozen_with_the_rest():
    with pytest.raises(ConfigError, match="MODEL.PROMPT_FINETUNE_FACTOR are 0"):
        freeze_parameters(make_model(), load_cfg(
            None, [*ALONE, "MODEL.PROMPT_FINETUNE_FACTOR", "0"]))


def test_weights_with_prompts_and_without():
    model, plain = make_model(), make_model(0)
    state = model.state_dict()
    assert "model.prompt_embed" in state and "model.prompt_embed" not in plain.state_dict()
    with pytest.raises(CheckpointError, match="2 trained prompts; set MODEL.TEXT_PROMPT True and "):
        load_model_weights(plain, state, "a.pyth")
    with pytest.raises(CheckpointError, match="of another shape.*prompt_embed"):
        load_model_weights(make_model(3), state, "a.pyth")
    published = {**state, "prompt_embed": 7 + state["model.prompt_embed"]}
    del published["model.prompt_embed"]
    load_model_weights(model, published, "a.pyth")
    assert torch.equal(model.model.prompts, published["prompt_embed"])
    before = model.model.prompts.detach().clone()
    load_model_weights(model, plain.state_dict(), "a.pyth")  # training may begin anywhere
    assert torch.equal(model.model.prompts, before)
    nn.init.ones_(model.model.prompts)
    patcher = WeightPatcher(dict(model.named_parameters()), make_model(0, seed=1).state_dict())
    assert "model.prompt_embed" not in patcher.names
    assert "model.text_projection" in patcher.names


def test_cached_classifiers_know_their_prompts():
    clip = make_model().float().model
    first = cache_key(clip, ["a"], prompt_templates(2), 77)
    nn.init.ones_(clip.prompts)
    assert cache_key(clip, ["a"], prompt_templates(2), 77) != first


@pytest.mark.parametrize(("opts", "said"), [
    (["TUNE_HEAD", "True"], "TUNE_HEAD is True; with MODEL.TEXT_PROMPT True it must be False"),
    (["TRAIN.SHARDING", "fsdp"], "TRAIN.SHARDING is fsdp; with MODEL.TEXT_PROMPT True"),
    (["MODEL.TEXT_TOWER", "trainable"], "MODEL.TEXT_TOWER is trainable; with MODEL.TEXT_PROMPT"),
    (["MODEL.TEXT_TEMPLATES", "name_only"], "TEXT_TEMPLATES is name_only; with MODEL.TEXT_PROMPT"),
    (["MODEL.CLASS_DESCRIPTIONS", "a.json"], "CLASS_DESCRIPTIONS is a.json; with MODEL.TEXT_PR"),
    (["TRAIN.CAPTION.ENABLE", "True", "TRAIN.CAPTION.FILE", "a"], "CAPTION.ENABLE is True; with"),
    (["TRAIN.LORA.ENABLE", "True"], "TRAIN.LORA.ENABLE is True; with MODEL.TEXT_PROMPT True"),
    (["MODEL.PROMPT_NUM", "0"], "MODEL.PROMPT_NUM is 0"),
])
def test_what_the_config_refuses(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, ["MODEL.TEXT_PROMPT", "True", *opts])


def test_a_number_of_prompts_without_prompts_is_refused():
    with pytest.raises(ConfigError, match="MODEL.PROMPT_NUM.*MODEL.TEXT_PROMPT True"):
        load_cfg(None, ["MODEL.PROMPT_NUM", "4"])
