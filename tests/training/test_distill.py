"""Distillation from the raw model, and its logits in tests: recorded cases and float64 maths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.config import get_cfg, load_cfg
from openvclip.config.idle import find_idle
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import build_model
from openvclip.models.raw import RawEnsemble, build_raw_model, has_text
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.distill import RawDistillation, compute_divergence
from openvclip.training.objectives.losses import cross_entropy, soft_cross_entropy
from openvclip.training.objectives.raw_features import RawFeatures, build_raw_features
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError

SMALL = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=2,
                   text_width=32, text_layers=1)
SWITCHES = ["MODEL.KEEP_RAW_MODEL", "True", "MODEL.RAW_MODEL_DISTILLATION", "True"]


def sample(tensor, recorded):
    return tensor.detach().flatten()[::recorded["step"]]


@pytest.fixture
def prepare(golden, tiny_clip_state):
    """Returns a recorded case, its input, the model and the raw model."""
    cases = torch.load(golden / "distill_raw.pt", weights_only=True)

    def make(name):
        case, other = cases[name], {}
        for part in "ab" if case["model_weights_from"] == "tiny_clip_other.pt" else "":
            other |= torch.load(golden / f"tiny_clip_other_visual_{part}.pt", weights_only=True)
        state = {**tiny_clip_state, **{name: t.float() for name, t in other.items()}}
        clip = build_temporal_clip(state, temporal_type=case["type"], num_frames=8)
        raw = VideoCLIP(build_temporal_clip(tiny_clip_state, num_frames=8), 8, case["classifier"])
        torch.manual_seed(case["input_seed"])
        video = torch.randn(*case["input_shape"])
        assert float(video.double().sum()) == pytest.approx(case["input_sum"], abs=1e-2)
        return case, video, VideoCLIP(clip, 8, case["classifier"]), raw.requires_grad_(False)

    return make


@pytest.mark.parametrize("name", ["trained", "start"])
def test_recorded_cases(name, prepare):
    """Losses and gradients of the published implementation."""
    case, video, model, raw = prepare(name)
    objective = RawDistillation(RawFeatures(raw), case["distillation_ratio"])
    result = PlainStep(model, cross_entropy, objectives=[objective])(video, case["labels"], 0)
    torch.testing.assert_close(result.logits, case["logits"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(raw(video), case["raw_logits"], atol=1e-5, rtol=1e-5)
    assert float(result.loss) == pytest.approx(case["cross_entropy"], abs=1e-5)
    assert float(result.distill_loss) == pytest.approx(case["kl"], abs=1e-6)
    assert float(result.total_loss) == pytest.approx(case["total"], abs=1e-5)
    parameters = {n.removeprefix("model."): p for n, p in model.named_parameters()}
    assert {n for n, p in parameters.items() if p.grad is not None} == set(case["gradients_total"])
    compare({n: p.grad for n, p in parameters.items()}, case["gradients_total"], 1e-5)
    trained = {n: p for n, p in parameters.items() if p.requires_grad}
    divergence = compute_divergence(model(video), case["raw_logits"])
    alone = torch.autograd.grad(divergence, list(trained.values()))
    compare(dict(zip(trained, alone, strict=True)), case["gradients_kl_alone"], 5e-5)


def compare(gradients, recorded, tolerance):
    largest = max(float(one["absmax"]) for one in recorded.values())
    for name, one in recorded.items():
        apart = (sample(gradients[name], one) - one["values"]).abs().max()
        assert float(apart) < tolerance * largest, name


@pytest.mark.parametrize("name", ["trained", "start"])
def test_recorded_ensemble_and_one_raw_pass_for_all_ratios(name, prepare):
    case, video, model, raw = prepare(name)
    seen = []
    raw.register_forward_hook(lambda *args: seen.append(1))
    model.register_forward_hook(RawEnsemble(raw, case["ensemble_ratio"]))
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(
                model(video), case["ensemble_test_logits"], atol=1e-5, rtol=1e-5)
        assert len(seen) == 1
        model(video.flip(0))
    assert len(seen) == 2


def make_pair():
    """A float64 model and its raw model, of other weights than the model's."""
    torch.manual_seed(0)
    original = CLIP(SMALL).state_dict()
    moved = {n: t + 0.02 * torch.randn_like(t) for n, t in original.items()}
    classifier = F.normalize(torch.randn(3, 16), dim=1)
    clip = build_temporal_clip(moved, temporal_type="expand_temporal_view", num_frames=2)
    model = VideoCLIP(clip, 2, classifier).double()
    raw = VideoCLIP(build_temporal_clip(original, num_frames=2), 2, classifier).double()
    return model, raw.requires_grad_(False).eval(), original


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_those_of_the_formula_also_interpolated(soft, accumulate):
    """In float64, at both ends of an interpolated step; the raw model sees a batch once."""
    model, raw, original = make_pair()
    torch.manual_seed(1)
    video, label = torch.randn(5, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1, 0])
    if soft:
        label = torch.rand(5, 3).double()
        label /= label.sum(dim=1, keepdim=True)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    own = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def total(weights):
        logits = torch.func.functional_call(model, weights, (video,))
        log_p, log_q = logits.log_softmax(1), raw(video).log_softmax(1)
        divergence = (log_q.exp() * (log_q - log_p)).sum() / logits.numel()
        return F.cross_entropy(logits, label) + 0.7 * divergence

    anchor = {f"model.{n}": t.double() for n, t in original.items()}
    mixed = {n: (0.4 * anchor[n] + 0.6 * own[n]).requires_grad_() for n in names}
    here = {n: own[n].clone().requires_grad_() for n in names}
    wanted = [a + 0.5 * b for a, b in zip(
        torch.autograd.grad(total(here), list(here.values())),
        torch.autograd.grad(total(mixed), list(mixed.values())), strict=True)]

    seen = []
    raw.model.visual.register_forward_hook(lambda *args: seen.append(1))
    connect = Connect(
        model=model, interpolator=WeightInterpolator(
            {n: p for n, p in model.named_parameters() if p.requires_grad}, anchor),
        low=0.4, high=0.4, loss_ratio=0.5, seed=0)
    step = PlainStep(model, soft_cross_entropy, accumulate=accumulate,
                     objectives=[connect, RawDistillation(RawFeatures(raw), 0.7)])
    result = step(video, label, 0)
    assert len(seen) == accumulate
    assert {"distill_loss", "connect_distill_loss"} <= set(result.losses())
    torch.testing.assert_close(result.total_loss, (total(here) + 0.5 * total(mixed)).detach())
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)
    seen.clear()
    step(video.clone(), label, 1)
    assert len(seen) == accumulate  # another batch


