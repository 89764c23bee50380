"""Every family of open_clip's towers, as a small member with random weights."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.nn.functional as F

from openvclip.checkpoints.loading import load_original_clip, load_weights
from openvclip.clip.open_clip_names import import_open_clip
from openvclip.clip.open_clip_weights import build_open_clip
from openvclip.clip.towers import TOWER, TowerSpec, describe_tower, load_tower
from openvclip.config.doors import TEMPORAL
from openvclip.models.backbone import CLIP, build_backbone
from openvclip.models.backbone.opened import name_class
from openvclip.models.backbone.survey import survey
from openvclip.models.build import check_context
from openvclip.models.temporal import build_temporal_clip, is_adapter
from openvclip.models.temporal.expanded_view import ExpandedView, FrameWindows
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import CheckpointError, ConfigError

TEXT = {"layers": 2, "width": 64, "heads": 1}
SMALL = {"embed_dim": 64, "vision_cfg": {"layers": 2, "width": 64}, "text_cfg": TEXT}
# Small ones of other kinds: their widths are those of convolutions before the blocks.
FAMILIES = {
    "ViT-B-16": SMALL,
    "ViT-H-14": {**SMALL, "vision_cfg": {"layers": 2, "width": 80}},
    "ViT-L-14-CLIPA": SMALL,
    "ViT-B-16-SigLIP2": SMALL,
    "PE-Core-B-16": SMALL,
    "PE-Core-bigG-14-448": SMALL,
    "EVA01-g-14": SMALL,
    "EVA02-B-16": SMALL,
    "EVA02-E-14": SMALL,
    "MobileCLIP2-L-14": SMALL,
    "MobileCLIP-B": {**SMALL, "vision_cfg": {"layers": 2}},
    "ViTamin-S": {**SMALL, "vision_cfg": {"layers": 2}},
    "coca_ViT-B-32": {**SMALL, "multimodal_cfg": TEXT},
    # open_clip's own attention, with all that it can do.
    "ViT-B-32": {**SMALL, "vision_cfg": {
        "layers": 2, "width": 64, "head_width": 32, "qk_norm": True, "scale_heads": True,
        "scale_attn_inner": True, "scale_attn": True, "ls_init_value": 0.5}},
}
CONVOLUTIONS = {
    "RN50": {**SMALL, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 32, "image_size": 64}},
    "convnext_base": {**SMALL, "vision_cfg": {"layers": 1, "width": 32}},
    "MobileCLIP2-S0": {**SMALL, "vision_cfg": {"layers": 1, "width": 64}},
}
VARIANTS = [name for name in TEMPORAL.names() if name]


class Alone(ExpandedView):
    """The expanded view with no neighbours."""

    reach = 0


@pytest.fixture(autouse=True)
def reach_0(monkeypatch):
    monkeypatch.setitem(TEMPORAL._entries, "alone", Alone)


def build(name, temporal_type=None, frames=2, edges="zeros", overrides=None):
    """A small member whose parameters are all of a size that shows in the features."""
    torch.manual_seed(0)
    overrides = overrides or FAMILIES.get(name) or CONVOLUTIONS[name]
    model = build_backbone(name, temporal_type=temporal_type, num_frames=frames, edges=edges,
                           overrides=overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def theirs(model):
    """open_clip's own model with the same weights."""
    other = build_open_clip(model.tower.config, "own", "cpu")
    other.load_state_dict(dict(model.state_dict()))
    return other.eval()


def images_for(model, count):
    return torch.randn(count, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(2))


def encode(other, images):
    features = other.visual(images)
    return features[0] if isinstance(features, tuple) else features


@pytest.mark.parametrize("name", FAMILIES)
def test_with_reach_0_features_are_open_clip_s(name):
    model = build(name, "alone")
    images = images_for(model, 2)
    with torch.no_grad():
        ours, expected = model.encode_image(images), encode(theirs(model), images)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(ours, expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutional_towers_take_frames_alone(name):
    model = build(name)
    images = images_for(model, 2)
    kept = dict(model.state_dict())
    with torch.no_grad():
        expected = encode(theirs(model), images)
        torch.testing.assert_close(model.train().encode_image(images), expected)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match=f"the frames of {name}.* no blocks.*BasicClipVideo"):
        build(name, "expand_temporal_view")


@pytest.mark.parametrize("name", [*FAMILIES, *CONVOLUTIONS])
def test_blocks_that_are_sharded_are_modules_with_parameters(name):
    model = build_backbone(name, overrides=FAMILIES.get(name) or CONVOLUTIONS[name])
    names = {parameter: n for n, parameter in model.named_parameters()}
    for blocks, of_images in ((model.vision_blocks(), True), (model.text_blocks(), False)):
        owned = [[names[p] for p in block.parameters()] for block in blocks]
        assert owned and all(owned)
        assert all(n.startswith("visual.") == of_images for block in owned for n in block)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-SigLIP2", "PE-Core-B-16", "EVA02-E-14"])
