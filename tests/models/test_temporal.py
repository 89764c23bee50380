from __future__ import annotations

import pytest
import torch

from openvclip.config.doors import TEMPORAL
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.layers import ResidualAttentionBlock
from openvclip.models.temporal import build_temporal_clip, is_adapter, temporal_block
from openvclip.models.temporal.block import TemporalBlock
from openvclip.models.temporal.channel_shift import ChannelShift, shift_frames
from openvclip.models.temporal.expanded_view import FrameWindows
from openvclip.models.temporal.stadapt_zeroinit import STAdapter
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import CheckpointError, ConfigError

SMALL = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=128, vision_layers=2,
                   text_width=32, text_layers=1, vocab_size=64)
TEMPORAL_TYPES = [name for name in TEMPORAL.names() if name]
# The name of the recording, and our name for what it recorded.
RECORDED = {
    "None": None,
    "expand_temporal_view": "expand_temporal_view",
    "expand_temporal_view_step2": "expand_temporal_view_step2",
    "expand_temporal_view_step3": "expand_temporal_view_step3",
    "channel_shift": "channel_shift_published",
    "cross_frame_attend": "cross_frame_attend",
    "stadapt_zeroinit": "stadapt_zeroinit",
}


def run(state, temporal_type, classifier):
    """Run the recorded input; return block outputs (blocks, L, N, D), features and logits."""
    torch.manual_seed(42)
    video = torch.randn(2, 3, 8, 64, 64)
    clip = build_temporal_clip(state, temporal_type=temporal_type, num_frames=8)
    outputs = []
    for block in clip.visual.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        features = clip.encode_image(video.transpose(1, 2).flatten(0, 1))
        blocks = torch.stack(outputs).transpose(1, 2)
        logits = VideoCLIP(clip, 8, classifier)(video)
    return blocks, features, logits


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_forward(name, golden, tiny_clip_state):
    recorded = torch.load(golden / f"forward_{name}.pt", weights_only=True)
    classifier = torch.load(golden / "classifier5.pt", weights_only=True)["classifier"]
    state = dict(tiny_clip_state)
    for path in golden.glob(f"adapter_{name}_*.pt"):
        state |= torch.load(path, weights_only=True)
    blocks, features, logits = run(state, RECORDED[name], classifier)
    torch.testing.assert_close(features, recorded["encode_image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(blocks[:, [0, 1, 16], :, ::4], recorded["blocks"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RECORDED)
def test_full_recording(name, shared, tiny_clip_state):
    recorded = torch.load(shared / "golden" / f"forward_{name}.pt", weights_only=True)
    state = {**tiny_clip_state, **recorded["visual_state"], **recorded["new_params"]}
    blocks, features, logits = run(state, RECORDED[name], recorded["classifier"])
    torch.testing.assert_close(features, recorded["encode_image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, recorded["logits_eval"], atol=1e-5, rtol=0)
    torch.testing.assert_close(blocks, recorded["block_outputs_LND"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cross_frame_attend", "stadapt_zeroinit"])
def test_adapters_names_and_initial_values(name, golden, tiny_clip_state):
    stats = torch.load(golden / f"forward_{name}.pt", weights_only=True)["init_stats"]
    torch.manual_seed(0)
    model = build_temporal_clip(tiny_clip_state, temporal_type=name)
    new = {n: p for n, p in model.named_parameters() if is_adapter(n)}
    assert set(new) == set(stats)
    for key, (shape, _, spread) in stats.items():
        assert new[key].requires_grad
        parameter = new[key].detach()
        assert list(parameter.shape) == list(shape)
        if spread == 0:  # exactly the recorded constant
            assert parameter.unique().tolist() == [stats[key][1]]
        else:  # a uniform draw: within what so few numbers can differ by chance
            error = 4 * spread / parameter.numel() ** 0.5
            assert parameter.std().item() == pytest.approx(spread, abs=2 * error)
            assert abs(parameter.mean().item()) < 2 * error


def random_model(temporal_type, frames, seed=0):
    """A model whose adapters, if any, do something."""
    torch.manual_seed(seed)
    state = CLIP(SMALL).state_dict()
    model = build_temporal_clip(state, temporal_type=temporal_type, num_frames=frames)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", TEMPORAL_TYPES)
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_any_number_of_frames_and_clips_do_not_mix(name, frames):
    model = random_model(name, frames)
    images = torch.randn(2 * frames, 3, 16, 16)
    with torch.no_grad():
        together = model.encode_image(images)
        alone = torch.cat([model.encode_image(half) for half in images.split(frames)])
    assert together.shape == (2 * frames, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TEMPORAL_TYPES)
def test_frames_see_each_other(name):
    model = random_model(name, 3)
    images = torch.randn(3, 3, 16, 16)
    changed = images.clone()
    changed[1] += 1
    with torch.no_grad():
        difference = (model.encode_image(images) - model.encode_image(changed)).abs().amax(1)
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("name", ["expand_temporal_view", "cross_frame_attend"])
def test_every_parameter_of_the_image_tower_gets_a_gradient(name):
    model = random_model(name, 2)
    model.encode_image(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.visual.parameters())


def naive_views(x, t, reach):
    """Tokens that frame ``t`` of ``x`` (T, L, D) sees, in order; zeros past the ends."""
    seen = range(t - reach, t + reach + 1)
    return torch.cat([x[i] if 0 <= i < len(x) else torch.zeros_like(x[0]) for i in seen])


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 8])
def test_windows_frame_by_frame(reach, frames):
    clips, heads, tokens, width = 2, 3, 5, 4
    x = torch.randn(clips * frames, tokens, 3 * heads * width)
    q, k, v = FrameWindows.apply(x, frames, heads, reach)
    parts = x.view(clips, frames, tokens, 3, heads, width)
    for clip in range(clips):
        for head in range(heads):
            own, keys, values = parts[clip, :, :, :, head].unbind(2)  # (T, L, d) each
            row = clip * heads + head
            assert torch.equal(q[row], own)
            for t in range(frames):
                assert torch.equal(k[row, t], naive_views(keys, t, reach))
                assert torch.equal(v[row, t], naive_views(values, t, reach))


@pytest.mark.parametrize(("frames", "reach"), [(1, 1), (2, 3), (3, 1), (4, 2)])
def test_gradients_of_windows(frames, reach):
    x = torch.randn(2 * frames, 2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: FrameWindows.apply(x, frames, 2, reach), x)


def test_no_token_is_copied_for_every_frame_that_sees_it():
    frames, tokens = 8, 5
    _, keys, values = FrameWindows.apply(torch.randn(frames, tokens, 3 * 64), frames, 1, 1)
    assert keys.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
    assert keys.untyped_storage().nbytes() == 2 * (frames + 2) * tokens * 64 * 4


def test_intended_channel_shift_frame_by_frame():
    block = ChannelShift(64, 3)
    x = torch.randn(2, 3, 5, 64)
    zero = torch.zeros(5, 16)
    expected = torch.stack([
        torch.cat([clip[t + 1, :, :16] if t < 2 else zero,
                   clip[t - 1, :, 16:32] if t > 0 else zero, clip[t, :, 32:]], dim=1)
        for clip in x for t in range(3)
    ])
    assert torch.equal(block.shift(x.flatten(0, 1)), expected)


def test_shift_frames():
    x = torch.arange(1, 7).view(6, 1)  # two clips of three frames
    assert shift_frames(x, 3, 1).flatten().tolist() == [2, 3, 0, 5, 6, 0]
    assert shift_frames(x, 3, -2).flatten().tolist() == [0, 0, 1, 0, 0, 4]
    assert shift_frames(x, 3, 5).flatten().tolist() == [0] * 6


def test_adapter_equals_its_convolutions():
    torch.manual_seed(0)
    block = STAdapter(64, 4)
    torch.nn.init.normal_(block.stadapt_up_1.weight)
    x = torch.randn(8, 6, 64)
    video = x.view(2, 4, 6, 1, 64).permute(0, 4, 1, 2, 3)  # (B, D, T, patches, 1)
    expected = block.stadapt_up_1(block.stadapt_conv3d_1(block.stadapt_down_1(video)))
    expected = expected.permute(0, 2, 3, 4, 1).reshape(8, 6, 64)
    torch.testing.assert_close(block.adapt(x), expected, atol=1e-5, rtol=1e-4)


def test_new_adapter_changes_nothing():
    torch.manual_seed(0)
    state = CLIP(SMALL).state_dict()
    images = torch.randn(4, 3, 16, 16)
    plain = build_temporal_clip(state).encode_image(images)
    adapted = build_temporal_clip(state, temporal_type="stadapt_zeroinit", num_frames=2)
    torch.testing.assert_close(adapted.encode_image(images), plain)


def test_checkpoint_with_some_adapters_only_is_refused():
    state = random_model("stadapt_zeroinit", 2).state_dict()
    build_temporal_clip(state, temporal_type="stadapt_zeroinit", num_frames=2)
    with pytest.raises(CheckpointError, match="12 unexpected.*stadapt"):
        build_temporal_clip(state)
    del state["visual.transformer.resblocks.0.stadapt_down_1.bias"]
    with pytest.raises(CheckpointError, match="1 missing: .*stadapt_down_1.bias"):
        build_temporal_clip(state, temporal_type="stadapt_zeroinit")


@pytest.mark.parametrize("temporal_type, directed", [
    (None, False), ("expand_temporal_view", False), ("expand_temporal_view_step3", False),
    ("cross_frame_attend", False), ("channel_shift", True), ("stadapt_zeroinit", True),
])
def test_which_types_give_a_clip_and_its_reverse_the_same_logits(temporal_type, directed):
    """Neighbours' keys carry no time position, and logits are averaged."""
    model = VideoCLIP(random_model(temporal_type, 4), 4, torch.eye(3, 16)).double()
    for name, parameter in model.named_parameters():
        if ".stadapt_up_1." in name:  # zero before training
            torch.nn.init.normal_(parameter, std=0.1)
    video = torch.randn(1, 3, 4, 16, 16, dtype=torch.float64)
    difference = (model(video) - model(video.flip(2))).abs().max()
    assert (difference > 1e-3) if directed else (difference < 1e-9), difference


def test_type_names():
    assert temporal_block(None, 8) is ResidualAttentionBlock
    with pytest.raises(ConfigError, match="MODEL.TEMPORAL_MODELING_TYPE 'shift'.*channel_shift"):
        temporal_block("shift", 8)


def test_own_parameters_without_values_are_named(monkeypatch):
    class Gated(TemporalBlock):
        own_parameters = ("gate",)

        def __init__(self, width, num_frames):
            super().__init__(width, num_frames)
            self.gate = torch.nn.Parameter(torch.zeros(width))

    monkeypatch.setitem(TEMPORAL._entries, "gated", Gated)
    with pytest.raises(ConfigError, match='gate has no initial values; .*device="cpu"'):
        build_temporal_clip(CLIP(SMALL).state_dict(), temporal_type="gated")


def test_only_variants_of_their_own_parameters_have_names_that_no_clip_has():
    assert is_adapter("visual.transformer.resblocks.0.message_fc.weight")
    assert not any(is_adapter(name) for name in CLIP(SMALL).state_dict())
