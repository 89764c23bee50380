"""Mixing, patching and averaging of weights."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from openvclip.interpolation import (
    WeightInterpolator,
    WeightPatcher,
    WeightsAndClassifier,
    average_state_dicts,
    draw_ratio,
    patch_state_dict,
)
from openvclip.utils.errors import CheckpointError


@pytest.fixture
def recorded(golden):
    return torch.load(golden / "patch_swa_small.pt", weights_only=True)


def test_patching_reproduces_the_recorded_weights(recorded):
    patched = patch_state_dict(recorded["finetuned"], recorded["clip"], recorded["ratio"])
    assert list(patched) == list(recorded["patched"])
    for name, tensor in recorded["patched"].items():
        torch.testing.assert_close(patched[name], tensor, atol=1e-6, rtol=0)


def test_averaging_reproduces_the_recorded_means(recorded):
    files = recorded["checkpoints"]  # numbers 1 to 4
    for states, wanted in (
        (files[1:3], recorded["mean_2_3"]),
        ([recorded["clip"], *files], recorded["mean_0_4_with_clip"]),
    ):
        mean = average_state_dicts(iter(states), clip_first=len(states) == 5)
        for name, tensor in wanted.items():
            torch.testing.assert_close(mean[name], tensor, atol=1e-6, rtol=0)


def test_patching_keeps_what_clip_lacks_and_mixes_fp16_in_fp32():
    checkpoint = {"w": torch.tensor([1.0]), "adapter": torch.tensor([7.0])}
    clip = {"w": torch.tensor([1.0009765625], dtype=torch.float16)}
    patched = patch_state_dict(checkpoint, clip, 0.25)
    assert patched["adapter"].item() == 7.0
    assert patched["w"].dtype == torch.float32
    # In fp16 the mixture would fall back to 1.0 exactly.
    assert patched["w"].item() == pytest.approx(1.000244140625, abs=1e-9)


def test_patching_refuses_other_shapes_and_strangers():
    with pytest.raises(CheckpointError, match=r"cannot patch w: shape \(2,\).*\(3,\)"):
        patch_state_dict({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(CheckpointError, match="share no parameter"):
        patch_state_dict({"w": torch.zeros(2)}, {"v": torch.zeros(2)}, 0.5)


def test_patching_leaves_what_is_equal_and_reaches_both_ends_exactly():
    torch.manual_seed(3)
    clip = {"w": torch.randn(5000)}
    checkpoint = {"w": torch.cat([clip["w"][:2500], torch.randn(2500)])}
    for ratio in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        patched = patch_state_dict(checkpoint, clip, ratio)["w"]
        assert torch.equal(patched[:2500], clip["w"][:2500])
        exact = ratio * clip["w"].double() + (1 - ratio) * checkpoint["w"].double()
        torch.testing.assert_close(patched.double(), exact, atol=5e-7, rtol=0)
    assert torch.equal(patch_state_dict(checkpoint, clip, 0.0)["w"], checkpoint["w"])
    assert torch.equal(patch_state_dict(checkpoint, clip, 1.0)["w"], clip["w"])


@pytest.mark.parametrize("count", [2, 6, 8, 21, 22])
def test_the_mean_of_equal_tensors_is_equal_to_them(count):
    torch.manual_seed(4)
    state = {"w": torch.randn(4099), "scalar": torch.tensor(4.6052)}  # 4099: no whole vectors
    mean = average_state_dicts([state] * count)
    assert all(torch.equal(mean[name], tensor) for name, tensor in state.items())
    added = sum([state["w"]] * (count - 1), state["w"]) / count
    assert count == 2 or not torch.equal(added, state["w"])  # which a plain sum would not give


def test_the_mean_errs_no_more_than_a_sum_does():
    torch.manual_seed(5)
    states = [{"w": 0.1 + 0.02 * torch.randn(20000)} for _ in range(21)]
    exact = torch.stack([state["w"].double() for state in states]).mean(dim=0)
    added = sum(state["w"] for state in states) / 21
    error = (average_state_dicts(states)["w"].double() - exact).abs()
    assert error.mean() <= (added.double() - exact).abs().mean()
    assert error.max() < 4e-8  # of numbers about 0.1, whose last bit is 7e-9


def test_averaging_adapters_over_those_that_have_them():
    tuned = {"w": torch.ones(1), "adapter": torch.full((1,), 3.0)}
    later = {"w": torch.ones(1), "adapter": torch.full((1,), 5.0)}
    mean = average_state_dicts([{"w": torch.zeros(1)}, tuned, later], clip_first=True)
    assert mean["w"].item() == pytest.approx(2 / 3)
    assert mean["adapter"].item() == 4.0


@pytest.mark.parametrize("clip_first", [True, False])
def test_averaging_refuses_missing_and_surplus_tensors(clip_first):
    whole = {"w": torch.zeros(2), "v": torch.ones(2)}
    files = ["first", "second", "third"]
    for states, message in (
        ([whole, whole, {"w": torch.zeros(2)}], "third lacks v, which second has"),
        ([whole, whole, {**whole, "x": torch.zeros(2)}], "third has x, which second lacks"),
        ([whole, {"w": torch.zeros(2)}, whole], "second lacks v, which first has"),
    ):
        with pytest.raises(CheckpointError, match=message):
            average_state_dicts(states, names=files.__getitem__, clip_first=clip_first)


def test_averaging_does_not_change_its_sources_and_names_a_misfit():
    first = {"w": torch.zeros(2)}
    average_state_dicts([first, {"w": torch.ones(2)}])
    assert first["w"].tolist() == [0.0, 0.0]
    with pytest.raises(CheckpointError, match=r"cannot average w.*in file-b"):
        average_state_dicts([first, {"w": torch.ones(3)}], names=["file-a", "file-b"].__getitem__)
    with pytest.raises(CheckpointError, match="no checkpoints"):
        average_state_dicts([])


def test_mixed_weights_are_restored_bit_for_bit_even_after_an_error():
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    model.register_parameter("adapter", nn.Parameter(torch.randn(3)))
    anchor = {n: torch.randn_like(p) for n, p in model.named_parameters() if n != "adapter"}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    interpolator = WeightInterpolator(dict(model.named_parameters()), anchor)
    for ratio in (0.0, 0.3, 0.77, 1.0):
        with interpolator.at(ratio):
            for name, tensor in anchor.items():
                wanted = ratio * tensor + (1 - ratio) * before[name]
                torch.testing.assert_close(dict(model.named_parameters())[name].data, wanted)
            assert torch.equal(model.adapter, before["adapter"])
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    with pytest.raises(ZeroDivisionError), interpolator.at(0.5):
        raise ZeroDivisionError
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_parameters_get_their_own_memory_back_and_the_mixture_is_freed():
    model = nn.Linear(5, 4)
    anchor = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    interpolator = WeightInterpolator(dict(model.named_parameters()), anchor)
    own = [p.data_ptr() for p in model.parameters()]
    with interpolator.at(0.4):
        held = [weakref.ref(p.data.untyped_storage()) for p in model.parameters()]
        assert not set(own) & {p.data_ptr() for p in model.parameters()}
    assert [p.data_ptr() for p in model.parameters()] == own
    assert all(storage() is None for storage in held)


@pytest.mark.parametrize("exact", [True, False])
def test_an_anchor_is_kept_in_fp16_where_that_is_exact(exact):
    torch.manual_seed(2)
    model = nn.Linear(5, 4)
    anchor = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    if exact:
        anchor = {n: tensor.half().float() for n, tensor in anchor.items()}
    interpolator = WeightInterpolator(dict(model.named_parameters()), anchor)
    assert {t.dtype for t in interpolator._anchor} == {torch.float16 if exact else torch.float32}
    with interpolator.at(1.0):
        assert all(torch.equal(p, anchor[n]) for n, p in model.named_parameters())
    wanted = anchor["weight"].clone()
    anchor["weight"].zero_()  # the caller's tensors are not kept
    with interpolator.at(1.0):
        assert torch.equal(model.weight, wanted)


def test_interpolator_refuses_an_anchor_that_does_not_fit():
    parameters = dict(nn.Linear(2, 2).named_parameters())
    with pytest.raises(CheckpointError, match="none of the parameters that train"):
        WeightInterpolator(parameters, {"other": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="weight has shape"):
        WeightInterpolator(parameters, {"weight": torch.zeros(3, 3)})


def test_ratio_depends_on_seed_step_and_rank_only():
    draws = [draw_ratio(0.0, 0.6, seed=3, step=s) for s in range(2000)]
    assert draws == [draw_ratio(0.0, 0.6, seed=3, step=s) for s in range(2000)]
    assert min(draws) >= 0.0 and max(draws) <= 0.6
    assert sum(draws) / len(draws) == pytest.approx(0.3, abs=0.02)
    assert len({draw_ratio(0, 1, seed=3, step=5, rank=r) for r in range(4)}) == 4
    assert draw_ratio(0, 1, seed=3, step=5) != draw_ratio(0, 1, seed=4, step=5)


def test_patcher_moves_only_what_differs_and_reaches_both_ends():
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    clip = {"weight": torch.randn(2, 3), "bias": model.bias.detach().clone()}
    tuned = model.weight.detach().clone()
    patcher = WeightPatcher(dict(model.named_parameters()), clip)
    assert patcher.names == ["weight"]
    for ratio in (0.5, 1.0, 0.0):
        patcher.set_ratio(ratio)
        wanted = ratio * clip["weight"] + (1 - ratio) * tuned
        torch.testing.assert_close(model.weight.data, wanted)
    assert torch.equal(model.weight.data, tuned)


def test_patched_weights_are_held_for_a_while_and_come_back_bit_for_bit():
    torch.manual_seed(3)
    model = nn.Linear(3, 2)
    clip = {"weight": torch.randn(2, 3), "bias": model.bias.detach().clone()}
    own = {n: (p.detach().clone(), p.data_ptr()) for n, p in model.named_parameters()}
    patcher = WeightPatcher(dict(model.named_parameters()), clip)
    for ratio in (0.0, 0.3, 1.0):
        with patcher.at(ratio):
            wanted = patch_state_dict({n: t for n, (t, _) in own.items()}, clip, ratio)
            assert all(torch.equal(p, wanted[n]) for n, p in model.named_parameters())
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, own[name][0]) and parameter.data_ptr() == own[name][1]


def test_class_embeddings_change_hands_with_the_weights():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2, bias=False)
            self.classifier = torch.zeros(1)

        def set_classifier(self, embeddings: torch.Tensor) -> None:
            self.classifier = embeddings

    model = Model()
    own = model.classifier
    names = {f"model.{n}": torch.ones_like(p) for n, p in model.model.named_parameters()}
    weights = WeightsAndClassifier.embedded(
        WeightPatcher(dict(model.named_parameters()), names), model,
        lambda tower: tower.weight.detach().sum().reshape(1), (0.0, 1.0))
    at_zero = model.model.weight.detach().sum()
    assert weights.names == ["model.weight"] and model.classifier is own
    for ratio, wanted in ((0.0, at_zero), (1.0, torch.tensor(4.0))):
        with weights.at(ratio):
            assert torch.equal(model.classifier[0], wanted)
            assert torch.equal(model.model.weight.sum(), wanted)
        assert model.classifier is own
    with pytest.raises(ZeroDivisionError), weights.at(1.0):
        raise ZeroDivisionError
    assert model.classifier is own and torch.equal(model.model.weight.sum(), at_zero)