def test_a_clip_of_equal_frames_is_as_one_frame(name, variant):
    edges = "clamp" if TEMPORAL.get(variant).has_edges else "zeros"
    model = build(name, variant, frames=3, edges=edges)
    alone = build_temporal_clip(model.state_dict(), temporal_type=variant, num_frames=1,
                                edges=edges, tower=model.tower).eval()
    frame = images_for(model, 1)
    with torch.no_grad():
        one = alone.encode_image(frame)
        three = model.encode_image(frame.expand(3, -1, -1, -1))
    torch.testing.assert_close(three, one.expand(3, -1), atol=1e-6 * float(one.abs().max()),
                               rtol=1e-5)
    own = {n.split(".")[-2] for n in model.state_dict() if is_adapter(n)}
    assert own <= {*TEMPORAL.get(variant).own_parameters, "out_proj", "message_attn"}


@pytest.mark.parametrize("name", ["ViT-H-14", "ViT-B-16-SigLIP2", "PE-Core-B-16", "EVA02-B-16"])
def test_clips_do_not_mix_and_all_parameters_train(name):
    model = build(name, "expand_temporal_view", frames=2)
    images = images_for(model, 4)
    together = model.encode_image(images)
    with torch.no_grad():
        alone = torch.cat([model.encode_image(half) for half in images.split(2)])
        other = model.encode_image(images.roll(1, 0))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (together - other.roll(-1, 0)).abs().max() > 1e-4  # they see their neighbours
    together.square().sum().backward()
    assert all(p.grad is not None for p in model.visual.parameters() if p.requires_grad)


def over_frames(q, k, v, frames):
    """Attention of (N, L, heads, d) over frames t-1, t, t+1 of a clip, head by head."""
    out = torch.zeros_like(q)
    for t in range(len(q)):
        for head in range(q.shape[2]):
            keys, values = (torch.cat([
                part[i, :, head] if 0 <= i and i // frames == t // frames and i < len(q)
                else torch.zeros_like(part[0, :, head]) for i in (t - 1, t, t + 1)
            ]) for part in (k, v))
            scores = q[t, :, head] @ keys.T / q.shape[-1] ** 0.5
            out[t, :, head] = scores.softmax(-1) @ values
    return out.flatten(2)


def write_out(attn, frames):
    """Return the forward pass of one of open_clip's or timm's attentions, written out."""
    import_open_clip()  # before timm, for torchvision
    from timm.layers import apply_rot_embed_cat

    kind = name_class(attn)

    def heads_of(x, count):
        return x.unflatten(-1, (count, -1))

    def torch_s(x, *_, **__):
        q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        parts = (heads_of(part, attn.num_heads) for part in (q, k, v))
        return attn.out_proj(over_frames(*parts, frames)), None

    def open_clip_s(x, *_, **__):
        q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (heads_of(part, attn.num_heads) for part in (q, k, v))
        y = over_frames(attn.ln_q(q), attn.ln_k(k), v, frames)
        if attn.head_scale is not None:
            y = (heads_of(y, attn.num_heads) * attn.head_scale.view(-1, 1)).flatten(2)
        return attn.out_proj(attn.ln_inner(y))

    def timm_s(x, rope=None, *_, **__):
        if attn.qkv is None:
            q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)
        else:
            q, k, v = F.linear(x, attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1)
            if getattr(attn, "q_bias", None) is not None:
                q, v = q + attn.q_bias, v + attn.v_bias
        q, k, v = (heads_of(part, attn.num_heads) for part in (q, k, v))
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            q, k = (torch.cat([part[:, :attn.num_prefix_tokens], apply_rot_embed_cat(
                part[:, attn.num_prefix_tokens:].transpose(1, 2), rope, half=attn.rotate_half,
            ).transpose(1, 2)], dim=1) for part in (q, k))
        return attn.proj(attn.norm(over_frames(q, k, v, frames)))

    return {"torch": torch_s, "open_clip": open_clip_s, "timm": timm_s}[kind.split(".")[0]]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_formula_by_head(name):
    model = build(name, "expand_temporal_view", frames=2)
    images, other = images_for(model, 4), theirs(model)
    trunk = getattr(other.visual, "trunk", other.visual)
    blocks = trunk.blocks if hasattr(trunk, "blocks") else trunk.transformer.resblocks
    for block in blocks:
        block.attn.forward = write_out(block.attn, frames=2)
    texts = F.normalize(torch.randn(3, model.embed_dim), dim=-1)
    with torch.no_grad():
        expected, ours = (F.normalize(features, dim=-1) @ texts.T * model.logit_scale.exp()
                          for features in (encode(other, images), model.encode_image(images)))
        alone = F.normalize(build(name).encode_image(images), dim=-1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (alone @ texts.T * model.logit_scale.exp() - ours).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-SigLIP2", "ViT-L-14-CLIPA", "PE-Core-B-16",
                                  "coca_ViT-B-32", "EVA02-B-16"])
