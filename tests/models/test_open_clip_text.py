"""Text towers of open_clip's families, with and without the columns that reach no feature."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.open_clip_names import read_config
from openvclip.clip.tokenizer import tokenize
from openvclip.clip.tower_spec import describe_config
from openvclip.models.backbone.open_clip import OpenCLIP
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.live_classifier import ClassTexts, LiveClassifier
from openvclip.utils.errors import ConfigError
from openvclip.utils.torchvision_ops import import_torchvision

END = 49407
# Name of a model, and whether its text tower is causal.
FAMILIES = [
    ("ViT-B-16", True), ("PE-Core-B-16", True), ("MobileCLIP-B", True), ("EVA02-B-16", True),
    ("ViT-H-14-worldwide", True), ("ViT-B-16-SigLIP2", False), ("MobileCLIP2-S0", False),
    ("coca_ViT-B-32", False), ("ViT-L-14-CLIPA", False),
]


def build(name):
    """A tiny model of open_clip, the towers that take it over, and the settings of its texts."""
    import_torchvision()
    import open_clip

    config = read_config(name)
    config["text_cfg"].update(layers=2, width=64, heads=2, vocab_size=END + 1)
    config.update(embed_dim=16, vision_cfg={
        "layers": 1, "width": 64, "patch_size": 16, "image_size": 32})
    tower = describe_config(config, {}, source=name, name=name)
    custom = config.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
        config["multimodal_cfg"].update(layers=1, width=64, heads=2)
    torch.manual_seed(0)
    model = kind(**config).eval()
    return model, OpenCLIP(model, tower).eval(), config["text_cfg"]


@pytest.mark.parametrize(("name", "causal"), FAMILIES)
def test_features_are_open_clips(name, causal):
    model, towers, text = build(name)
    tokens = tokenize(["a photo of archery", "golf"], text.get("context_length", 77))
    if text.get("pool_type") == "eos":
        tokens[tokens == END] = text["eos_id"]
    with torch.no_grad():
        ours, theirs = towers.encode_text(tokens), model.encode_text(tokens, normalize=False)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    columns = tokens.shape[1]
    assert towers.count_columns(tokens).tolist() == ([6, 3] if causal else [columns, columns])


def test_a_causal_tower_computes_no_column_after_the_last_end():
    model, towers, _ = build("PE-Core-B-16")
    seen = []
    model.text.ln_final.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    with torch.no_grad():
        towers.encode_text(tokenize(["a photo of archery", "golf"], 32))
    assert seen == [6]


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "PE-Core-B-16", "coca_ViT-B-32"])
def test_class_texts_train_these_towers_too(name):
    """A classifier made anew has the gradients of the written formula, in chunks."""
    _, towers, text = build(name)
    model = VideoCLIP(towers, 1, torch.zeros(0, 16), train_text=True).double()
    tokens = tokenize(["archery", "a photo of archery", "golf"], text.get("context_length", 77))
    tokens[tokens == END] = text.get("eos_id", END)
    live = LiveClassifier(model, ClassTexts(tokens, torch.tensor([0, 0, 1])), chunk=2)
    torch.manual_seed(1)
    wanted, weight = {}, torch.randn(2, 16).double()
    trained = {n: p for n, p in towers.text_parameters().items() if p.requires_grad}
    features = F.normalize(towers.encode_text(tokens), dim=1)
    classes = F.normalize(torch.stack([features[:2].mean(dim=0), features[2]]), dim=1)
    gradients = torch.autograd.grad((classes * weight).sum(), list(trained.values()))
    wanted = dict(zip(trained, gradients, strict=True))
    total = (live.start() * weight).sum()
    torch.testing.assert_close(total, (classes * weight).sum())
    (total + live.finish(total)).backward()
    for key, gradient in wanted.items():
        torch.testing.assert_close(trained[key].grad, gradient, msg=key)
    assert sum(bool(gradient.abs().max() > 0) for gradient in gradients) > 5


def test_these_towers_have_no_prompts():
    with pytest.raises(ConfigError, match="PE-Core-B-16.* cannot have prompts"):
        build("PE-Core-B-16")[1].add_prompts(2)
