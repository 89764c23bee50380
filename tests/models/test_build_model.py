from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch

from openvclip.clip.weights import load_state_dict_file
from openvclip.config import get_cfg
from openvclip.config.doors import BACKBONES
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import build_clip_source, build_model, check_arch, load_model_weights
from openvclip.utils.errors import CheckpointError, ConfigError

NAMES = ["abseiling", "brush hair"]
SMALL = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=2,
                   text_width=32, text_layers=1)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(CLIP(SMALL).state_dict(), path)
    return path


@pytest.fixture
def cfg(clip_file, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.NUM_GPUS = 0
    cfg.DATA.NUM_FRAMES = 2
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = 16
    cfg.MODEL.ARCH = "auto"
    cfg.MODEL.NUM_CLASSES = 2
    cfg.MODEL.CLIP_PATH = str(clip_file)
    cfg.MODEL.TEMPORAL_MODELING_TYPE = "expand_temporal_view"
    return cfg


def test_build_logs_and_classifies(cfg, clip_file, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="openvclip")
    model = build_model(cfg, NAMES)
    assert model(torch.randn(3, 3, 2, 16, 16)).shape == (3, 2)
    assert model.model.visual.transformer.resblocks[0].reach == 1
    assert f"CLIP from {clip_file}: 16 px, patch 8, image tower 2 x 64" in caplog.text
    assert "class texts: openvclip28 (28 sentences)" in caplog.text
    assert len(list((tmp_path / "text_cache").iterdir())) == 1


def test_config_reaches_the_model(cfg, tmp_path):
    cfg.MODEL.USE_CHECKPOINT = True
    cfg.MODEL.TEXT_CACHE_DIR = str(tmp_path / "elsewhere")
    cfg.TUNE_HEAD = True
    model = build_model(cfg, NAMES)
    assert model.model.visual.transformer.use_checkpoint
    assert torch.equal(model.head, model.classifier)
    assert (tmp_path / "elsewhere").is_dir()


def test_basic_model_has_no_temporal_type(cfg):
    cfg.MODEL.MODEL_NAME = "BasicClipVideo"
    with pytest.raises(ConfigError, match="BasicClipVideo.*TEMPORAL_MODELING_TYPE.*None"):
        build_model(cfg, NAMES)
    cfg.MODEL.TEMPORAL_MODELING_TYPE = None
    video = torch.randn(1, 3, 2, 16, 16)
    basic = build_model(cfg, NAMES)(video)
    cfg.MODEL.MODEL_NAME = "TemporalClipVideo"
    assert torch.equal(build_model(cfg, NAMES)(video), basic)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("NUM_CLASSES", 400, "MODEL.NUM_CLASSES is 400, but the label map has 2"),
     ("MODEL_NAME", "SlowFast", "MODEL.MODEL_NAME 'SlowFast'.*TemporalClipVideo"),
     ("ARCH", "resnet", "MODEL.ARCH 'resnet' is unknown.*vitb32"),
     ("TEMPORAL_MODELING_TYPE", "shift", "TEMPORAL_MODELING_TYPE 'shift'")],
)
def test_config_errors(cfg, key, value, message):
    cfg.MODEL[key] = value
    with pytest.raises(ConfigError, match=message):
        build_model(cfg, NAMES)


def test_arch_that_contradicts_the_weights(cfg):
    cfg.MODEL.ARCH = "vitb16"
    with pytest.raises(CheckpointError, match=r"MODEL.ARCH vitb16 .*\(16, 768, 224\).*\(8, 64, 16"):
        build_model(cfg, NAMES)
    with torch.device("meta"):
        large = CLIP(CLIPConfig(768, 336, 14, 1024, 1, 768, 1))
    check_arch("vitl14_336", large, "file")
    with pytest.raises(CheckpointError, match="MODEL.ARCH vitl14 "):
        check_arch("vitl14", large, "file")


