"""Elastic weight consolidation and L2-SP: recorded numbers, gradients, files, states."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from openvclip.config import load_cfg
from openvclip.models.raw import build_raw_tensors, find_anchors, move_raw
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.ewc import EWC, FILE
from openvclip.training.objectives.fisher import (
    compute_fisher,
    digest,
    find_used,
    load_fisher,
    save_fisher,
)
from openvclip.training.objectives.l2sp import L2SP
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.penalty import Quadratic, add_quadratic
from openvclip.training.step import PlainStep
from openvclip.utils.errors import CheckpointError, ConfigError, TrainingError


@pytest.fixture(scope="module")
def recorded(golden):
    return torch.load(golden / "ewc.pt", weights_only=True)


@pytest.fixture
def model(recorded, golden, tiny_clip_state):
    clip = build_temporal_clip(tiny_clip_state, temporal_type=recorded["type"], num_frames=8)
    classifier = torch.load(golden / "classifier5.pt", weights_only=True)["classifier"]
    return VideoCLIP(clip, 8, classifier).train()


@pytest.fixture
def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def anchors(model, tiny_clip_state):
    return find_anchors(model, tiny_clip_state, "the tiny CLIP")


def draw(case):
    torch.manual_seed(case["input_seed"])
    return torch.randn(*case["input_shape"]), case["labels"]


def check(found, wanted, tolerance=1e-5):
    """Compare with tensors as they are recorded, relative to the largest entry of all."""
    assert {name.removeprefix("model.") for name in found} == set(wanted)
    for name, kept in wanted.items():
        values = found[f"model.{name}"].detach().flatten()[:: kept["step"]]
        difference = (values[: len(kept["values"])] - kept["values"]).abs().max()
        assert difference <= tolerance * kept["absmax"] + 1e-12, name


def perturb(model, recorded):
    case = recorded["perturbation"]
    torch.manual_seed(case["seed"])
    parameters = dict(model.named_parameters())
    names = sorted(n.removeprefix("model.") for n, p in parameters.items() if p.requires_grad)
    with torch.no_grad():
        for name in names:
            parameters[f"model.{name}"] += case["scale"] * torch.randn(
                parameters[f"model.{name}"].shape)


def test_the_recorded_fisher_information(model, trained, recorded):
    fisher = compute_fisher(model, cross_entropy, trained, map(draw, recorded["batches"]))
    check(fisher, recorded["fisher"])
    halves = compute_fisher(
        model, cross_entropy, trained, map(draw, recorded["batches"]), parts=3)
    for name, tensor in fisher.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-3,
                                   atol=1e-5 * float(tensor.max()))


@pytest.mark.parametrize("identity", [False, True])
def test_the_recorded_penalty_and_its_gradients(identity, model, trained, anchors, recorded):
    case = recorded["step"]
    batches = list(map(draw, recorded["batches"]))
    ones = {name: torch.ones_like(trained[name])
            for name in find_used(model, trained, batches[0][0][:1])}
    ewc = EWC(trained, anchors, case["constrain_ratio"], file=None,
              compute=lambda: ones if identity else compute_fisher(
                  model, cross_entropy, trained, batches))
    ewc.name = "ewc"
    ewc.prepare()
    perturb(model, recorded)
    video, label = draw(case)
    result = PlainStep(model, cross_entropy, objectives=[ewc])(video, label, 0)
    assert float(result.loss) == pytest.approx(case["cross_entropy"], abs=1e-5)
    if identity:
        wanted = case["identity_penalty_times_ratio"]
        assert float(result.ewc_loss) == pytest.approx(wanted, rel=1e-6)
    else:
        assert float(result.ewc_loss) == pytest.approx(
            case["penalty_times_ratio"], abs=1e-5, rel=1e-5)
        assert float(result.total_loss) == pytest.approx(case["total"], abs=1e-5)
        check({name: p.grad for name, p in trained.items()}, case["gradients_total"])
    for p in trained.values():
        p.grad = None
    ewc.add_gradients(torch.tensor(1.0))
    kind = "gradients_identity_penalty" if identity else "gradients_penalty"
    check({name: p.grad for name, p in trained.items()}, case[kind])


@pytest.fixture
def small():
    """Two weights in float64, of which CLIP has the first, and the gradients of a loss."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape).double()) for shape in ((4, 3), (5,))]
    for p in weights:
        p.grad = torch.randn_like(p)
    return weights


def test_gradients_are_those_of_the_written_formula(small):
    known, new = small
    anchor, before = torch.randn(4, 3).half(), [p.grad.clone() for p in small]
    l2sp = L2SP({"known": known, "new": new}, {"known": anchor}, 0.3, 0.7)
    l2sp.weight = 2.0
    l2sp.add_gradients(torch.tensor(8.0, dtype=torch.float64))
    formula = 0.15 * (known - anchor).square().sum() + 0.35 * new.square().sum()
    assert float(l2sp.value()) == pytest.approx(formula.item(), rel=1e-14)
    for p, old, own in zip(small, before, torch.autograd.grad(formula, small), strict=True):
        torch.testing.assert_close(p.grad, old + 16.0 * own, rtol=1e-14, atol=1e-14)


