"""The loss on routing: its gradient, parts of a batch, other passes, and what it logs."""

from __future__ import annotations

import shutil

import pytest
import torch

from openvclip.config import get_cfg
from openvclip.config.validate import find_problems
from openvclip.interpolation import WeightInterpolator
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import compile_blocks
from openvclip.models.experts import Experts, expert_blocks, is_expert
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.build import build_objective_names
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.losses import build_loss_weight, cross_entropy
from openvclip.training.objectives.routing import Routing, compute_frequency_loss
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError

SIZES = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=2,
                   text_width=64, text_layers=1, context_length=8, vocab_size=60)


def make_model(
    use_checkpoint: bool = False, routing: str = "patch-level", compiled: bool = False
) -> VideoCLIP:
    torch.manual_seed(0)
    clip = build_temporal_clip(CLIP(SIZES).state_dict(), temporal_type="expand_temporal_view",
                               num_frames=2, use_checkpoint=use_checkpoint,
                               experts=Experts(2, (0, 1), routing))
    for name, parameter in clip.named_parameters():
        if is_expert(name):
            parameter.data += 0.1 * torch.randn(parameter.shape)
    if compiled:
        compile_blocks(clip)
    return VideoCLIP(clip, 2, torch.nn.functional.normalize(torch.randn(3, 16))).double().train()


def batch(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 2, 16, 16, dtype=torch.float64), torch.arange(count) % 3


def take_step(model, objectives, **options):
    model.zero_grad(set_to_none=True)
    step = PlainStep(model, cross_entropy, objectives=objectives, **options)
    for objective, name in zip(objectives, ("routing", "connect"), strict=False):
        objective.name = name
    result = step(*batch(), step=0)
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return result, grads


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", ["mse", "hinge"])
@pytest.mark.parametrize("routing", ["patch-level", "image-level"])
def test_gradient_is_that_of_the_written_formula(kind, routing):
    model = make_model(routing=routing)
    result, grads = take_step(model, [Routing(model, 0.6, kind, 1.5)], loss_weight=0.25)

    def compute() -> torch.Tensor:
        video, label = batch()
        logits = model(video)
        gaps = torch.cat([0.6 - g[..., 0].flatten()
                          for _, block in expert_blocks(model) for g in block.routing])
        loss = (gaps**2).mean() if kind == "mse" else gaps.clamp(min=0).mean()
        return 0.25 * cross_entropy(logits, label) + 1.5 * loss

    wanted = compute()
    torch.testing.assert_close(result.total_loss, wanted.detach())
    torch.testing.assert_close(result.total_loss, 0.25 * result.loss + 1.5 * result.routing_loss)
    wanted.backward(inputs=[p for p in model.parameters() if p.requires_grad])
    for name, grad in grads.items():
        own = model.get_parameter(name).grad - grad  # backward added to the step's
        torch.testing.assert_close(own, grad, atol=1e-12, rtol=1e-9)
    # Finite differences at the router's largest entry.
    router = next(block for _, block in expert_blocks(model)).routing1.weight
    place = tuple(int(i) for i in torch.unravel_index(
        grads["model.visual.transformer.resblocks.0.routing1.weight"].abs().argmax(),
        router.shape))
    ends = []
    with torch.no_grad():
        for change in (1e-6, -2e-6):
            router[place] += change
            ends.append(float(compute()))
    slope = (ends[0] - ends[1]) / 2e-6
    assert slope == pytest.approx(
        float(grads["model.visual.transformer.resblocks.0.routing1.weight"][place]), rel=1e-5)