@pytest.fixture
def cfg(tmp_path):
    torch.manual_seed(0)
    torch.save(CLIP(SMALL).state_dict(), tmp_path / "clip.pt")
    cfg = get_cfg()
    cfg.merge_from_list([
        "OUTPUT_DIR", str(tmp_path), "NUM_GPUS", 0, "DATA.NUM_FRAMES", 2,
        "DATA.TRAIN_CROP_SIZE", 16, "DATA.TEST_CROP_SIZE", 16, "MODEL.ARCH", "auto",
        "MODEL.NUM_CLASSES", 2, "MODEL.CLIP_PATH", str(tmp_path / "clip.pt"),
        "MODEL.TEMPORAL_MODELING_TYPE", "stadapt_zeroinit", "TUNE_HEAD", True])
    return cfg


def test_the_raw_model_is_the_original_and_no_part_of_the_model(cfg):
    """Without a temporal type, with a classifier that a tuned head does not share."""
    model = build_model(cfg, ["abseiling", "brush hair"])
    names = set(model.state_dict())
    features = build_raw_features(cfg, model)
    raw = features.raw
    assert build_raw_features(cfg, model) is features and build_raw_model(cfg, model) is raw
    assert set(model.state_dict()) == names and not set(raw.parameters()) & set(model.parameters())
    assert not any(p.requires_grad for p in raw.parameters()) and not raw.training
    model.train()
    assert not raw.training
    video = torch.randn(2, 3, 2, 16, 16)
    before = raw(video)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(raw(video), before)  # the teacher stays, unlike the published one
    # Each frame alone: the clip's logits are the mean of those of its frames.
    repeated = [raw(video[:, :, [t]].expand(-1, -1, 2, -1, -1)) for t in (0, 1)]
    torch.testing.assert_close(sum(repeated) / 2, before)


