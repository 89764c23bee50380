"""EXTENSIONS: imported where the user names them, refused where a file of weights does."""

from __future__ import annotations

import importlib
import sys
import uuid

import pytest
import torch

from openvclip.checkpoints import export, training_config
from openvclip.checkpoints.files import save_file
from openvclip.checkpoints.loading import load_weights
from openvclip.config import defaults, get_cfg, load_cfg, load_opts, validate, values
from openvclip.config.doors import BACKBONES
from openvclip.predict.input_spec import find_input_spec
from openvclip.utils.errors import CheckpointError, ConfigError

MODULE = """
from pathlib import Path
from openvclip.config import declare
Path(__file__).with_suffix(".trace").touch()
declare({"TRAIN.%(key)s.WEIGHT": 0.5, "TRAIN.%(key)s.LAYERS": []},
        types={"TRAIN.%(key)s.LAYERS": int}, ranges={"TRAIN.%(key)s.WEIGHT": (0, 1)})
"""


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What is declared here does not outlast a test."""
    monkeypatch.setattr(defaults, "_C", defaults._C.clone())
    yield
    for table in (validate.RANGES, values.ELEMENTS):
        for key in [key for key in table if "EXTENSION_" in key]:
            del table[key]


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Name and path of a module that leaves a trace when it is imported, and its section."""
    name = f"extension_{uuid.uuid4().hex}"
    folder = tmp_path / "python"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    path = folder / f"{name}.py"
    path.write_text(MODULE % {"key": name.upper()})
    yield name, path.with_suffix(".trace"), f"TRAIN.{name.upper()}"
    sys.modules.pop(name, None)


def test_it_is_imported_before_the_config_is_checked(extension):
    name, trace, section = extension
    opts = ["EXTENSIONS", f'["{name}"]', f"{section}.WEIGHT", "0.25", f"{section}.LAYERS", "[1,2]"]
    cfg = load_cfg(None, opts)
    assert trace.exists() and cfg.EXTENSIONS == [name]
    assert cfg.TRAIN[name.upper()].WEIGHT == 0.25 and cfg.TRAIN[name.upper()].LAYERS == [1, 2]
    with pytest.raises(ConfigError, match=rf"{section}.WEIGHT is 2.0; it must be in \[0, 1\]"):
        load_cfg(None, [*opts, f"{section}.WEIGHT", "2.0"])


def test_a_file_of_settings_may_name_it(extension, tmp_path):
    name, trace, section = extension
    path = tmp_path / "own.yaml"
    path.write_text(f"EXTENSIONS: [{name}]\n{section.replace('.', ': {')}: {{WEIGHT: 0.125}}}}\n")
    cfg = load_cfg(path)
    assert trace.exists() and cfg.TRAIN[name.upper()].WEIGHT == 0.125
    path.write_text(cfg.dump())
    assert load_cfg(path).dump() == cfg.dump()


def test_the_command_line_replaces_the_files_list(extension, tmp_path):
    name, trace, _ = extension
    path = tmp_path / "own.yaml"
    path.write_text(f"EXTENSIONS: [{name}]\n")
    assert load_cfg(path, ["EXTENSIONS", "[]"]).EXTENSIONS == [] and not trace.exists()


@pytest.mark.parametrize(("named", "said"), [
    ('["no_such_package.loss"]', r"EXTENSIONS no_such_package.loss cannot be imported: "
                                 r"ModuleNotFoundError: No module named 'no_such_package'; i"),
    ('[".relative"]', "EXTENSIONS .relative cannot be imported: TypeError"),
    ("my_package", r"EXTENSIONS is 'my_package'; give a list of modules"),
    ("[1]", r"EXTENSIONS is \[1\]; give a list of modules"),
])
def test_what_cannot_be_imported_is_said_in_a_line(named, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_cfg(None, ["EXTENSIONS", named])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "default", "said"), [
    ("TRAIN.BATCH_SIZE", 8, "exists with 64"), ("TRAIN.BATCH_SIZE.HALF", 8, "is a setting"),
    ("TRAIN", 8, "the name of a section"), ("TRAIN.NEW", {"a": 1}, "has a dict as its default"),
])
def test_keys_that_cannot_be_declared(extension, key, default, said):
    name, trace, _ = extension
    trace.with_suffix(".py").write_text(
        f"from openvclip.config import declare\ndeclare({{{key!r}: {default!r}}})\n")
    before = get_cfg()
    with pytest.raises(ConfigError, match=f"EXTENSIONS {name}: the key {key} .*{said}"):
        load_cfg(None, ["EXTENSIONS", f'["{name}"]'])
    assert get_cfg() == before


def test_tools_take_extensions_and_their_keys_only(extension):
    name, _, section = extension
    named = ["EXTENSIONS", f'["{name}"]']
    assert load_opts([*named, f"{section}.WEIGHT", "0.25"]).TRAIN[name.upper()].WEIGHT == 0.25
    with pytest.raises(ConfigError, match="--opts: TRAIN.BATCH_SIZE has no effect here"):
        load_opts([*named, "TRAIN.BATCH_SIZE", "8"])


@pytest.mark.parametrize("read", [
    lambda path: find_input_spec(path),
    lambda path: export.read_temporal_settings(path),
    lambda path: training_config.find_overlap(path, ["/a.mp4"], ""),
    lambda path: load_weights(None, path),
], ids=["predict", "export", "overlap", "load"])
def test_a_checkpoint_that_names_one_is_refused_until_the_user_does(extension, tmp_path, read):
    name, trace, _ = extension
    path = tmp_path / "weights.pth"
    save_file(path, {"model_state": {"x": torch.zeros(1)}, "cfg": f"EXTENSIONS: [{name}]\n"})
    with pytest.raises(ConfigError, match=rf"{path} names EXTENSIONS {name}; give EXTENSIONS "
                                          "yourself with --opts if you trust it"):
        read(path)
    assert not trace.exists() and name not in sys.modules
    load_cfg(None, ["EXTENSIONS", f'["{name}"]'])
    try:
        read(path)
    except Exception as error:  # what else is wrong with the file is another matter
        assert "EXTENSIONS" not in str(error)


def test_the_config_of_a_training_beside_the_weights_is_held_to_it_too(extension, tmp_path):
    name, trace, _ = extension
    (tmp_path / "config.yaml").write_text(f"EXTENSIONS: [{name}]\nTRAIN: {{ENABLE: true}}\n")
    save_file(tmp_path / "weights.pth", {"model_state": {"x": torch.zeros(1)}})
    for read in (find_input_spec, training_config.find_training):
        with pytest.raises(ConfigError, match=f"names EXTENSIONS {name}; give EXTENSIONS"):
            read(tmp_path / "weights.pth")
    assert not trace.exists()


def test_predictions_take_the_backbone_of_the_training_and_exports_refuse_it(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES._entries, "own", "no_such_module:Towers")
    path = tmp_path / "weights.pth"
    kept = {key: value for key, value in get_cfg().items() if key in ("MODEL", "DATA")}
    kept["MODEL"].BACKBONE = "own"
    text = "".join(f"{key}:\n" + "".join(f"  {line}\n" for line in node.dump().splitlines())
                   for key, node in kept.items())
    save_file(path, {"model_state": {"x": torch.zeros(1)}, "cfg": text})
    assert find_input_spec(path).backbone == "own"
    with pytest.raises(CheckpointError, match="is of the MODEL.BACKBONE 'own', which neither"):
        export.read_temporal_settings(path)