@pytest.mark.parametrize("connected", [False, True])
def test_parts_and_checkpointing_change_nothing(connected):
    def run(use_checkpoint=False, accumulate=1):
        model = make_model(use_checkpoint)
        objectives = [Routing(model, 0.6, "hinge", 1.5)]
        if connected:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            anchor = {n: p.detach() + 0.05 for n, p in trained.items() if not is_expert(n)}
            objectives.append(Connect(
                model=model, interpolator=WeightInterpolator(trained, anchor), low=0.3, high=0.5,
                loss_ratio=0.5, seed=0))
        return take_step(model, objectives, accumulate=accumulate)

    whole, wanted = run()
    assert ("connect_routing_loss" in whole.terms) is connected
    for options in ({"accumulate": 2}, {"use_checkpoint": True},
                    {"use_checkpoint": True, "accumulate": 4}):
        result, grads = run(**options)
        assert_close(grads, wanted)
        assert_close(result.terms, whole.terms)
        assert_close(result.facts, whole.facts)
    assert set(whole.facts) == {"clip_share_block_0", "clip_share_block_1"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_blocks_record_as_well():
    (whole, wanted), (result, grads) = [take_step(model, [Routing(model, 0.6)]) for model in (
        make_model(), make_model(compiled=True))]
    assert_close(grads, wanted)
    assert_close({**result.terms, **result.facts}, {**whole.terms, **whole.facts})


def test_shares_are_those_of_clips_own_mlp_and_nothing_stays():
    model = make_model()
    objective = Routing(model)
    result, _ = take_step(model, [objective])
    for layer, block in expert_blocks(model):
        share = torch.stack([g[..., 0].mean() for g in block.routing]).mean()
        torch.testing.assert_close(result.facts[f"clip_share_block_{layer}"], share.detach())
    objective.after_update(0)
    assert all(block.routing is None for _, block in expert_blocks(model))


def test_mse_pushes_large_shares_down_and_hinge_does_not():
    state = torch.tensor([[0.9, 0.1]], requires_grad=True)
    (grad,) = torch.autograd.grad(compute_frequency_loss(state, 0.5), state)
    assert grad[0, 0] > 0
    (grad,) = torch.autograd.grad(compute_frequency_loss(state, 0.5, "hinge"), state)
    assert grad[0, 0] == 0


def test_keys():
    cfg = get_cfg()
    assert "routing" not in build_objective_names(cfg) and build_loss_weight(cfg) == 1.0
    cfg.MODEL.CLS_LOSS_RATIO = 0.5  # from a file; without RECORD_ROUTING it has no effect
    assert build_loss_weight(cfg) == 1.0
    cfg.MODEL.RECORD_ROUTING = True
    assert any("NUM_EXPERTS is 0, so nothing is routed" in line for line in find_problems(cfg))
    cfg.MODEL.NUM_EXPERTS = 2
    assert build_loss_weight(cfg) == 0.5 and "routing" in build_objective_names(cfg)
    for key, value, message in (
        ("EXPERT_INSERT_LAYERS", [], "at least one block"),
        ("EXPERT_INSERT_LAYERS", [1, 1], "each once"),
        ("EXPERT_INSERT_LAYERS", [-1], "EXPERT_INSERT_LAYERS"),
        ("ROUTING_TYPE", "token-level", "'patch-level', 'image-level'"),
        ("LOSS_FREQ_TYPE", "l1", "LOSS_FREQ_TYPE"), ("NUM_EXPERTS", -1, "NUM_EXPERTS"),
        ("ROUTING_FREQUENCE_CONSTRAIN", 1.5, "ROUTING_FREQUENCE_CONSTRAIN"),
    ):
        other = cfg.clone()
        other.MODEL[key] = value
        assert any(message in line for line in find_problems(other)), key
    cfg.TRAIN.SHARDING = "fsdp"
    assert any("MODEL.RECORD_ROUTING True" in line and "TRAIN.SHARDING is fsdp" in line
               for line in find_problems(cfg))


def test_a_model_without_the_blocks_is_refused():
    with pytest.raises(ConfigError, match="has 2 blocks"):
        build_temporal_clip(CLIP(SIZES).state_dict(), experts=Experts(1))