def test_texts_are_open_clip_s(name):
    model = build(name)
    tokens = torch.zeros(3, model.context_length, dtype=torch.int64)
    for row, length in enumerate((4, 7, 5)):
        tokens[row, :length] = torch.randint(1, 1000, (length,))
        tokens[row, length] = model.tower.config["text_cfg"].get("vocab_size", 49408) - 1
    if name == "coca_ViT-B-32":  # whose class token takes the last place
        tokens = tokens[:, :-1]
    other = theirs(model)
    with torch.no_grad():
        expected = other.text(tokens) if hasattr(other, "text") else other.encode_text(tokens)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(model.encode_text(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", ["ViT-B-16", "PE-Core-B-16"])
def test_positions_after_the_end_of_causal_texts_are_not_computed(causal):
    model = build(causal)
    lengths = []
    text = getattr(model, "text", model)
    text.transformer.resblocks[0].register_forward_pre_hook(
        lambda module, args: lengths.append(args[0].shape[1]))
    tokens = torch.zeros(2, model.context_length, dtype=torch.int64)
    tokens[:, 5] = 49407
    model.encode_text(tokens)
    assert lengths == [6]


@pytest.mark.parametrize(("frames", "reach"), [(1, 1), (2, 3), (3, 1), (4, 2)])
def test_gradients_of_clamped_windows(frames, reach):
    x = torch.randn(2 * frames, 2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: FrameWindows.apply(x, frames, 2, reach, True), x)
    q, keys, _ = FrameWindows.apply(x, frames, 2, reach, True)
    assert torch.equal(keys[0, 0, :2], x[0, :, 4:6])  # of the first frame, before it begins


def test_edges_that_would_have_no_effect_are_refused():
    for kind in (None, "cross_frame_attend"):
        with pytest.raises(ConfigError, match="TEMPORAL_EDGES is 'clamp'.* set it to zeros"):
            build("ViT-B-16", kind, edges="clamp")
    with pytest.raises(ConfigError, match="TEMPORAL_EDGES is 'clamps'.*nearest: clamp"):
        build("ViT-B-16", "expand_temporal_view", edges="clamps")


# One pair of each kind of tower; ``openvclip backbones --check`` goes through all.
SAMPLE = {
    "ViT-B-16/openai": True, "ViT-H-14/laion2b_s32b_b79k": True, "ViT-L-14-CLIPA/datacomp1b": True,
    "ViT-B-16-SigLIP2/webli": True, "PE-Core-S-16-384/meta": True,
    "EVA02-B-16/merged2b_s8b_b131k": True, "EVA02-E-14/laion2b_s4b_b115k": True,
    "MobileCLIP-B/datacompdr": True, "ViTamin-S/datacomp1b": True,
    "coca_ViT-B-32/laion2b_s13b_b90k": True, "nllb-clip-base/v1": True,
    "roberta-ViT-B-32/laion2b_s12b_b32k": True, "RN50/openai": False,
    "convnext_base/laion400m_s13b_b51k": False, "MobileCLIP2-S0/dfndr2b": False,
}


def test_real_sizes_are_built_without_memory():
    found = {f"{item.tower.label}": item for item in survey(SAMPLE)}
    assert [item.frames for item in found.values()] == [""] * len(SAMPLE)
    assert {name: not item.clips for name, item in found.items()} == SAMPLE
    assert all(p.is_meta for item in found.values() for p in item.model.parameters())


# ---- sources -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small tower in a folder, as open_clip saves it."""
    return save(build("ViT-B-16-SigLIP2"), tmp_path_factory.mktemp("tower") / "siglip")


def save(model, path):
    import_open_clip()
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf

    class Tokenizer:
        """Has nothing to save."""

        def save_pretrained(self, folder):
            """Do nothing."""

    other = theirs(model)
    set_model_preprocess_cfg(other, vars(model.preprocess))
    save_for_hf(other, Tokenizer(), dict(model.tower.config), safe_serialization=True,
                save_directory=str(path))
    return path


def test_a_folder_that_open_clip_saved(folder):
    spec, state = load_tower(folder)
    assert spec.family == "open_clip" and spec.name == "siglip"
    assert state.keys() == theirs(build("ViT-B-16-SigLIP2")).state_dict().keys()
    assert TowerSpec.from_dict(spec.to_dict(), "again").digest() == spec.digest()
    assert describe_tower(f"local-dir:{folder}").digest() == spec.digest()
    model = build_backbone(str(folder), pretrained="", temporal_type="expand_temporal_view")
    assert name_class(model.visual.trunk.blocks[0]).endswith("ExpandedViewBlock")
    assert not any(p.requires_grad for p in model.text_parameters().values())
    assert not model.logit_bias.requires_grad


def test_weights_of_another_size_are_refused_in_one_line(folder, tmp_path):
    other = save(build("ViT-B-16-SigLIP2", overrides={
        **SMALL, "embed_dim": 128, "vision_cfg": {"layers": 2, "width": 128}}), tmp_path / "wide")
    (other / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(CheckpointError, match="of another shape: .*patch_embed") as caught:
        build_backbone(str(other), pretrained="")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [
    ("ViT-B-16-SigLP2", "neither a file nor a model.*nearest.*ViT-B-16-SigLIP2"),
    ("ViT-B-16-SigLIP2/laion", "no weights 'laion'.*webli"),
    ("PE-Core-B-16", "could not load PE-Core-B-16/meta .*without a network"),
    ("hf-hub:nobody/nothing", "the config of hf-hub:nobody/nothing could not be had"),
])
def test_sources_that_cannot_be_had(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import_open_clip()
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tower(name)
    assert "\n" not in str(caught.value)


def test_towers_of_the_same_shapes_that_compute_otherwise_are_not_mixed(tmp_path):
    """Heads are not in the weights, so that only the description tells them apart."""
    heads = {**SMALL, "vision_cfg": {"layers": 2, "width": 64, "head_width": 32}}
    one, two = build("ViT-B-16"), build("ViT-B-16", overrides=heads)
    assert {n: t.shape for n, t in one.state_dict().items()} == {
        n: t.shape for n, t in two.state_dict().items()}
    other = save(two, tmp_path / "other")
    with pytest.raises(CheckpointError, match="is other, but the model was made from ViT-B-16"):
        load_original_clip(other, one.tower)
    assert len(load_original_clip(other, two.tower)) == len(two.state_dict())

    video = VideoCLIP(one, 2, torch.zeros(0, one.embed_dim))
    checkpoint = tmp_path / "tuned.pyth"
    for tower, fits in ((one.tower, True), (two.tower, False)):
        torch.save({"model_state": dict(two.state_dict()), TOWER: tower.to_dict()}, checkpoint)
        if fits:
            load_weights(video, checkpoint)
            continue
        with pytest.raises(CheckpointError, match=r"tuned.pyth was trained from .* but the CLIP"
                                                  " here is ViT-B-16") as caught:
            load_weights(video, checkpoint)
        assert "\n" not in str(caught.value)


def test_texts_of_another_length_than_the_tower_reads_are_refused():
    check_context(20, build("ViT-B-16"), "a causal tower")  # which reads up to a text's end
    model = build("ViT-B-16-SigLIP2")
    check_context(model.context_length, model, "SigLIP")
    with pytest.raises(ConfigError, match="CONTEXT_LENGTH is 77, but .*SigLIP reads exactly 64"):
        check_context(77, model, "SigLIP")


def test_a_hub_that_cannot_be_reached_is_not_waited_for(monkeypatch):
    """The client would try again for a minute; offline it looks at what it has kept."""
    factory = import_open_clip().factory
    from huggingface_hub import constants

    seen = []
    monkeypatch.setattr(factory, "_get_hf_config", lambda name: seen.append(
        constants.HF_HUB_OFFLINE) or {"model_cfg": {}})
    monkeypatch.setattr("openvclip.clip.open_clip_names.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(CheckpointError, match="no vision_cfg"):
            describe_tower("hf-hub:nobody/nothing")
    with pytest.raises(CheckpointError, match="no vision_cfg"):  # nothing listens there any more
        describe_tower("hf-hub:nobody/nothing")
    assert seen == [False, True] and not constants.HF_HUB_OFFLINE


def test_a_gelu_tower_is_never_computed_with_quick_gelu():
    model = build("ViT-B-16")
    assert not isinstance(model, CLIP)
    with pytest.raises(ConfigError, match="MODEL.BACKBONE is clip, but ViT.*set it to auto"):
        build_temporal_clip(model.state_dict(), backbone="clip", tower=model.tower, where="ViT")
    assert isinstance(build_backbone("ViT-B-16-quickgelu", overrides=SMALL), CLIP)
