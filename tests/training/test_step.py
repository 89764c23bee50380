"""The plain and the interpolated step: recorded steps, float64 maths, accumulation, precision."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from openvclip.interpolation import WeightInterpolator, draw_ratio
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.losses import cross_entropy, soft_cross_entropy
from openvclip.training.optim import compute_parameter_groups, set_learning_rate
from openvclip.training.step import InterpolatedStep, PlainStep

ROUNDING = 1e-5  # of gradients, of the largest entry: see tests/golden/README.md
SMALL = 0.02  # of the largest entry: below it, rounding may move a weight by more than 1e-6


def make_interpolated(model, anchor, **kwargs):
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    options = {"low": 0.0, "high": 0.6, "loss_ratio": 0.5, "seed": 0, **kwargs}
    return InterpolatedStep(
        model, options.pop("loss", cross_entropy), WeightInterpolator(parameters, anchor),
        **options,
    )


@pytest.fixture
def other_clip(golden):
    """The image tower of the original CLIP in the recorded steps."""
    state = {}
    for part in "ab":
        state.update(torch.load(golden / f"tiny_clip_other_visual_{part}.pt", weights_only=True))
    return {name: tensor.float() for name, tensor in state.items()}


def sample(tensor):
    """The entries that the recording keeps of a tensor."""
    return tensor.detach().flatten()[:: max(1, tensor.numel() // 256)]


@pytest.fixture
def recorded(golden):
    return torch.load(golden / "iwo_steps.pt", weights_only=True)


@pytest.fixture
def prepare_steps(recorded, tiny_clip_state, other_clip):
    """Returns the model's parameters and an iterator that takes the recorded steps, see take()."""

    def prepare(loss_ratio=None, weight_decay=None, zero_wd_1d=True, interpolate=True):
        clip = build_temporal_clip(tiny_clip_state, temporal_type=recorded["type"], num_frames=8)
        model = VideoCLIP(clip, 8, recorded["classifier"]).train()
        step = make_interpolated(
            model, {f"model.{n}": t for n, t in other_clip.items()}, loss=soft_cross_entropy,
            loss_ratio=recorded["loss_ratio"] if loss_ratio is None else loss_ratio,
        )
        groups = compute_parameter_groups(
            model.named_parameters(), zero_wd_1d=zero_wd_1d,
            weight_decay=recorded["weight_decay"] if weight_decay is None else weight_decay,
        )
        optimizer = torch.optim.AdamW(groups, lr=recorded["base_lr"])
        parameters = dict(model.named_parameters())
        return parameters, take(step, optimizer, parameters, interpolate)

    def take(step, optimizer, parameters, interpolate):
        """Yields what was recorded after each step, the result, sampled gradients, their norm."""
        torch.manual_seed(7)
        batches = [torch.randn(3, 3, 8, 64, 64) for _ in recorded["steps"]]
        for number, wanted in enumerate(recorded["steps"]):
            step.connect.low = step.connect.high = wanted["ratio"] if interpolate else 0.0
            set_learning_rate(optimizer, wanted["lr"])
            optimizer.zero_grad(set_to_none=True)
            result = step(batches[number], recorded["labels"][number], number)
            trained = {n: p for n, p in parameters.items() if p.grad is not None}
            gradients = {n: sample(p.grad).clone() for n, p in trained.items()}
            norm = nn.utils.clip_grad_norm_(trained.values(), recorded["clip_grad_l2"])
            optimizer.step()
            yield wanted, result, gradients, norm

    return prepare


def test_three_recorded_steps(recorded, prepare_steps):
    """Losses, merged gradients, norms and weights of the published implementation."""
    parameters, steps = prepare_steps()
    frozen = {n: p.clone() for n, p in parameters.items() if not p.requires_grad}
    assert len(frozen) == 29
    moved = 0.0
    for number, (wanted, result, gradients, norm) in enumerate(steps):
        interpolated, normal = wanted["losses"]
        assert float(result.connect_loss) * recorded["loss_ratio"] == pytest.approx(
            interpolated, rel=1e-5
        )
        assert float(result.loss) == pytest.approx(normal, rel=1e-5)
        if number == 0:
            assert len(gradients) == len(recorded["gradients"]) == 45
            for name, gradient in recorded["gradients"].items():
                apart = (gradients[f"model.{name}"] - gradient).abs().max()
                assert float(apart) < ROUNDING * recorded["largest_gradient"], name
        assert float(norm) == pytest.approx(wanted["norm"], rel=1e-5)
        moved += wanted["lr"]
        compare_weights(parameters, wanted["weights"], moved, recorded)
    for name, tensor in frozen.items():
        assert torch.equal(parameters[name], tensor), name


@pytest.mark.parametrize("wrong", [
    {"weight_decay": 0.0}, {"weight_decay": 0.02}, {"zero_wd_1d": False},
    {"loss_ratio": 0.45}, {"loss_ratio": 0.0}, {"interpolate": False},
], ids=str)
def test_the_recorded_weights_tell_a_wrong_step(recorded, prepare_steps, wrong):
    """What rounding is allowed leaves no room for a wrong decay, loss ratio or interpolation."""
    parameters, steps = prepare_steps(**wrong)
    moved = 0.0
    with pytest.raises(AssertionError, match="weights differ"):
        for wanted, *_ in steps:
            moved += wanted["lr"]
            compare_weights(parameters, wanted["weights"], moved, recorded)


