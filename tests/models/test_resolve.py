"""auto in a config becomes what the towers say of their input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from openvclip.clip.towers import describe_tower
from openvclip.config import load_cfg
from openvclip.config.auto import KEYS, find_auto
from openvclip.models.resolve import build_resolved
from openvclip.utils.errors import ConfigError

AUTO = [word for key in KEYS for word in (key, "auto")]


def resolve(name, *opts):
    return build_resolved(load_cfg(None, ["MODEL.CLIP_PATH", name, *AUTO, *opts]))


def test_siglips_input_is_squashed_and_of_its_own_size():
    cfg = resolve("ViT-B-16-SigLIP2-256/webli", "TEST.NUM_SPATIAL_CROPS", "1")
    data = cfg.DATA
    assert (data.MEAN, data.STD) == ([0.5] * 3, [0.5] * 3)
    assert (data.TRAIN_CROP_SIZE, data.TEST_CROP_SIZE) == (256, 256)
    assert data.TRAIN_JITTER_SCALES == [256, 293]
    assert (data.RESIZE_MODE, data.INTERPOLATION, data.FILL_COLOR) == ("squash", "bicubic", 0)
    assert cfg.MODEL.CONTEXT_LENGTH == 64
    assert cfg.is_frozen() and not find_auto(cfg)
    stored = yaml.safe_load(cfg.dump())  # what config.yaml shows
    assert stored["DATA"]["TRAIN_CROP_SIZE"] == 256 and stored["DATA"]["MEAN"] == [0.5] * 3


def test_a_crop_that_the_user_gives_is_left_alone_and_must_fit():
    cfg = resolve("ViT-B-16-SigLIP2/webli", "TEST.NUM_SPATIAL_CROPS", "1",
                  "DATA.RESIZE_MODE", "shortest", "DATA.TRAIN_JITTER_SCALES", "[224, 320]")
    assert cfg.DATA.RESIZE_MODE == "shortest" and cfg.DATA.TRAIN_JITTER_SCALES == [224, 320]
    with pytest.raises(ConfigError, match=r"NUM_SPATIAL_CROPS is 3; with DATA.RESIZE_MODE squash"):
        resolve("ViT-B-16-SigLIP2/webli")


def test_without_auto_a_config_stays_as_it_is():
    cfg = load_cfg(None, ["MODEL.CLIP_PATH", "no such tower"])
    assert build_resolved(cfg) is cfg


def test_padding_and_filters_follow_open_clips_names(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 48}, "text_cfg": {}},
        "preprocess_cfg": {"resize_mode": "longest", "fill_color": 90, "interpolation": "bilinear",
                           "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }))
    cfg = resolve(str(tmp_path), "TEST.NUM_SPATIAL_CROPS", "1")
    data = cfg.DATA
    assert (data.RESIZE_MODE, data.INTERPOLATION) == ("longest", "bilinear_antialias")
    assert (data.FILL_COLOR, data.TRAIN_JITTER_SCALES, data.MEAN) == (90, [48, 55], [0.1, 0.2, 0.3])
    assert cfg.MODEL.CONTEXT_LENGTH == 77
    tower = describe_tower(str(tmp_path))
    for change, said in (({"size": (48, 64)}, "48x64"), ({"interpolation": "nearest"}, "nearest")):
        wrong = replace(tower, preprocess=replace(tower.preprocess, **change))
        with pytest.raises(ConfigError, match=said):
            build_resolved(load_cfg(None, AUTO), wrong)