def test_gradients_are_finite_differences_of_the_value(small):
    weight, step = small[0], 1e-6
    fisher, anchor = torch.rand(4, 3).double(), torch.randn(4, 3).double()

    def value():
        weight.grad = None
        return add_quadratic(Quadratic([weight], [anchor], [fisher]), torch.tensor(1.0))

    value()
    gradient = weight.grad.clone()
    for place in range(weight.numel()):
        ends = []
        for move in (step, -2 * step):
            weight.data.view(-1)[place] += move
            ends.append(value())
        weight.data.view(-1)[place] += step
        assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(
            float(gradient.view(-1)[place]), rel=1e-6, abs=1e-8)


def test_accumulation_adds_the_penalty_once(model, trained, anchors):
    perturbed = [p.detach() + 0.01 for p in trained.values()]
    for p, value in zip(trained.values(), perturbed, strict=True):
        p.data = value
    torch.manual_seed(3)
    video, label = torch.randn(4, 3, 8, 64, 64), torch.tensor([0, 1, 2, 3])
    found = []
    for parts in (1, 2):
        model.zero_grad()
        result = PlainStep(model, cross_entropy, accumulate=parts,
                           objectives=[L2SP(trained, anchors, 0.5, 0.1)])(video, label, 0)
        found.append([p.grad.clone() for p in trained.values()])
    assert len(result.losses()) == 3
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_no_clip_right_is_an_error(model, trained):
    video = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    wrong = (model(video).argmax(dim=1) + 1) % 5
    with pytest.raises(TrainingError, match="not one clip .* predicted right.*EWC_IDENTITY_FISHER"):
        compute_fisher(model, cross_entropy, trained, [(video, wrong)])


def make_ewc(trained, anchors, tmp_path, **changes):
    torch.manual_seed(5)
    values = {name: torch.rand_like(p) for name, p in trained.items()}
    options = {"compute": lambda: values, "file": tmp_path / FILE, **changes}
    return EWC(trained, anchors, 1.0, **options)


def never():
    raise AssertionError("the pass is made again")


def test_what_is_stored_is_read_again(trained, anchors, tmp_path):
    first = make_ewc(trained, anchors, tmp_path)
    first.prepare()
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert set(content) == {f"module.{name}" for name in trained}
    resumed = make_ewc(trained, anchors, tmp_path, compute=never)
    resumed.load_state_dict(first.state_dict())
    resumed.prepare()
    named = make_ewc(trained, anchors, tmp_path, compute=never, load_file=tmp_path / FILE)
    named.prepare()
    for other in (resumed, named):
        assert other.fisher.keys() == first.fisher.keys()
        assert all(torch.equal(other.fisher[n], t) for n, t in first.fisher.items())
    assert resumed.state_dict() == first.state_dict() == {"fisher": digest(first.fisher)}


def test_a_resumed_run_refuses_other_fisher_information(trained, anchors, tmp_path):
    first = make_ewc(trained, anchors, tmp_path)
    first.prepare()
    for change in (lambda: save_fisher(tmp_path / FILE, {n: t + 1 for n, t in
                                                         first.fisher.items()}),
                   (tmp_path / FILE).unlink):
        change()
        resumed = make_ewc(trained, anchors, tmp_path, compute=never)
        resumed.load_state_dict(first.state_dict())
        with pytest.raises(CheckpointError, match="Fisher information.*EWC_LOAD_FILE"):
            resumed.prepare()


def test_ignored_logit_scale_is_not_penalised(trained, anchors, tmp_path):
    ewc = make_ewc(trained, anchors, tmp_path, left_out={"model.logit_scale"})
    ewc.prepare()
    trained["model.logit_scale"].data += 1.0
    ewc.add_gradients(torch.tensor(1.0))
    assert trained["model.logit_scale"].grad is None and ewc.value() == 0


def test_the_term_is_there_in_the_epochs_that_are_due(trained, anchors, tmp_path):
    ewc = make_ewc(trained, anchors, tmp_path, due=lambda epoch: epoch == 2)
    ewc.prepare()
    for epoch in range(4):
        ewc.begin_epoch(epoch)
        ewc.add_gradients(torch.tensor(1.0))
        assert (ewc.value() is not None) == (epoch == 2)


