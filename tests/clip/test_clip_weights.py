from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from openvclip.clip import open_clip_names, weights
from openvclip.clip.weights import check_keys, default_clip_path, load_clip, load_state_dict_file
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.utils.errors import CheckpointError

CONFIG = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=32, vision_layers=1,
                    text_width=32, text_layers=1, vocab_size=64)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    # Rounded to fp16, so that archives in half precision hold the same numbers.
    return {name: tensor.half().float() for name, tensor in CLIP(CONFIG).state_dict().items()}


class Box(nn.Module):
    """A module that scripts, to hold tensors under any names."""

    def forward(self) -> int:
        return 0


def save_archive(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a TorchScript archive as OpenAI's: fp16 weights and three numbers beside them."""
    root = Box()
    for name, tensor in state.items():
        *parents, last = name.split(".")
        box = root
        for parent in parents:
            if not hasattr(box, parent):
                box.add_module(parent, Box())
            box = getattr(box, parent)
        tensor = tensor.float() if "ln_" in name else tensor.half()
        box.register_parameter(last, nn.Parameter(tensor))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(1))
    torch.jit.script(root).save(str(path))


def save_pyth(prefix: str):
    def save(state, path):
        content = {"epoch": 3, "cfg": "NUM_GPUS: 8\n", "optimizer_state": {"state": {}},
                   "model_state": {prefix + name: tensor for name, tensor in state.items()}}
        torch.save(content, path)
    return save


FORMATS = {
    "archive.pt": save_archive,
    "plain.pt": torch.save,
    "half.pt": lambda s, p: torch.save({n: t.half() for n, t in s.items()}, p),
    "old_format.pt": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "epoch.pyth": save_pyth("model."),
    "ddp.pyth": save_pyth("module.model."),
    "ddp_plain.pyth": save_pyth("module."),
    "weights.safetensors": save_file,
    "state_dict.pth": lambda s, p: torch.save({"state_dict": s}, p),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, state, tmp_path):
    FORMATS[name](state, tmp_path / name)
    loaded = load_clip(tmp_path / name)
    assert set(loaded) == set(state)
    for key, tensor in loaded.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[key]), key
    CLIP.from_state_dict(loaded)


def test_openai_like_archive(shared, tiny_clip_state):
    loaded = load_clip(shared / "golden" / "tiny_clip_jit_fp16.pt")
    del loaded["token_embedding.weight"]  # the copy in this repository has some rows only
    assert all(torch.equal(tensor, tiny_clip_state[name]) for name, tensor in loaded.items())
    assert len(loaded) == len(tiny_clip_state) - 1


def test_state_dict_file_keeps_dtype_and_extra_parameters(state, tmp_path):
    path = tmp_path / "a.pyth"
    half = {f"model.{n}": t.half() for n, t in state.items()}
    torch.save({"model_state": {**half, "head": torch.zeros(2)}}, path)
    loaded = load_state_dict_file(path)
    assert "head" in loaded and set(loaded) == {*state, "head"}
    assert loaded["visual.proj"].dtype == torch.float16


