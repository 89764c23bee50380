"""FROSTER: recorded cases, float64 maths, its texts and its projectors."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.tokenizer import tokenize
from openvclip.config import load_cfg
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.text import FROSTER_TEMPLATES, TEMPLATES, class_embeddings, class_texts
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.froster import Froster, Projectors, draw_template, embed_all
from openvclip.training.objectives.live_classifier import LiveClassifier, tokenize_classes
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.raw_features import RawFeatures
from openvclip.training.optim import compute_parameter_groups
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError


def build(model, raw, names, draw, weight=2.0, chunk=256, projectors=None):
    texts = tokenize_classes(model.model, class_texts(names, FROSTER_TEMPLATES), 77)
    projectors = projectors or Projectors(model.model.embed_dim, seed=0)
    model.extras["froster"] = projectors.to(model.model.logit_scale.dtype)
    model.keep_frames = True
    embedded = embed_all(raw.model, texts).unflatten(0, (len(names), -1))
    return Froster(LiveClassifier(model, texts, chunk), model.extras["froster"], RawFeatures(raw),
                   embedded.to(model.model.logit_scale.dtype), weight, draw)


@pytest.fixture
def prepare(golden, tiny_clip_state):
    """Returns a recorded case, its input, the model, its objective and the names of classes."""
    cases = torch.load(golden / "froster.pt", weights_only=True)

    def with_rows(state, ids, rows):
        embedding = state["token_embedding.weight"].clone()
        embedding[ids.long()] = rows.float()
        return {**state, "token_embedding.weight": embedding}

    def make(name):
        case, own = cases[name], cases["tiny_clip_rows"]
        original = state = with_rows(tiny_clip_state, own["ids"], own["rows"])
        if case["model_weights_from"] == "tiny_clip_other.pt":
            other = {}
            for part in ("visual_a", "visual_b", "text"):
                other |= torch.load(golden / f"tiny_clip_other_{part}.pt", weights_only=True)
            ids, rows = other.pop("token_embedding.ids"), other.pop("token_embedding.rows")
            other = {name: t.float() for name, t in other.items()}
            state = with_rows({**tiny_clip_state, **other}, ids, rows)
        names = [case["classmap"][str(i)] for i in range(5)]
        clip = build_temporal_clip(state, temporal_type=case["type"], num_frames=8)
        model = VideoCLIP(clip, 8, torch.eye(5, 64), train_text=True)
        raw = VideoCLIP(build_temporal_clip(original, num_frames=8), 8, torch.eye(5, 64))
        projectors = Projectors(64, seed=0)
        if case["projector"]["seed"] is not None:
            torch.manual_seed(case["projector"]["seed"])
            with torch.no_grad():
                for own in (projectors.projector_t, projectors.projector_v):
                    for layer in (0, 2):
                        own[layer].weight.copy_(case["projector"]["scale"] * torch.randn(64, 64))
        torch.manual_seed(case["input_seed"])
        video = torch.randn(*case["input_shape"])
        assert float(video.double().sum()) == pytest.approx(case["input_sum"], abs=1e-2)
        objective = build(model, raw.requires_grad_(False), names,
                          lambda step: case["template_index"], case["distillation_ratio"],
                          projectors=projectors)
        return case, video, model, objective, names

    return make


@pytest.mark.parametrize("name", ["trained", "start"])
def test_recorded_cases(name, prepare):
    """Features, classifiers, projections, losses and gradients of the published implementation."""
    case, video, model, objective, names = prepare(name)
    seen, term = {}, objective.term

    def keep(output, logits, part):
        classes, projectors = model.live_classifier, objective.projectors
        seen.update(image_features=output.frames, classifier=classes, logits=logits,
                    raw_image_features=objective.raw.frames(part),
                    raw_classifier=objective._raw_classes,
                    projected_image_features=projectors.project_frames(output.frames),
                    projected_classifier=projectors.project_classes(classes))
        return term(output, logits, part)

    objective.term = keep
    result = PlainStep(model, cross_entropy, objectives=[objective])(video, case["labels"], 0)
    for key, tensor in seen.items():
        torch.testing.assert_close(tensor, case[key], atol=1e-5, rtol=1e-5, msg=key)
    assert float(result.loss) == pytest.approx(case["cross_entropy"], abs=1e-5)
    assert float(result.froster_loss) == pytest.approx(case["distillation"], abs=1e-5)
    assert case["image_cosine_loss"] + case["text_cosine_loss"] == pytest.approx(
        case["distillation"], abs=1e-6)
    assert float(result.total_loss) == pytest.approx(case["total"], abs=1e-5)

    parameters = {n.removeprefix("extras.froster."): p for n, p in model.named_parameters()}
    largest = max(float(one["absmax"]) for one in case["gradients_total"].values())
    for key, one in case["gradients_total"].items():
        if key.startswith("projector") and name == "start":
            continue  # nobody knows how its first layers were drawn
        found = parameters[key].grad.flatten()[::one["step"]]
        assert float((found - one["values"]).abs().max()) < 1e-5 * largest, key
    embedding, one = parameters["model.token_embedding.weight"].grad, case["grad_token_embedding"]
    step = embedding.shape[1] // one["values"].shape[1]
    found = embedding[one["rows"].long(), ::step]
    assert float((found - one["values"]).abs().max()) < 1e-5 * max(largest, float(one["absmax"]))
    assert set(embedding.abs().sum(dim=1).nonzero().flatten().tolist()) <= set(
        one["rows"].tolist())
    assert all(p.grad is not None for p in parameters.values())  # everything trains


@pytest.mark.parametrize("name", ["trained", "start"])
def test_recorded_texts_and_evaluation(name, prepare):
    """Two texts a class in training, 29 in evaluation, where projectors play no part."""
    case, video, model, objective, names = prepare(name)
    objective.begin_step(0)
    tokens = objective.live.texts.tokens[objective._rows].view(5, 2, 77).transpose(0, 1)
    columns = case["tokens"].shape[-1]
    assert torch.equal(tokens[..., :columns], case["tokens"].long())
    assert not tokens[..., columns:].any()
    classifier = class_embeddings(model.model, names, FROSTER_TEMPLATES)
    torch.testing.assert_close(classifier, case["eval_classifier"], atol=1e-5, rtol=1e-5)
    model.set_classifier(classifier)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(video), case["eval_logits"], atol=1e-5, rtol=1e-5)


def test_a_name_without_a_colon_appears_twice():
    texts, = class_texts(["archery"], FROSTER_TEMPLATES)
    assert len(texts) == 29 and texts[0] == "a photo of archery. archery"
    assert texts[-1] == "archery"
    texts, = class_texts(["Surf: on a wave: a board"], FROSTER_TEMPLATES)
    assert texts[0] == TEMPLATES[0].format("Surf") + " Surf: on a wave: a board"


def test_projectors_begin_as_published(golden):
    recorded = torch.load(golden / "froster.pt", weights_only=True)
    groups = {len(g["projectors"]): g["weight_decay"] for g in recorded["optimizer_groups"]}
    assert groups == {4: 0.01, 0: 0.0}
    ours = Projectors(64, seed=5)
    for projector in (ours.projector_v, ours.projector_t):
        assert float(projector[0].weight.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
        assert not projector[2].weight.any() and projector[0].bias is None
        assert projector[1].approximate == "none"
    rows = torch.randn(3, 64)
    assert torch.equal(ours.project_frames(rows), rows)
    again, other = Projectors(64, seed=5), Projectors(64, seed=6)
    assert torch.equal(again.projector_t[0].weight, ours.projector_t[0].weight)
    assert not torch.equal(other.projector_t[0].weight, ours.projector_t[0].weight)
    assert not torch.equal(ours.projector_t[0].weight, ours.projector_v[0].weight)
    decaying, = compute_parameter_groups(
        ((f"extras.froster.{n}", p) for n, p in ours.named_parameters()),
        weight_decay=0.01, zero_wd_1d=True)
    assert decaying["weight_decay"] == 0.01 and decaying["lr_factor"] == 1.0
    assert len(decaying["names"]) == 4


def test_templates_are_drawn_by_seed_and_step():
    drawn = [draw_template(3, step) for step in range(400)]
    assert set(drawn) == set(range(28))  # not the bare name, which every step has
    assert drawn == [draw_template(3, step) for step in range(400)]
    assert drawn != [draw_template(4, step) for step in range(400)]


NAMES = ["archery: with a bow", "singing", "golf: a swing on grass"]


def make_pair():
    """A float64 model and its raw model, of other weights than the model's."""
    torch.manual_seed(0)
    config = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64,
                        vision_layers=1, text_width=32, text_layers=1)
    original = CLIP(config).state_dict()
    moved = {n: t + 0.02 * torch.randn_like(t) for n, t in original.items()}
    clip = build_temporal_clip(moved, temporal_type="expand_temporal_view", num_frames=2)
    model = VideoCLIP(clip, 2, torch.eye(3, 16), train_text=True).double()
    raw = VideoCLIP(build_temporal_clip(original, num_frames=2), 2, torch.eye(3, 16)).double()
    projectors = Projectors(16, seed=0).double()
    with torch.no_grad():
        projectors.projector_v[2].weight.normal_()
        projectors.projector_t[2].weight.normal_()
    return model, raw.requires_grad_(False).eval(), projectors, original