def test_files_that_do_not_fit(trained, tmp_path):
    path = tmp_path / "fisher_1.pth"
    whole = {f"module.{name}": torch.ones_like(p) for name, p in trained.items()}
    proj = "module.model.visual.proj"

    def load(content):
        torch.save(content, path)
        return load_fisher(path, trained, optional=["model.logit_scale"])

    assert len(load({**whole, "module.model.other": torch.zeros(2)})) == len(trained)
    assert len(load({n.removeprefix("module."): t for n, t in whole.items()})) == len(trained)
    assert len(load({n: t for n, t in whole.items() if "logit" not in n})) == len(trained) - 1
    for content, said in (
        ({n: t for n, t in whole.items() if n != proj}, "no Fisher information of model.visual."),
        ({**whole, proj: torch.ones(3)}, r"has \(3,\) for model.visual.proj, which is \(128, 64\)"),
        ({**whole, proj: "x"}, "has str for model.visual.proj"),
        ({**whole, proj: -whole[proj]}, "negative or not finite values for model.visual.proj"),
        ({**whole, proj: whole[proj] / 0}, "negative or not finite"),
        ({"a": 1}, "no Fisher information of"),
        ([1], "holds a list"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load(content)
    with pytest.raises(CheckpointError, match="there is no"):
        load_fisher(tmp_path / "none.pth", trained)


def test_an_error_names_the_key(trained, anchors, tmp_path):
    ewc = make_ewc(trained, anchors, tmp_path, load_file=tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="TRAIN.EWC_LOAD_FILE: there is no"):
        ewc.prepare()


def test_the_raw_model_may_move(model, tiny_clip_state, tmp_path):
    torch.save(tiny_clip_state, tmp_path / "clip.pt")
    cfg = load_cfg(None, ["MODEL.CLIP_PATH", str(tmp_path / "clip.pt"), "MODEL.ARCH", "auto"])
    tensors = build_raw_tensors(cfg, model)
    assert build_raw_tensors(cfg, model) is tensors
    assert len(tensors) == 45 and all(t.dtype == torch.float16 for t in tensors.values())
    weights = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    move_raw(model, weights)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, weights[name]) and tensor is not weights[name]


def test_anchors_are_of_the_same_shapes(model, tiny_clip_state):
    state = {**tiny_clip_state, "visual.proj": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"model.visual.proj has shape \(128, 64\).*\(2,\)"):
        find_anchors(model, state, "other.pt")


EWC_ON = ["TRAIN.EWC_SET", "True", "MODEL.KEEP_RAW_MODEL", "True"]


@pytest.mark.parametrize(("options", "said"), [
    (["TRAIN.EWC_SET", "True"], "MODEL.KEEP_RAW_MODEL is False"),
    ([*EWC_ON, "TRAIN.EWC_CONSTRAIN_RATIO", "0"], "EWC_CONSTRAIN_RATIO is 0.0.*over 0"),
    ([*EWC_ON, "TRAIN.EWC_LOAD_FILE", "f.pth", "TRAIN.EWC_IDENTITY_FISHER", "True"],
     "TRAIN.EWC_LOAD_FILE is 'f.pth' and TRAIN.EWC_IDENTITY_FISHER True"),
    ([*EWC_ON, "DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "bce"], "DATA.MULTI_LABEL is True"),
    ([*EWC_ON, "TRAIN.SHARDING", "fsdp"], "TRAIN.SHARDING is fsdp; with TRAIN.EWC_SET True"),
    (["TRAIN.L2SP.ENABLE", "True", "TRAIN.SHARDING", "fsdp"], "with TRAIN.L2SP.ENABLE True"),
    (["TRAIN.EWC_LOAD_FILE", "f.pth"], "no effect without TRAIN.EWC_SET True"),
    (["TRAIN.EWC_IDENTITY_FISHER", "True"], "no effect without TRAIN.EWC_SET True"),
    (["TRAIN.EWC_CONSTRAIN_RATIO", "2"], "no effect without TRAIN.EWC_SET True"),
    (["TRAIN.EWC_IGNORE_LOGIT_SCALE", "True"], "no effect without TRAIN.EWC_SET True"),
    (["TRAIN.L2SP.ALPHA", "1"], "no effect without TRAIN.L2SP.ENABLE True"),
    (["TRAIN.L2SP.ENABLE", "True", "TRAIN.L2SP.ALPHA", "0", "TRAIN.L2SP.BETA", "0"],
     "one over 0"),
    (["TRAIN.L2SP.ENABLE", "True", "TRAIN.L2SP.ALPHA", "-1"], "TRAIN.L2SP.ALPHA is -1"),
    (["MODEL.KEEP_RAW_MODEL", "True"], "no effect without .*TRAIN.EWC_SET True"),
    (["TRAIN.OBJECTIVES", "['ewc']"], "which TRAIN.EWC_SET True switches on"),
])
def test_settings_that_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, ["TRAIN.ENABLE", "True", *options])


def test_settings_that_are_accepted():
    load = partial(load_cfg, None)
    load(["TRAIN.ENABLE", "True", *EWC_ON, "TRAIN.LINEAR_CONNECT_CLIMB", "True"])
    load([*EWC_ON, "DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "bce",
          "TRAIN.EWC_LOAD_FILE", "f.pth", "TRAIN.ENABLE", "True"])