class Payload:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(state, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pyth"
    torch.save({"model_state": state, "extra": Payload(marker)}, path)
    with pytest.raises(CheckpointError, match="evil.pyth holds Python objects.*tensors only"):
        load_clip(path)
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(CheckpointError, match="evil.pyth"):
        load_clip(path)
    assert not marker.exists()


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(CheckpointError, match="none.pt does not exist"):
        load_clip(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_clip(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match=r"empty.pt is empty \(0 bytes\)"):
        load_clip(tmp_path / "empty.pt")


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, state, tmp_path):
    path = tmp_path / name
    FORMATS[name](state, path)
    content = path.read_bytes()
    random = torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0))
    for damaged in (content[: len(content) // 2], content[:30],
                    bytes(random.tolist()), b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name} .*cannot be read: it is damaged"):
            load_clip(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds no tensors by name.*found list"),
        ({"epoch": 1, "model_state": {}}, "holds no tensors by name"),
        ({"fc.weight": torch.zeros(2, 2)}, "is not a CLIP.*8 of the 8.*fc.weight"),
        ({"model.a": torch.zeros(1), "a": torch.zeros(1)}, "a twice"),
    ],
)
def test_files_without_a_clip(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_clip(tmp_path / "other.pt")


def test_size_tensor_of_wrong_rank(state, tmp_path):
    torch.save({**state, "visual.proj": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"1 tensors have impossible.*visual.proj \(3,\)"):
        load_clip(tmp_path / "a.pt")


def test_check_keys_counts_each_kind():
    expected = {f"w{i}": (2,) for i in range(8)} | {"shape": (1, 2), "adapter": (1,)}
    found = {"shape": (2, 1), "new": (1,)}
    with pytest.raises(CheckpointError) as caught:
        check_keys(expected, found, "file.pt", allow_missing=lambda name: name == "adapter")
    text = str(caught.value)
    assert "file.pt does not fit the model (10 tensors)" in text
    assert "8 missing: w0, w1, w2, w3, w4, ..." in text
    assert "1 unexpected: new" in text
    assert "1 of another shape: shape (2, 1) instead of (1, 2)" in text
    check_keys(expected, dict(expected), "file.pt")


def test_default_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_clip_path("vitb16") == tmp_path / ".cache/clip/ViT-B-16.pt"
    assert default_clip_path("vitl14_336").name == "ViT-L-14-336px.pt"
    with pytest.raises(CheckpointError, match="'auto' has no default.*vitb32"):
        default_clip_path("auto")


# ---- names of open_clip --------------------------------------------------------------------------

OTHERS = {
    "RN50": "ResNet",
    "convnext_base": "timm's convnext_base",
    "ViT-B-16-SigLIP": "timm's",
    "roberta-ViT-B-32": "Hugging Face's roberta-base",
    "coca_ViT-B-32": "multimodal_cfg",
    "ViT-H-14": "80 channels instead of 64",
    "ViT-L-14-CLIPA": "text_cfg",
    "ViT-e-14": "112 channels",
}


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_towers_are_told_from_openai_s(name):
    assert OTHERS[name] in open_clip_names.why_refused(open_clip_names.read_config(name))


def test_typo_gets_the_nearest_name():
    with pytest.raises(CheckpointError, match="neither a file nor a model.*nearest.*ViT-B-16"):
        load_clip("VIT-B16")
    with pytest.raises(CheckpointError, match="nor a model of open_clip. Give"):
        load_clip("zzzzzz")


def test_accepted_names():
    accepted = {name for name, path in open_clip_names.model_configs().items()
                if open_clip_names.why_refused(json.loads(path.read_text())) is None}
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-quickgelu"} <= accepted
    assert not any(word in name for name in accepted for word in ("RN", "SigLIP", "coca", "EVA"))


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """Stands for the hub; records what was asked for instead of downloading."""
    open_clip = open_clip_names.import_open_clip()
    asked = []
    state = CLIP(CLIPConfig(16, 16, 8, 32, 1, 512, 1, vocab_size=64)).state_dict()

    def download(settings):
        asked.append(settings["hf_hub"])
        if "DFN2B" in settings["hf_hub"]:
            raise OSError("no route to host")
        torch.save(state, tmp_path / "downloaded.bin")
        return str(tmp_path / "downloaded.bin")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", download)
    return asked, state


@pytest.mark.parametrize(
    ("spec", "asked"),
    [("ViT-B-16", "timm/vit_base_patch16_clip_224.openai/"),
     ("ViT-B-16/openai", "timm/vit_base_patch16_clip_224.openai/"),
     ("ViT-B-16:metaclip_400m", "timm/vit_base_patch16_clip_224.metaclip_400m/")],
)
def test_loading_by_name(spec, asked, fake_hub):
    # Positions are resized to the image of the name, as open_clip does it; others are as stored.
    downloads, state = fake_hub
    loaded = load_clip(spec)
    assert downloads == [asked]
    assert loaded["visual.positional_embedding"].shape == (197, 32)
    assert all(torch.equal(loaded[name], state[name]) for name in state
               if name != "visual.positional_embedding")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("ViT-B-16/nope", "no weights 'nope'.*openai, "),
     ("ViT-B-16/dfn2b", "could not load.*no route to host.*give its path")],
)
def test_tags_that_cannot_be_loaded(spec, message, fake_hub):
    with pytest.raises(CheckpointError, match=message):
        load_clip(spec)


def test_a_file_is_preferred_to_a_name(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(state, tmp_path / "ViT-B-16")
    monkeypatch.setattr(weights, "load_open_clip", lambda *_: pytest.fail("asked by name"))
    assert set(load_clip("ViT-B-16")) == set(state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_copy_of_the_original_clip_beside_the_model_is_left_out(state, tmp_path, caplog, prefix):
    caplog.set_level("INFO", logger="openvclip")
    path = tmp_path / "published.pyth"
    both = {f"{prefix}model.{name}": tensor for name, tensor in state.items()}
    both |= {f"{prefix}raw_model.{name}": tensor + 1 for name, tensor in state.items()}
    both[f"{prefix}raw_model.steps"] = torch.tensor(3)  # not even a weight
    torch.save({"model_state": both}, path)
    found = load_state_dict_file(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert f"{len(state) + 1} tensors named raw_model.*, is not used" in caplog.text


def test_frosters_projectors_are_left_out(state, tmp_path, caplog):
    caplog.set_level("INFO", logger="openvclip")
    both = {f"module.model.{name}": tensor for name, tensor in state.items()}
    both |= {f"module.raw_model.{name}": tensor for name, tensor in state.items()}
    both |= {f"module.projector_{x}.{layer}.weight": torch.ones(2, 2)
             for x in "vt" for layer in (0, 2)}
    torch.save({"model_state": both}, tmp_path / "froster.pyth")
    assert load_state_dict_file(tmp_path / "froster.pyth").keys() == state.keys()
    assert f"{len(state)} tensors named raw_model.*, is not used" in caplog.text
    assert "4 tensors named projector_v.* and projector_t.*, is not used" in caplog.text


def test_nothing_but_a_copy_of_the_original_clip_is_refused(state, tmp_path):
    torch.save({f"raw_model.{name}": t for name, t in state.items()}, tmp_path / "raw.pyth")
    with pytest.raises(CheckpointError, match="only tensors named raw_model"):
        load_state_dict_file(tmp_path / "raw.pyth")
