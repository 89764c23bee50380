"""Text towers of open_clip's families, with and without the columns that reach no feature."""

from __future__ import annotations

import pytest
import torch

from openvclip.clip.open_clip_names import read_config
from openvclip.clip.tokenizer import tokenize
from openvclip.clip.tower_spec import describe_config
from openvclip.models.backbone.open_clip import OpenCLIP
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
