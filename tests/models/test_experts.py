"""Experts: recorded numbers, every temporal variant, and how their weights travel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.export import check_exportable
from openvclip.checkpoints.loading import load_patched
from openvclip.config import get_cfg
from openvclip.models.backbone.build import describe_any, override, random_weights
from openvclip.models.build import load_model_weights
from openvclip.models.experts import (
    Experts,
    expert_blocks,
    find_mlp,
    is_expert,
    routing_state,
)
from openvclip.models.layers import ResidualAttentionBlock
from openvclip.models.temporal import build_temporal_clip, is_adapter
from openvclip.models.video_clip import VideoCLIP
from openvclip.predict.input_spec import build_input_spec
from openvclip.training.objectives.routing import compute_frequency_loss
from openvclip.utils.errors import CheckpointError, ConfigError

CASES = ("none_patch", "none_image", "cross_frame_patch", "stadapt_patch")
VARIANTS = (None, "expand_temporal_view", "expand_temporal_view_step2",
            "expand_temporal_view_step3", "channel_shift", "channel_shift_published",
            "cross_frame_attend", "stadapt_zeroinit")
EXPERTS = Experts(2, (1, 2))


def perturb(clip, state, seed: int, scale: float = 0.05) -> list[str]:
    """Draw what CLIP lacks as the recorded cases did; return its names."""
    new = sorted(name for name in clip.state_dict() if name not in state)
    torch.manual_seed(seed)
    for name in new:
        own = clip.get_parameter(name)
        mlp = find_mlp(name)
        base = torch.full_like(own, 1.0 if name.endswith("message_ln.weight") else 0.0)
        own.data = (base if mlp is None else state[mlp]) + scale * torch.randn(own.shape)
    return new


def entries(tensor: torch.Tensor, step: int) -> torch.Tensor:
    return tensor.flatten()[::step]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_recorded_case(golden, tiny_clip_state, name, use_checkpoint):
    case = torch.load(golden / "experts.pt", weights_only=True)[name]
    classifier = torch.load(golden / "classifier5.pt", weights_only=True)["classifier"]
    experts = Experts(case["num_experts"], tuple(case["insert_layers"]), case["routing_type"])
    clip = build_temporal_clip(tiny_clip_state, temporal_type=case["type"], num_frames=8,
                               experts=experts, use_checkpoint=use_checkpoint)
    new = perturb(clip, tiny_clip_state, case["perturbation"]["seed"])
    assert new == case["new_names"]
    assert {n: list(clip.get_parameter(n).shape) for n in new} == case["new_shapes"]
    torch.manual_seed(case["input_seed"])
    video = torch.randn(*case["input_shape"])
    assert float(video.sum()) == pytest.approx(case["input_sum"], abs=1e-2)

    features = clip.encode_image(video.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(features, case["features"], atol=1e-5, rtol=0)
    model = VideoCLIP(clip, 8, classifier.float())
    for _, block in expert_blocks(model):
        block.record = True
    logits = model(video)
    torch.testing.assert_close(logits, case["logits"], atol=1e-5, rtol=0)
    state = routing_state(model)
    assert list(state.shape) == case["routing_shape"]
    if "routing" in case:
        torch.testing.assert_close(state, case["routing"], atol=1e-5, rtol=0)
    loss = F.cross_entropy(logits, case["labels"])
    for wanted in case["frequency"]:
        own = compute_frequency_loss(state, wanted["constrain"], wanted["type"])
        assert float(own.detach()) == pytest.approx(wanted["loss"], abs=1e-5)
        total = wanted["cls_ratio"] * loss + wanted["factor"] * own
        assert float(total.detach()) == pytest.approx(wanted["total"], abs=1e-5)
        for scalar, kind in ((own, "gradients_freq_alone"), (total, "gradients_total")):
            for tensor, kept in wanted.get(kind, {}).items():
                (grad,) = torch.autograd.grad(scalar, clip.get_parameter(tensor),
                                              retain_graph=True)
                torch.testing.assert_close(entries(grad, kept["step"]), kept["values"],
                                           atol=1e-5 * kept["absmax"], rtol=0)


@pytest.mark.parametrize("routing", ["patch-level", "image-level"])
@pytest.mark.parametrize("kind", VARIANTS)
def test_every_variant_starts_as_without_experts(tiny_clip_state, kind, routing):
    frames = torch.randn(8, 3, 64, 64)
    torch.manual_seed(5)
    plain = build_temporal_clip(tiny_clip_state, temporal_type=kind, num_frames=4)
    torch.manual_seed(5)
    mixed = build_temporal_clip(tiny_clip_state, temporal_type=kind, num_frames=4,
                                experts=Experts(3, (0, 2), routing))
    with torch.no_grad():
        before = plain.encode_image(frames)
        torch.testing.assert_close(mixed.encode_image(frames), before, atol=2e-5, rtol=0)
        for name, parameter in mixed.named_parameters():
            if "experts_tail" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))
        assert (mixed.encode_image(frames) - before).abs().max() > 1e-3  # they take part


@pytest.mark.parametrize("kind", ["expand_temporal_view", "cross_frame_attend"])
@pytest.mark.parametrize("routing", ["patch-level", "image-level"])
def test_the_written_formula(tiny_clip_state, kind, routing):
    clip = build_temporal_clip(tiny_clip_state, temporal_type=kind, num_frames=2,
                               experts=Experts(2, (1,), routing)).double()
    perturb(clip, {n: t.double() for n, t in tiny_clip_state.items()}, 3)
    (_, block), = expert_blocks(clip)
    x = torch.randn(4, 17, 128, dtype=torch.float64)
    one = slice(0, 1) if routing == "image-level" else slice(None)

    def mix(x, router, own, experts):
        g = torch.softmax(x[:, one] @ router.weight.T + router.bias, dim=-1)
        return sum(g[..., [i]] * (x @ layer.weight.T + layer.bias)
                   for i, layer in enumerate([own, *(next(e.children()) for e in experts)]))

    h = mix(x, block.routing1, block.mlp.c_fc, block.experts_head)
    h = h * torch.sigmoid(1.702 * h)
    y = mix(h, block.routing2, block.mlp.c_proj, block.experts_tail)
    torch.testing.assert_close(block.mixture(x), y, atol=1e-12, rtol=0)


def test_no_experts_leave_the_blocks_as_they_are(tiny_clip_state):
    clip = build_temporal_clip(tiny_clip_state)
    assert {type(block) for block in clip.vision_blocks()} == {ResidualAttentionBlock}
    others = build_temporal_clip(tiny_clip_state, experts=EXPERTS)
    assert type(next(iter(others.vision_blocks()))) is ResidualAttentionBlock
    assert not any(is_expert(name) or is_adapter(name) for name in clip.state_dict())


def test_routing_is_kept_only_while_it_is_recorded(tiny_clip_state):
    clip = build_temporal_clip(tiny_clip_state, experts=EXPERTS)
    blocks = dict(expert_blocks(clip))
    assert list(blocks) == [1, 2]
    clip.encode_image(torch.randn(2, 3, 64, 64))
    assert all(block.routing is None for block in blocks.values())
    for block in blocks.values():
        block.record = True
    clip.eval().encode_image(torch.randn(2, 3, 64, 64))
    assert all(block.routing is None for block in blocks.values())
    clip.train().encode_image(torch.randn(2, 3, 64, 64))
    assert routing_state(clip).shape == (4, 17, 2, 3)


def test_names():
    block = "model.visual.transformer.resblocks.11."
    assert find_mlp(block + "experts_head.10.c_fc.weight") == block + "mlp.c_fc.weight"
    assert find_mlp(block + "experts_tail.0.c_proj.bias") == block + "mlp.c_proj.bias"
    for name in ("routing1.weight", "mlp.c_fc.weight", "ln_1.bias"):
        assert find_mlp(block + name) is None
    assert is_adapter(block + "routing2.bias") and not is_expert(block + "message_fc.bias")


@pytest.mark.parametrize(("layers", "message"), [
    ((10, 11), r"\[10, 11\], but the image tower of tiny has 3 blocks, 0 to 2"),
    ((2, 3), r"\[2, 3\], but"), ((), r"\[\]; give at least one"),
])
def test_blocks_that_are_not_there_are_refused(tiny_clip_state, layers, message):
    with pytest.raises(ConfigError, match=message):
        build_temporal_clip(tiny_clip_state, experts=Experts(2, layers), where="tiny")


def test_wrong_routing_and_other_towers_are_refused():
    with pytest.raises(ConfigError, match=r"MODEL\.ROUTING_TYPE.*patch-level"):
        Experts(2, (1,), "patch")
    tower = override(describe_any("ViT-B-32"), {  # GELU instead of OpenAI's QuickGELU
        "embed_dim": 32, "vision_cfg": {"layers": 2, "width": 64, "image_size": 32},
        "text_cfg": {"layers": 1, "width": 64, "heads": 1}, "quick_gelu": False})
    assert tower.family == "open_clip"
    with pytest.raises(ConfigError, match="NUM_EXPERTS is 2, but .* is not built like OpenAI's"):
        build_temporal_clip(random_weights(tower), experts=Experts(2, (1,)), tower=tower,
                            where=tower.label)


def build(state, experts=EXPERTS, kind="expand_temporal_view") -> VideoCLIP:
    clip = build_temporal_clip(state, temporal_type=kind, num_frames=4, experts=experts)
    return VideoCLIP(clip, 4, torch.zeros(0, clip.embed_dim))


def test_loading(tiny_clip_state):
    trained = build(tiny_clip_state)
    perturb(trained.model, tiny_clip_state, 11)
    other = build(tiny_clip_state)
    load_model_weights(other, trained.state_dict(), "trained.pyth")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)

    # Into a model without experts.
    with pytest.raises(CheckpointError, match=(
            r"trained.pyth has the weights of experts \(24 tensors: .*NUM_EXPERTS 2 and "
            r"MODEL.EXPERT_INSERT_LAYERS \[1, 2\]")):
        load_model_weights(build(tiny_clip_state, None), trained.state_dict(), "trained.pyth")
    with pytest.raises(CheckpointError, match="has the weights of experts"):
        build(trained.model.state_dict(), None)
    # With another number, or in other blocks.
    for experts in (Experts(3, (1, 2)), Experts(2, (0, 2))):
        with pytest.raises(CheckpointError):
            load_model_weights(build(tiny_clip_state, experts), trained.state_dict(), "t.pyth")
        with pytest.raises(CheckpointError):
            build(trained.model.state_dict(), experts)
    again = build(trained.model.state_dict())
    assert torch.equal(again.model.get_parameter("visual.transformer.resblocks.1.routing1.weight"),
                       trained.model.get_parameter(
                           "visual.transformer.resblocks.1.routing1.weight"))


def test_weights_without_experts_initialise_them(tiny_clip_state):
    tuned = {name: t + 0.01 if t.ndim else t for name, t in tiny_clip_state.items()}
    model = build(tiny_clip_state)
    load_model_weights(model, tuned, "tuned.pyth")
    for name, parameter in model.model.named_parameters():
        if (mlp := find_mlp(name)) is not None:
            assert torch.equal(parameter, tuned[mlp])
    # A variant's own weights and experts may each be missing as a whole.
    adapted = build(tiny_clip_state, None, "stadapt_zeroinit").state_dict()
    load_model_weights(build(tiny_clip_state, EXPERTS, "stadapt_zeroinit"), adapted, "a.pyth")


def save(model: VideoCLIP, path: Path, epoch: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save({"epoch": epoch, "model_state": model.state_dict()}, path)
    return path


def test_averaging_patching_and_export(tiny_clip_state, tmp_path):
    folder = tmp_path / "checkpoints"
    models = [build(tiny_clip_state) for _ in range(2)]
    for i, model in enumerate(models):
        perturb(model.model, tiny_clip_state, 20 + i)
        save(model, folder / f"checkpoint_epoch_{i + 1:05d}.pyth", i)
    swa = average_checkpoints(tmp_path, start=1, end=2, output=tmp_path / "swa.pth")
    clip = tmp_path / "clip.pt"
    torch.save(tiny_clip_state, clip)
    options = {"temporal_type": "expand_temporal_view", "num_frames": 4}
    patched = load_patched(clip, swa, 0.5, experts=EXPERTS, **options)
    for name, tensor in patched.state_dict().items():
        if is_adapter(name):  # CLIP has none to mix in
            mean = sum(model.state_dict()[name] for model in models) / 2
            torch.testing.assert_close(tensor, mean)
    with pytest.raises(CheckpointError, match="has the weights of experts"):
        load_patched(clip, swa, 0.5, **options)
    with pytest.raises(CheckpointError, match="has weights of experts"):
        check_exportable(swa)


def test_a_config_says_which_experts_a_model_has():
    cfg = get_cfg()
    assert build_input_spec(cfg).experts is None
    cfg.MODEL.NUM_EXPERTS, cfg.MODEL.EXPERT_INSERT_LAYERS = 3, [4]
    cfg.MODEL.ROUTING_TYPE = "image-level"
    assert build_input_spec(cfg).experts == Experts(3, (4,), "image-level")
