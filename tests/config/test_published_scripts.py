"""The options of Open-VCLIP's and FROSTER's published scripts mean here what they say there."""

from __future__ import annotations

import pytest

from openvclip.config import load_cfg, upstream
from openvclip.config.defaults import flatten
from openvclip.config.parser import parse_args
from openvclip.config.values import parse_text
from openvclip.utils.errors import ConfigError
from tests.published_scripts import CONFIGS, fill_in, read_scripts

FAMILIES = {family: read_scripts(family) for family in ("openvclip", "froster")}
# What a user fills in; paths that do not exist here, as a config is checked without files.
PATHS = {
    "DATA.PATH_TO_DATA_DIR": "/lists", "DATA.PATH_PREFIX": "/videos",
    "DATA.INDEX_LABEL_MAPPING_FILE": "/map.json", "OUTPUT_DIR": "/out",
    "TRAIN.CLIP_ORI_PATH": "~/.cache/clip/ViT-B-16.pt", "TEST.CLIP_ORI_PATH": "/clip.pt",
    "TEST.CUSTOM_LOAD_FILE": "/swa_2_22.pth", "MODEL.NUM_CLASSES": 50,
    "TRAIN_FILE": "train_2.csv", "VAL_FILE": "val_base.csv", "TEST_FILE": "val.csv",
}


def load(cfg: str, pairs: list[tuple[str, str]]):
    args = parse_args(["--cfg", str(CONFIGS / cfg), "--opts", *fill_in(pairs, PATHS)])
    return load_cfg(args.cfg_file, args.opts)


def test_all_scripts_are_there() -> None:
    assert {family: len(scripts) for family, scripts in FAMILIES.items()} == {
        "openvclip": 18, "froster": 15}
    keys = {key for scripts in FAMILIES.values() for _, pairs in scripts.values()
            for key, _ in pairs}
    assert len(keys) == 48 and {"TRAIN_FILE", "TRAIN.ZS_CONS", "--num_shards"} <= keys


@pytest.mark.parametrize(("family", "name"), [
    (family, name) for family, scripts in FAMILIES.items() for name in scripts])
def test_options_have_the_values_that_the_script_gives(family: str, name: str) -> None:
    cfg, pairs = FAMILIES[family][name]
    found = flatten(load(cfg, pairs))
    for key, text in pairs:
        value = PATHS[key] if text in ("PATH", "NUMBER") else parse_text(text)
        if key == "--num_shards":
            assert found["NUM_SHARDS"] == 1
        elif key in found:
            assert found[key] == value, key
        else:
            assert upstream.OFF[key] == value, key
    if "interpolation" in name or "ratio0.5" in name:
        assert found["TRAIN.LINEAR_CONNECT_CLIMB"] and not found["MODEL.RAW_MODEL_DISTILLATION"]
    if family == "froster" and "train_clip" in name:
        assert not found["TRAIN.LINEAR_CONNECT_CLIMB"] and found["MODEL.RAW_MODEL_DISTILLATION"]


@pytest.mark.parametrize(("typed", "said"), [
    # The end of a comment, and a flag's number without its flag.
    (["TEST.UPDATE_STATE", "can"], "--opts: TEST.UPDATE_STATE is 'can' (str); "),
    (["1", "DATA.PATH_TO_DATA_DIR"], "--opts: 1 ('DATA.PATH_TO_DATA_DIR') is not a known key"),
    (["MODEL.NUM_CLASSES", "PATH"], "--opts: MODEL.NUM_CLASSES is 'PATH' (str); "),
])
def test_what_is_no_option_has_a_line_of_its_own(typed: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_cfg(None, typed)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_lists_without_a_name_keep_the_old_ones() -> None:
    cfg = load_cfg(None, ["TRAIN_FILE", "mine/train.csv"])
    assert (cfg.TRAIN_FILE, cfg.VAL_FILE, cfg.TEST_FILE) == (
        "mine/train.csv", "val.csv", "test.csv")
    for key in ("TRAIN_FILE", "VAL_FILE", "TEST_FILE"):
        with pytest.raises(ConfigError, match=f"{key} is empty"):
            load_cfg(None, [key, ""])
    with pytest.raises(ConfigError, match="TEST_FILE is 'a.csv'; TEST.OPENSET True reads"):
        load_cfg(None, ["TEST.OPENSET", "True", "TEST_FILE", "a.csv"])
