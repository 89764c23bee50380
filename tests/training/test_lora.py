"""LoRA: what is added, to what, that only it trains, and that merged weights are what counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from openvclip.config import load_cfg
from openvclip.interpolation import WeightInterpolator, average_state_dicts
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.backbone.build import build_backbone
from openvclip.models.build import load_model_weights
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.connect import Connect
from openvclip.training.objectives.lora import LoRA
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.step import PlainStep
from openvclip.utils.errors import CheckpointError, ConfigError

ALL = "['q','k','v','out','c_fc','c_proj']"
SIZES = {"embed_dim": 12, "image_size": 16, "patch_size": 8, "vision_width": 64,
         "vision_layers": 2, "text_width": 64, "text_layers": 1, "context_length": 8,
         "vocab_size": 50}
ATTENTION = "model.visual.transformer.resblocks.0.attn.in_proj_weight"


def make(temporal="expand_temporal_view", checkpointing=False, head=False):
    torch.manual_seed(0)
    state = CLIP(CLIPConfig(**SIZES)).state_dict()
    clip = build_temporal_clip(state, temporal_type=temporal, num_frames=2,
                               use_checkpoint=checkpointing)
    classes = F.normalize(torch.randn(3, 12), dim=-1)
    return VideoCLIP(clip, 2, classes, tune_head=head).double()


def add(model, *, trained=True, rank=4, alpha=8.0, targets=ALL):
    """Make it a LoRA; with ``trained``, one whose additions are not zero."""
    cfg = load_cfg(None, ["TRAIN.LORA.ENABLE", True, "TRAIN.LORA.RANK", rank,
                          "TRAIN.LORA.ALPHA", alpha, "TRAIN.LORA.TARGETS", targets])
    LoRA.extend_model(cfg, model)
    lora = LoRA.build(cfg, model)
    lora.name = "lora"
    if trained:
        with torch.no_grad():
            for added in lora.factors.values():
                added.up.normal_(std=0.1)
    return lora


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(4, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1])


def merged(model):
    """The state dict with gradients that reach the factors, by the written formula W + s B A."""
    state = {name: p.detach() for name, p in model.named_parameters()
             if not name.startswith("extras.")}
    names = list(model.additions)
    for name, added in zip(names, model.extras["lora"].values(), strict=True):
        n, rows, rank = added.up.shape
        blocks = [torch.zeros(rows, added.down.shape[1]).double()] * (len(state[name]) // rows)
        for i in range(n):
            blocks[added.starts[i] // rows] = added.scale * (
                added.up[i] @ added.down[i * rank:(i + 1) * rank])
        state[name] = state[name] + torch.cat(blocks)
    return state


@pytest.mark.parametrize("targets", [ALL, "['q','v']", "['k','c_fc']"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_is_that_of_the_written_formula(targets, checkpointing, batch):
    video, label = batch
    model = make(checkpointing=checkpointing)
    lora = add(model, targets=targets)
    result = PlainStep(model, cross_entropy, accumulate=2, objectives=[lora])(video, label, 0)
    other = make()
    loss = F.cross_entropy(functional_call(other, merged(model), (video,)), label)
    torch.testing.assert_close(result.loss, loss.detach())
    factors = list(model.extras["lora"].parameters())
    wanted = torch.autograd.grad(loss, factors)
    for factor, gradient in zip(factors, wanted, strict=True):
        torch.testing.assert_close(factor.grad, gradient, rtol=1e-9, atol=1e-12)
    assert {id(p) for p in model.parameters() if p.grad is not None} == set(map(id, factors))


def test_full_rank_gradient_is_that_of_the_matrix_itself(batch):
    """At rank = full, dL/dB Aᵀ⁻¹ / s is the gradient that plain training has."""
    video, label = batch
    model = make()
    lora = add(model, trained=False, rank=64, alpha=64.0, targets="['q','k','v']")
    PlainStep(model, cross_entropy, objectives=[lora])(video, label, 0)
    plain = make()
    PlainStep(plain, cross_entropy)(video, label, 0)
    wanted = dict(plain.named_parameters())[ATTENTION].grad
    added = lora.factors["0"]
    ours = torch.cat([up @ torch.linalg.inv(down).T
                      for up, down in zip(added.up.grad, added.down.chunk(3), strict=True)])
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9)


def test_the_state_dict_is_a_plain_model_that_computes_the_same(batch):
    model = make(head=True)
    before = model.state_dict()
    add(model)
    assert list(model.state_dict()) == list(before)
    alone = make(head=True)
    load_model_weights(alone, model.state_dict(), "a checkpoint")
    torch.testing.assert_close(alone(batch[0]), model(batch[0]), rtol=0, atol=1e-10)
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert sorted(changed) == sorted(model.additions) and len(changed) == 8
    # In fp32, as training is.
    alone.float(), model.float()
    load_model_weights(alone, model.state_dict(), "a checkpoint")
    video = batch[0].float()
    torch.testing.assert_close(alone(video), model(video), rtol=0, atol=1e-5)


def test_weights_that_are_loaded_are_what_the_model_then_has(batch):
    model = make()
    given = {name: t + torch.randn_like(t) / 10 for name, t in model.state_dict().items()}
    add(model)
    load_model_weights(model, given, "a checkpoint")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_what_is_mixed_are_the_merged_weights(ratio, batch):
    model = make()
    clip = {n: t + torch.randn_like(t) / 50 for n, t in model.state_dict().items()}
    add(model)
    own = model.state_dict()
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    interpolator = WeightInterpolator(
        {n: p for n, p in model.named_parameters() if n in model.additions}, clip,
        additions=model.additions)
    with interpolator.at(ratio):
        held, logits = model.state_dict(), model(batch[0])
    for name in own:
        wanted = own[name]
        if name in model.additions:
            wanted = ratio * clip[name] + (1 - ratio) * own[name]
        torch.testing.assert_close(held[name], wanted, rtol=0, atol=1e-12)
    alone = make()
    load_model_weights(alone, held, "the mixture")
    torch.testing.assert_close(logits, alone(batch[0]), rtol=0, atol=1e-10)
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())


def test_interpolated_step_adds_the_mixtures_gradient_without_a_factor(batch):
    video, label = batch
    model = make()
    clip = {n: t + torch.randn_like(t) / 50 for n, t in model.state_dict().items()}
    lora = add(model)
    interpolator = WeightInterpolator(
        {n: p for n, p in model.named_parameters() if n in model.additions}, clip,
        additions=model.additions)
    connect = Connect(model=model, interpolator=interpolator, low=0.3, high=0.3, loss_ratio=0.5,
                      seed=0)
    result = PlainStep(model, cross_entropy, objectives=[connect, lora])(video, label, 0)
    factors, other = list(model.extras["lora"].parameters()), make()
    state = merged(model)
    # W0 + sBA -> the mixture + sBA - (sBA, constant): as the method does for plain weights.
    mixture = {n: t + 0.3 * (clip[n] - t.detach()) if n in model.additions else t
               for n, t in state.items()}
    losses = [F.cross_entropy(functional_call(other, s, (video,)), label)
              for s in (state, mixture)]
    torch.testing.assert_close(result.connect_loss, losses[1].detach())
    wanted = torch.autograd.grad(losses[0] + 0.5 * losses[1], factors)
    for factor, gradient in zip(factors, wanted, strict=True):
        torch.testing.assert_close(factor.grad, gradient, rtol=1e-9, atol=1e-12)


def test_averages_are_of_merged_weights(batch):
    states = []
    for seed in range(2):
        model = make()
        torch.manual_seed(seed)
        add(model)
        states.append(model.state_dict())
    mean = average_state_dicts(iter(states))
    for name in mean:
        torch.testing.assert_close(
            mean[name], (states[0][name] + states[1][name]) / 2, rtol=0, atol=1e-6,
            check_dtype=False)


def test_state_restores_factors_and_weights_bit_for_bit():
    model, other = make().float(), make().float()
    lora, again = add(model), add(other, trained=False)
    load_model_weights(other, model.state_dict(), "a checkpoint")
    again.load_state_dict({k: {n: t.clone() for n, t in v.items()}
                           for k, v in lora.state_dict().items()})
    wanted = dict(model.named_parameters())
    assert all(torch.equal(p, wanted[name]) for name, p in other.named_parameters())
    smaller = add(make(), rank=2)
    with pytest.raises(CheckpointError, match=r"another TRAIN.LORA.RANK or other TRAIN.LORA.TARG"):
        smaller.load_state_dict(lora.state_dict())


def test_what_no_clip_has_trains_too(batch):
    model = make("stadapt_zeroinit", head=True)
    lora = add(model, targets="['q','v']")
    PlainStep(model, cross_entropy, objectives=[lora])(*batch, 0)
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in trained} == {"model", "extras", "head"}
    assert all("stadapt" in name for name in trained if name.startswith("model."))


SMALL = {"embed_dim": 64, "vision_cfg": {"layers": 2, "width": 64},
         "text_cfg": {"layers": 1, "width": 64, "heads": 1}}


@pytest.mark.parametrize(("name", "targets"), [
    ("ViT-B-16", ALL), ("ViT-B-32", ALL), ("ViT-B-16-SigLIP2", ALL), ("EVA02-B-16", "['q','v']")])
def test_towers_of_open_clip(name, targets):
    """torch's attention, open_clip's own, and timm's with one and with three projections."""
    sizes = SMALL
    if name == "ViT-B-32":
        sizes = {**SMALL, "vision_cfg": {"layers": 2, "width": 64, "head_width": 32,
                                         "qk_norm": True, "scale_heads": True}}
    model = small_tower(name, sizes)
    lora = add(model, targets=targets)
    size = model.model.image_size
    video, label = torch.randn(2, 3, 2, size, size), torch.tensor([0, 2])
    result = PlainStep(model, cross_entropy, objectives=[lora])(video, label, 0)
    assert all(p.grad.any() for p in model.extras["lora"].parameters())
    alone = small_tower(name, sizes)
    before = alone(video)
    load_model_weights(alone, model.state_dict(), "a checkpoint")
    torch.testing.assert_close(alone(video), result.logits, rtol=0, atol=2e-5)
    assert (before - result.logits).abs().max() > 1e-3