def test_the_raw_model_keeps_a_text_tower_only_where_one_is_asked_for(cfg):
    model = build_model(cfg, ["abseiling", "brush hair"])
    raw = build_raw_model(cfg, model)
    assert not has_text(raw)
    assert sum(p.numel() for p in raw.model.text_parameters().values()) == 0
    assert has_text(build_raw_model(cfg, model, text=True))
    assert build_raw_model(cfg, model) is raw
    tokens = model.model.tokenize(["a video"], 77)
    assert torch.equal(raw.model.encode_text(tokens), model.model.encode_text(tokens))
    assert build_raw_model(cfg, model.double()).model.logit_scale.dtype == torch.float64


@pytest.mark.parametrize(("opts", "said"), [
    (["MODEL.RAW_MODEL_DISTILLATION", "True"], "set MODEL.KEEP_RAW_MODEL True"),
    (["MODEL.ENSEMBLE_PRED", "True"], "set MODEL.KEEP_RAW_MODEL True"),
    (["MODEL.KEEP_RAW_MODEL", "True"], "has no effect without MODEL.RAW_MODEL_DISTILLATION, "),
    (["MODEL.DISTILLATION_RATIO", "2.0"], "no effect without MODEL.RAW_MODEL_DISTILLATION True"),
    (["MODEL.ENSEMBLE_RAWMODEL_RATIO", "0.3"], "no effect without MODEL.ENSEMBLE_PRED True"),
    ([*SWITCHES, "MODEL.DISTILLATION_RATIO", "0.0"], "DISTILLATION_RATIO is 0.0; .* over 0"),
    ([*SWITCHES, "MODEL.DISTILLATION_RATIO", "-1"], "MODEL.DISTILLATION_RATIO is -1"),
    ([*SWITCHES, "DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "bce"], "single labels"),
    (["MODEL.KEEP_RAW_MODEL", "True", "MODEL.ENSEMBLE_PRED", "True",
      "MODEL.ENSEMBLE_RAWMODEL_RATIO", "1.5"], "MODEL.ENSEMBLE_RAWMODEL_RATIO is 1.5"),
    (["MODEL.KEEP_RAW_MODEL", "True", "MODEL.ENSEMBLE_PRED", "True", "TEST.TASK", "retrieval",
      "TEST.RETRIEVAL_FILE", "a.csv"], "ENSEMBLE_PRED is True, .* 'retrieval' has none"),
    (["TRAIN.OBJECTIVES", '["distill"]'], "which MODEL.RAW_MODEL_DISTILLATION True switches on"),
])
def test_settings_that_the_config_refuses(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, opts)


def test_each_switch_works_alone():
    assert not find_idle(load_cfg(None, [*SWITCHES, "MODEL.DISTILLATION_RATIO", "2.0"]))
    opts = ["MODEL.KEEP_RAW_MODEL", "True", "MODEL.ENSEMBLE_PRED", "True",
            "MODEL.ENSEMBLE_RAWMODEL_RATIO", "0.3"]
    assert not find_idle(load_cfg(None, opts))
    assert not find_idle(load_cfg(None, [*opts, "TRAIN.ENABLE", "False"]))