def written_out(model, raw, projectors, video, label, place):
    """The total loss and that of the distances, with the towers' own functions."""
    def classes(clip):
        features = []
        for texts in class_texts(NAMES, FROSTER_TEMPLATES):
            own = tokenize([texts[place], texts[28]])
            features.append(F.normalize(clip.encode_text(own), dim=1).mean(dim=0))
        return F.normalize(torch.stack(features), dim=1)

    def frames(clip):
        return F.normalize(clip.encode_image(video.transpose(1, 2).flatten(0, 1)), dim=1)

    def project(rows, layers):
        return rows + 0.1 * F.gelu(rows @ layers[0].weight.T) @ layers[2].weight.T

    f, c, fr, cr = frames(model.model), classes(model.model), frames(raw.model), classes(raw.model)
    logits = (model.model.logit_scale.exp() * f @ c.T).view(len(video), 2, -1).mean(dim=1)
    pf, pc = project(f, projectors.projector_v), project(c, projectors.projector_t)
    distance = 2 - F.cosine_similarity(pf, fr).mean() - F.cosine_similarity(pc, cr).mean()
    return F.cross_entropy(logits, label) + 0.7 * distance, distance


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("chunk", [100, 4])
def test_gradients_are_those_of_the_formula_also_interpolated(chunk, accumulate):
    """In float64; the mixed weights, whose projectors are the same, see the same texts."""
    model, raw, projectors, original = make_pair()
    torch.manual_seed(1)
    video, label = torch.randn(5, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1, 0])
    plain, mixed = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in mixed.model.named_parameters():
            parameter.lerp_(original[name].double(), 0.3)
    own = [copy.deepcopy(projectors) for _ in range(2)]
    total, distance = written_out(plain, raw, own[0], video, label, place=11)
    at_mixed, _ = written_out(mixed, raw, own[1], video, label, place=11)
    total.backward()
    at_mixed.backward()

    objective = build(model, raw, NAMES, lambda step: 11, 0.7, chunk, projectors)
    names = {n: p for n, p in model.named_parameters() if p.requires_grad}
    connect = Connect(
        model=model, interpolator=WeightInterpolator(
            names, {f"model.{n}": t for n, t in original.items()}),
        low=0.3, high=0.3, loss_ratio=0.5, seed=0)
    result = PlainStep(model, cross_entropy, accumulate=accumulate,
                       objectives=[connect, objective])(video, label, 0)
    # CLIP's class embeddings are made in fp32, whatever the weights are.
    close = {"atol": 1e-7, "rtol": 1e-6}
    torch.testing.assert_close(result.froster_loss, distance.detach(), **close)
    torch.testing.assert_close(
        result.total_loss, (total + 0.5 * at_mixed).detach(), **close)
    for name, parameter in names.items():
        if name.startswith("extras."):
            first, second = (x.get_parameter(name.removeprefix("extras.froster.")) for x in own)
        else:
            first, second = plain.get_parameter(name), mixed.get_parameter(name)
        wanted = first.grad + 0.5 * second.grad
        torch.testing.assert_close(parameter.grad, wanted, msg=name, **close)
        assert wanted.abs().max() > 0


