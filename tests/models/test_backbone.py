from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.tokenizer import tokenize
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.layers import Attention, LayerNorm, num_heads
from openvclip.utils.errors import CheckpointError, DataError

SMALL = CLIPConfig(embed_dim=32, image_size=32, patch_size=8, vision_width=96, vision_layers=2,
                   text_width=64, text_layers=2)


def small_clip(seed: int = 0, **kwargs) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(SMALL, **kwargs)


# Embedding, image size, patch, image width and layers, text width; heads are width / 64.
OPENAI = {
    "ViT-B/32": CLIPConfig(512, 224, 32, 768, 12, 512, 12),
    "ViT-B/16": CLIPConfig(512, 224, 16, 768, 12, 512, 12),
    "ViT-L/14": CLIPConfig(768, 224, 14, 1024, 24, 768, 12),
    "ViT-L/14@336px": CLIPConfig(768, 336, 14, 1024, 24, 768, 12),
}


@pytest.mark.parametrize("name", OPENAI)
def test_sizes_are_read_from_the_shapes(name):
    with torch.device("meta"):
        model = CLIP(OPENAI[name])
    assert CLIPConfig.from_state_dict(model.state_dict()) == OPENAI[name]
    attention = model.visual.transformer.resblocks[0].attn
    assert attention.heads == OPENAI[name].vision_width // 64


def test_parameter_count_of_vit_b_16_is_openai_s():
    with torch.device("meta"):
        model = CLIP(OPENAI["ViT-B/16"])
    assert sum(p.numel() for p in model.parameters()) == 149_620_737


def test_heads():
    assert [num_heads(w) for w in (32, 64, 96, 128, 768, 1024)] == [1, 1, 1, 2, 12, 16]
    with pytest.raises(ValueError, match="width 200 gives 3 heads"):
        num_heads(200)


def test_state_dict_round_trip_freezes_text_and_copies():
    source = small_clip()
    state = source.state_dict()
    kept = copy.deepcopy(state)
    model = CLIP.from_state_dict(state)
    assert list(model.state_dict()) == list(state)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n in state if n.startswith("visual.") or n == "logit_scale"}
    assert all(p.requires_grad for p in source.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_fp16_weights_become_fp32():
    state = {name: tensor.half() for name, tensor in small_clip().state_dict().items()}
    model = CLIP.from_state_dict(state)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), "1 missing: visual.ln_post.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"visual.ln_pre.bias": torch.zeros(3)}),
         r"1 of another shape: visual.ln_pre.bias \(3,\) instead of \(96,\)"),
        (lambda s: s.pop("visual.proj"), r"not a CLIP.*1 of the 8.*visual.proj"),
        (lambda s: s.update({"visual.positional_embedding": torch.zeros(16, 96)}),
         "16 positions"),
        (lambda s: s.update({"visual.conv1.weight": torch.zeros(200, 3, 8, 8)}),
         "width 200 gives 3 heads"),
        (lambda s: s.update({"visual.layer1.0.conv1.weight": torch.zeros(1)}), "ResNet"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("visual.transformer")],
         "no transformer blocks"),
    ],
)
def test_state_dicts_that_do_not_fit(change, message):
    state = dict(small_clip().state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=message):
        CLIP.from_state_dict(state, where="weights.pt")


def test_many_wrong_keys_are_counted_and_five_named():
    state = {name: tensor for name, tensor in small_clip().state_dict().items()
             if ".mlp." not in name}
    with pytest.raises(CheckpointError, match=r"16 missing: (\S+, ){5}\.\.\."):
        CLIP.from_state_dict(state)


def test_text_truncation_is_exact(tiny_clip_state):
    model = CLIP.from_state_dict(tiny_clip_state)
    tokens = tokenize(["a photo of abseiling.", "a video of a person doing brush hair."])
    truncated = model.encode_text(tokens)
    # The same with all 77 columns, written out.
    x = model.token_embedding(tokens) + model.positional_embedding
    x = model.ln_final(model.transformer(x))
    full = x[torch.arange(2), tokens.argmax(-1)] @ model.text_projection
    torch.testing.assert_close(truncated, full, atol=1e-5, rtol=0)


def test_text_beyond_the_tower_s_context():
    config = CLIPConfig(16, 16, 8, 32, 1, 32, 1, context_length=8)
    model = CLIP(config)
    assert model.encode_text(tokenize(["brush hair"])).shape == (1, 16)
    with pytest.raises(DataError, match="12 tokens.*context length is 8"):
        model.encode_text(tokenize(["a b c d e f g h i j"]))


def test_checkpointing_gives_the_same_gradients():
    torch.manual_seed(1)
    images = torch.randn(3, 3, 32, 32)
    plain, saving = small_clip(use_checkpoint=False), small_clip(use_checkpoint=True)
    calls = []
    for model in (plain, saving):
        model.visual.transformer.resblocks[0].register_forward_pre_hook(
            lambda *_, model=model: calls.append(model)
        )
        model.encode_image(images).square().sum().backward()
    assert calls.count(plain) == 1 and calls.count(saving) == 2  # once more in the backward pass
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None and not name.startswith("visual.")
        else:
            torch.testing.assert_close(a.grad, b.grad, atol=0, rtol=0)


def test_attention_equals_torch_s():
    torch.manual_seed(0)
    ours, theirs = Attention(128), torch.nn.MultiheadAttention(128, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 7, 128)
    expected = theirs(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_layer_norm_computes_in_fp32():
    norm = LayerNorm(64)
    x = 100 + torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.layer_norm(x.float(), (64,)).bfloat16())
    assert norm.bfloat16()(x).dtype == torch.bfloat16


def test_new_model_has_openai_s_initial_spread():
    model = small_clip()
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.visual.proj.std().item() == pytest.approx(96**-0.5, rel=0.05)
    assert all(p.isfinite().all() for p in model.parameters())


def test_features_equal_open_clip_s():
    """An independent implementation with the same weights gives the same features."""
    from openvclip.utils.torchvision_ops import import_torchvision

    import_torchvision()
    import open_clip

    torch.manual_seed(0)
    other = open_clip.create_model("ViT-S-32-alt", pretrained=None, force_quick_gelu=True).eval()
    model = CLIP.from_state_dict(other.state_dict())
    images = torch.randn(2, 3, 224, 224)
    tokens = tokenize(["a photo of abseiling.", "a video of a person doing brush hair."])
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(images), other.encode_image(images), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            model.encode_text(tokens), other.encode_text(tokens), atol=1e-5, rtol=1e-4)