def compare_weights(parameters, wanted, moved, recorded):
    """Weights agree to 1e-6, those with a small gradient to what its rounding explains.

    AdamW moves a weight by ``rate * m / sqrt(v)``, at first ``rate * g / |g|``. Gradients agree to
    ``ROUNDING`` of the largest, whatever the processor; ``sqrt(v)`` is no less than the recorded
    first gradient over the root of the steps taken. So that rounding moves a weight by its ratio
    to the gradient, and where the gradient is all but zero, its sign included, anywhere. It does
    not reach 1e-6 where the gradient is not small.
    """
    names = list(wanted)
    apart = torch.cat([(sample(parameters[f"model.{n}"]) - wanted[n]).abs() for n in names])
    gradient = torch.cat([recorded["gradients"][n] for n in names]).abs()
    gradient = gradient / recorded["largest_gradient"]
    explained = moved * (ROUNDING / gradient).clamp(max=2)
    allowed = 1e-6 + torch.where(gradient < SMALL, explained, 0.0)
    held = int((gradient >= SMALL).sum())
    assert held > 3000, "so many of the 8,721 are held to 1e-6 itself"
    wrong = apart > allowed
    assert not wrong.any(), f"{int(wrong.sum())} weights differ, by up to {float(apart.max()):.1e}"


class Net(nn.Module):
    """A small float64 classifier of "videos" (B, 3, 2, 2, 2) with a parameter CLIP lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 6)
        self.last = nn.Linear(6, 4)
        self.adapter = nn.Parameter(torch.randn(6))
        self.double()

    def forward(self, video):
        return self.last(torch.tanh(self.first(video.flatten(1))) * self.adapter)


@pytest.fixture
def case():
    torch.manual_seed(3)
    net = Net()
    anchor = {n: torch.randn_like(p) for n, p in net.named_parameters() if n != "adapter"}
    video = torch.randn(5, 3, 2, 2, 2, dtype=torch.float64)
    return net, anchor, video, torch.tensor([0, 3, 1, 1, 2])


def double_loss(logits, target):
    return nn.functional.cross_entropy(logits, target)


def reference_gradients(net, anchor, video, label, ratio):
    """g_current and g_mixed by torch.func on plain dictionaries."""
    theta = {n: p.detach() for n, p in net.named_parameters()}
    mixed = {
        n: ratio * anchor[n] + (1 - ratio) * p if n in anchor else p for n, p in theta.items()
    }
    gradient = torch.func.grad(
        lambda weights: double_loss(torch.func.functional_call(net, weights, (video,)), label)
    )
    return gradient(theta), gradient(mixed)


@pytest.mark.parametrize("chain_rule", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_gradients_are_the_sum_of_both(case, chain_rule, accumulate):
    net, anchor, video, label = case
    step = make_interpolated(
        net, anchor, loss=double_loss, low=0.2, high=0.7, seed=11, chain_rule=chain_rule,
        accumulate=accumulate,
    )
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    result = step(video, label, 7)
    assert result.ratio == draw_ratio(0.2, 0.7, seed=11, step=7)
    current, mixed = reference_gradients(net, anchor, video, label, result.ratio)
    factor = 0.5 * ((1 - result.ratio) if chain_rule else 1.0)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(
            parameter.grad, current[name] + factor * mixed[name], atol=1e-12, rtol=1e-10
        )
        assert torch.equal(parameter, before[name])
    assert result.logits.shape == (5, 4)


def test_range_of_zero_is_twice_the_plain_gradient(case):
    net, anchor, video, label = case
    PlainStep(net, double_loss)(video, label, 0)
    plain = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    make_interpolated(net, anchor, loss=double_loss, low=0.0, high=0.0, loss_ratio=1.0)(
        video, label, 0
    )
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * plain[name])


def test_soft_targets_are_accumulated_like_indices(case):
    net, _, video, label = case
    soft = nn.functional.one_hot(label, 4).double()
    gradients = []
    for accumulate, target in ((1, label), (3, soft)):
        net.zero_grad()
        PlainStep(net, soft_cross_entropy, accumulate=accumulate)(video, target, 0)
        gradients.append([p.grad.clone() for p in net.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_fp16_gradients_are_scaled_and_nan_is_seen(case):
    net, anchor, video, label = case
    net.float()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    step = make_interpolated(
        net, anchor, scaler=scaler,
        autocast=partial(torch.autocast, "cpu", dtype=torch.float16),
    )
    assert step(video.float(), label, 0).is_finite()
    scaled = net.last.weight.grad.clone()
    net.zero_grad()
    make_interpolated(net, anchor)(video.float(), label, 0)
    torch.testing.assert_close(scaled / 256.0, net.last.weight.grad, atol=2e-3, rtol=2e-2)
    video[0] = torch.nan
    assert not step(video.float(), label, 1).is_finite()


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_exchanged_once_a_step(case, process_group, accumulate):
    net, anchor, video, label = case
    make_interpolated(net, anchor, loss=double_loss)(video, label, 0)
    wanted = {n: p.grad.clone() for n, p in net.named_parameters()}
    exchanged = []

    def exchange(state, bucket):
        exchanged.append(bucket.buffer().numel())
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model = nn.parallel.DistributedDataParallel(net)
    model.register_comm_hook(None, exchange)
    prefixed = {f"module.{n}": tensor for n, tensor in anchor.items()}
    step = make_interpolated(model, prefixed, loss=double_loss, accumulate=accumulate)
    for _ in range(3):
        net.zero_grad()
        exchanged.clear()
        step(video, label, 0)
        assert sum(exchanged) == sum(p.numel() for p in net.parameters())
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name])