def test_the_state_holds_the_projectors():
    model, raw, projectors, _ = make_pair()
    objective = build(model, raw, NAMES, lambda step: 0, projectors=projectors)
    state = {name: t.clone() for name, t in objective.state_dict().items()}
    assert set(state) == {"projector_v.0.weight", "projector_v.2.weight",
                          "projector_t.0.weight", "projector_t.2.weight"}
    assert not [name for name in model.state_dict() if "projector" in name]
    with torch.no_grad():
        projectors.projector_v[0].weight.zero_()
    objective.load_state_dict(state)
    assert torch.equal(projectors.projector_v[0].weight, state["projector_v.0.weight"])


FROSTER = ["TRAIN.OBJECTIVES", "['froster']", "MODEL.TEXT_TEMPLATES", "froster29"]


@pytest.mark.parametrize(("opts", "said"), [
    (FROSTER[:2], "MODEL.TEXT_TEMPLATES is openvclip28; with .*'froster'.* must be froster29"),
    (["TRAIN.FROSTER.RATIO", "1.0"], "no effect without 'froster' in TRAIN.OBJECTIVES"),
    ([*FROSTER, "TRAIN.FROSTER.RATIO", "0.0"], "TRAIN.FROSTER.RATIO is 0.0; .* over 0"),
    ([*FROSTER, "TRAIN.FROSTER.RATIO", "-1.0"], "TRAIN.FROSTER.RATIO is -1.0"),
    ([*FROSTER, "MODEL.KEEP_RAW_MODEL", "True", "MODEL.RAW_MODEL_DISTILLATION", "True"],
     "MODEL.RAW_MODEL_DISTILLATION is True; .* TRAIN.FROSTER.RATIO"),
    ([*FROSTER, "TUNE_HEAD", "True"], "TUNE_HEAD is True; with TRAIN.OBJECTIVES .'froster'"),
    ([*FROSTER, "TRAIN.LORA.ENABLE", "True"], "TRAIN.LORA.ENABLE is True; with .*'froster'"),
    ([*FROSTER, "TRAIN.SHARDING", "fsdp"], "TRAIN.SHARDING is fsdp; .* must be ddp"),
    ([*FROSTER, "MODEL.TEXT_TOWER", "trainable"], "MODEL.TEXT_TOWER is trainable; .* by itself"),
    ([*FROSTER, "MODEL.STATIC_GRAPH", "True"], "MODEL.STATIC_GRAPH is True; .* taken twice"),
    ([*FROSTER, "TRAIN.CAPTION.ENABLE", "True", "TRAIN.CAPTION.FILE", "a.sqlite"],
     "TRAIN.CAPTION.TEXT_TOWER is frozen; with .* share one text tower"),
])
def test_settings_that_the_config_refuses(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, opts)


def test_settings_that_go_together():
    cfg = load_cfg(None, [*FROSTER, "MODEL.KEEP_RAW_MODEL", "True", "MODEL.TEXT_CHUNK", "64"])
    assert cfg.TRAIN.FROSTER.RATIO == 2.0
    # A test of its checkpoint may use other texts.
    load_cfg(None, [*FROSTER[:2], "TRAIN.ENABLE", "False"])