def small_tower(name, sizes, temporal="expand_temporal_view"):
    torch.manual_seed(0)
    clip = build_backbone(name, temporal_type=temporal, num_frames=2, overrides=sizes)
    return VideoCLIP(clip, 2, F.normalize(torch.randn(3, clip.embed_dim), dim=-1))


def test_bf16_autocast(batch):
    video, label = batch[0].float(), batch[1]
    losses = []
    for trained in (make().float(), make().float()):
        lora = add(trained)
        step = PlainStep(trained, cross_entropy, objectives=[lora],
                         autocast=lambda: torch.autocast("cpu", torch.bfloat16))
        losses.append((step(video, label, 0).loss, next(iter(lora.factors.values())).up.grad))
    full = make().float()
    lora = add(full)
    torch.manual_seed(0)
    result = PlainStep(full, cross_entropy, objectives=[lora])(video, label, 0)
    assert losses[0][1].dtype == torch.float32
    assert abs(float(losses[0][0]) - float(result.loss)) < 0.3


@pytest.mark.parametrize(("opts", "said"), [
    (["TRAIN.LORA.RANK", 4], "TRAIN.LORA.RANK is 4, which has no effect without TRAIN.LORA.ENABLE"),
    (["TRAIN.LORA.ENABLE", True, "TRAIN.LORA.TARGETS", "['w']"],
     "TRAIN.LORA.TARGETS is 'w'; one of 'q', 'k'"),
    (["TRAIN.LORA.ENABLE", True, "TRAIN.LORA.TARGETS", "[]"], "TRAIN.LORA.TARGETS is empty"),
    (["TRAIN.LORA.ENABLE", True, "TRAIN.LORA.RANK", 0], "TRAIN.LORA.RANK"),
    (["TRAIN.LORA.ENABLE", True, "TRAIN.LORA.ALPHA", 0.0], "TRAIN.LORA.ALPHA is 0.0"),
    (["TRAIN.LORA.ENABLE", True, "MODEL.COMPILE", True],
     "MODEL.COMPILE is True; with TRAIN.LORA.ENABLE True it must be False"),
    (["TRAIN.LORA.ENABLE", True, "TRAIN.SHARDING", "fsdp"],
     "TRAIN.SHARDING is fsdp; with TRAIN.LORA.ENABLE True it must be ddp"),
])
def test_settings_that_are_refused(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, opts)


def test_a_rank_that_no_matrix_has_is_refused():
    with pytest.raises(ConfigError, match=r"RANK is 65, but the rank of a matrix of 64 x 64, as i"):
        add(make(), rank=65)


def test_frames_alone_in_open_clips_transformer_are_refused():
    for target in ("q", "out"):
        with pytest.raises(ConfigError, match=f"{target}', but the blocks of .*, which opens"):
            add(small_tower("ViT-B-16", SMALL, temporal=None), targets=f"['{target}']")