def test_where_clip_comes_from(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg.TRAIN.CLIP_ORI_PATH, cfg.TEST.CLIP_ORI_PATH = "train.pt", "test.pt"
    assert build_clip_source(cfg) == cfg.MODEL.CLIP_PATH
    cfg.MODEL.CLIP_PATH = ""
    assert build_clip_source(cfg) == "train.pt"
    cfg.TRAIN.CLIP_ORI_PATH = None
    assert build_clip_source(cfg) == "test.pt"
    cfg.TEST.CLIP_ORI_PATH = None
    with pytest.raises(ConfigError, match="MODEL.CLIP_PATH is empty and MODEL.ARCH 'auto'"):
        build_clip_source(cfg)
    cfg.MODEL.ARCH = "vitb16"
    with pytest.raises(CheckpointError, match="ViT-B-16.pt.*does not exist.*set MODEL.CLIP_PATH"):
        build_clip_source(cfg)
    path = tmp_path / ".cache/clip/ViT-B-16.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert build_clip_source(cfg) == str(path)


def test_missing_clip_file(cfg, tmp_path):
    cfg.MODEL.CLIP_PATH = str(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="none.pt does not exist"):
        build_model(cfg, NAMES)


@pytest.mark.parametrize("temporal_type", ["expand_temporal_view", "stadapt_zeroinit"])
def test_weights_round_trip_through_a_checkpoint(cfg, tmp_path, temporal_type):
    cfg.MODEL.TEMPORAL_MODELING_TYPE = temporal_type
    trained, other = build_model(cfg, NAMES), build_model(cfg, NAMES)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save({"model_state": trained.state_dict()}, tmp_path / "a.pyth")
    load_model_weights(other, load_state_dict_file(tmp_path / "a.pyth"), "a.pyth")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert torch.equal(trained.classifier, other.classifier)
    load_model_weights(other, trained.state_dict(), "with prefix")


def test_original_clip_leaves_adapters_and_head_alone(cfg, clip_file):
    cfg.MODEL.TEMPORAL_MODELING_TYPE = "cross_frame_attend"
    cfg.TUNE_HEAD = True
    model = build_model(cfg, NAMES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    original = {n: t.half() + 1 for n, t in load_state_dict_file(clip_file).items()}
    load_model_weights(model, original, "clip.pt")
    for name, tensor in model.state_dict().items():
        kept = ".message_" in name or name == "head"
        assert torch.equal(tensor, before[name]) == kept, name
        assert tensor.dtype == torch.float32


def test_weights_that_do_not_fit(cfg):
    model = build_model(cfg, NAMES)
    state = model.state_dict()
    del state["model.visual.proj"]
    state["model.visual.ln_post.bias"] = torch.zeros(3)
    state["head"] = torch.zeros(2, 16)
    with pytest.raises(CheckpointError) as caught:
        load_model_weights(model, state, "a.pyth")
    text = str(caught.value)
    assert "a.pyth does not fit" in text and "1 missing: model.visual.proj" in text
    assert "1 unexpected: head" in text and "TUNE_HEAD" in text
    assert "1 of another shape: model.visual.ln_post.bias (3,) instead of (64,)" in text
    cfg.MODEL.TEMPORAL_MODELING_TYPE = "stadapt_zeroinit"
    adapted = build_model(cfg, NAMES).state_dict()
    with pytest.raises(CheckpointError, match="12 unexpected: .*stadapt"):
        load_model_weights(model, adapted, "adapted.pyth")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_a_compiled_tower_gives_the_same_logits_and_gradients(cfg, use_checkpoint):
    cfg.MODEL.USE_CHECKPOINT = use_checkpoint
    plain = build_model(cfg, NAMES).train()
    cfg.MODEL.COMPILE = True
    compiled = build_model(cfg, NAMES).train()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    found = []
    for model in (plain, compiled):
        torch.manual_seed(4)
        logits = model(torch.randn(2, 3, 2, 16, 16))
        logits.square().sum().backward()
        found.append((logits.detach(), [p.grad for p in model.model.visual.parameters()]))
    torch.testing.assert_close(found[1][0], found[0][0])
    for ours, theirs in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_compiling_is_refused_where_it_does_not_work(tmp_path):
    code = "from openvclip.models.build import check_compiler; check_compiler('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
    )
    assert "ConfigError: MODEL.COMPILE is True, but torch.compile does not work" in done.stderr
    assert done.stderr.strip().endswith("set MODEL.COMPILE False")


def test_a_backbone_of_ones_own_is_built_and_described(cfg, monkeypatch, caplog):
    class Gelu(CLIP):
        def __init__(self, *args):
            super().__init__(*args)
            for block in (*self.vision_blocks(), *self.transformer.resblocks):
                block.mlp.gelu = torch.nn.GELU()

        def describe(self):
            return "with GELU"

    monkeypatch.setitem(BACKBONES._entries, "gelu", Gelu)
    caplog.set_level("INFO", logger="openvclip")
    plain = build_model(cfg, NAMES)
    cfg.MODEL.BACKBONE, cfg.MODEL.ARCH = "gelu", "auto"
    own = build_model(cfg, NAMES)
    assert type(own.model) is Gelu and "with GELU; temporal type" in caplog.text
    assert not torch.equal(own.classifier, plain.classifier)
    images = torch.randn(8, 3, own.model.image_size, own.model.image_size)
    assert not torch.equal(own.model.encode_image(images), plain.model.encode_image(images))
    cfg.MODEL.BACKBONE = "clop"
    with pytest.raises(ConfigError, match="MODEL.BACKBONE 'clop' is unknown; .*nearest: clip"):
        build_model(cfg, NAMES)
