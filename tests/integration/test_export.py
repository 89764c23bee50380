"""tools/export.py: what it writes is loaded again, by this project and by open_clip itself."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest_integration import CLASSES, options, write_tiny_clip
from safetensors import safe_open
from safetensors.torch import load_file

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.export import (
    describe_loading,
    export_model,
    save_archive,
)
from openvclip.checkpoints.loading import load_original_clip, load_weights
from openvclip.clip.open_clip_names import find_name
from openvclip.clip.tokenizer import tokenize
from openvclip.clip.weights import load_clip
from openvclip.config import load_cfg
from openvclip.interpolation import WeightPatcher
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.build import build_model
from openvclip.models.text import class_embeddings
from openvclip.utils.errors import CheckpointError, ConfigError, DataError
from openvclip.utils.torchvision_ops import import_torchvision

FILES = ["openvclip.safetensors", "openvclip-open_clip.pt", "openvclip-open_clip.json",
         "openvclip-classifier.safetensors"]


def train(clip: Path, path: Path, shift: float = 0.02, **extra) -> Path:
    """Write a checkpoint as training does: the image tower moved, the text tower as it was."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name: tensor + shift * torch.randn(tensor.shape, generator=generator)
        if ".visual." in name else tensor
        for name, tensor in load_original_clip(clip).items()
    }
    return ckpt.save_file(path, {"epoch": 0, "model_state": {**state, **extra}, "cfg": (
        "MODEL: {TEMPORAL_MODELING_TYPE: expand_temporal_view}\n"
        "DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, MEAN: [0.5], STD: [0.2]}\n")})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A CLIP, the checkpoint of a training from it, and a label map."""
    root = tmp_path_factory.mktemp("export")
    write_tiny_clip(root / "clip.pt")
    train(root / "clip.pt", ckpt.checkpoint_path(root / "run", 1))
    average_checkpoints(root / "run", start=1, end=1, output=root / "swa.pth")
    names = {str(i): name for i, name in enumerate(CLASSES)}
    (root / "tiny-index2cls.json").write_text(json.dumps(names))
    return root


@pytest.fixture(scope="module")
def exported(root, repo) -> Path:
    """What the tool writes of the averaged weights, patched at 0.3."""
    import subprocess
    import sys

    finished = subprocess.run(
        [sys.executable, str(repo / "tools/export.py"), "--clip", str(root / "clip.pt"),
         "--checkpoint", str(root / "swa.pth"), "--patching-ratio", "0.3",
         "--label-file", str(root / "tiny-index2cls.json"), "--output", str(root / "out")],
        capture_output=True, text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert 'open_clip.create_model("openvclip-open_clip", pretrained=' in finished.stdout
    assert sorted(p.name for p in (root / "out").iterdir()) == sorted(FILES)
    return root / "out"


def build(root: Path, clip: Path, temporal: str | None, weights: Path | None = None):
    cfg = load_cfg(None, options(
        root, root / "run", MODEL__CLIP_PATH=clip, MODEL__TEMPORAL_MODELING_TYPE=temporal))
    model = build_model(cfg, CLASSES).eval()
    if weights is not None:
        load_weights(model, weights)
    return model


@pytest.mark.parametrize("temporal", [None, "expand_temporal_view"])
@torch.no_grad()
def test_what_was_exported_tests_as_the_patched_checkpoint_did(root, exported, temporal):
    clip, written = root / "clip.pt", exported / FILES[0]
    patched = build(root, clip, temporal, root / "swa.pth")
    patcher = WeightPatcher(dict(patched.named_parameters()), load_original_clip(clip))
    patcher.set_ratio(0.3)
    video = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = patched(video)
    assert torch.equal(build(root, written, temporal)(video), wanted)  # MODEL.CLIP_PATH
    assert torch.equal(build(root, clip, temporal, written)(video), wanted)  # CUSTOM_LOAD_FILE
    assert torch.equal(build(root, clip, temporal, exported / FILES[1])(video), wanted)
    assert not torch.equal(build(root, clip, temporal)(video), wanted)


def test_one_content_gives_the_same_bytes_whatever_the_file_is_called(tmp_path):
    paths = [tmp_path / name for name in ("a.pt", "another.pt")]
    for path in paths:
        save_archive({"state_dict": {"x": torch.arange(3.0)}}, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_metadata_says_where_it_came_from(root, exported):
    from openvclip.utils.files import compute_file_hash

    with safe_open(exported / FILES[0], "pt") as file:
        facts = file.metadata()
    assert facts["clip_sha256"] == compute_file_hash(root / "clip.pt")
    assert facts["checkpoint_sha256"] == compute_file_hash(root / "swa.pth")
    assert (facts["patching_ratio"], facts["arch"], facts["dtype"]) == ("0.3", "auto", "fp32")
    assert facts["MODEL.TEMPORAL_MODELING_TYPE"] == "expand_temporal_view"
    assert (facts["DATA.NUM_FRAMES"], facts["DATA.SAMPLING_RATE"]) == ("4", "2")
    assert stat.S_IMODE((exported / FILES[0]).stat().st_mode) == stat.S_IMODE(
        (exported / FILES[2]).stat().st_mode)


def test_the_classifier_is_the_one_that_testing_uses(root, exported):
    content = load_file(exported / FILES[3])
    model = build(root, root / "clip.pt", None)
    assert torch.equal(content["embeddings"], model.classifier)
    with safe_open(exported / FILES[3], "pt") as file:
        facts = file.metadata()
    assert tuple(json.loads(facts["classes"])) == CLASSES
    assert len(json.loads(facts["prompts"])) == 28


@pytest.fixture(scope="module")
def open_clip():
    import_torchvision()
    import open_clip

    return open_clip


def compare(open_clip, model: CLIP, name: str, weights: Path, tolerance: float) -> None:
    theirs = open_clip.create_model(name, pretrained=str(weights), precision="fp32").eval()
    images = torch.randn(3, 3, model.image_size, model.image_size)
    tokens = tokenize(["a video of a red bar", "x", "someone is doing something " * 8])
    with torch.no_grad():
        for ours, other in ((model.encode_image(images), theirs.encode_image(images)),
                            (model.encode_text(tokens), theirs.encode_text(tokens)),
                            (model.logit_scale, theirs.logit_scale)):
            torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)


def test_open_clip_gives_the_same_embeddings(exported, open_clip):
    open_clip.add_model_config(exported / FILES[2])
    model = CLIP.from_state_dict(load_clip(exported / FILES[0]))
    compare(open_clip, model, "openvclip-open_clip", exported / FILES[1], 1e-5)
    # Their names are the same, so open_clip takes the other file, too.
    compare(open_clip, model, "openvclip-open_clip", exported / FILES[0], 1e-5)


def test_open_clip_builds_heads_of_other_widths(tmp_path, open_clip):
    torch.manual_seed(1)
    model = CLIP(CLIPConfig(embed_dim=24, image_size=32, patch_size=8, vision_width=48,
                            vision_layers=2, text_width=128, text_layers=2))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    paths = export_model(tmp_path / "clip.pt", tmp_path, name="narrow", layout="open_clip")
    assert json.loads(paths[1].read_text())["vision_cfg"]["head_width"] == 48
    open_clip.add_model_config(paths[1])
    compare(open_clip, model, "narrow-open_clip", paths[0], 1e-5)


SIZES = {
    "ViT-B-32-quickgelu": (512, 224, 32, 768, 12, 512), "ViT-L-14-quickgelu":
    (768, 224, 14, 1024, 24, 768), "ViT-B-16-quickgelu": (512, 224, 16, 768, 12, 512),
    "ViT-L-14-336-quickgelu": (768, 336, 14, 1024, 24, 768),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_a_name_in_open_clip(name, open_clip, tmp_path):
    embed, image, patch, width, layers, text = SIZES[name]
    config = CLIPConfig(embed, image, patch, width, layers, text, 12)
    assert find_name(config.describe()) == name
    (tmp_path / "m.json").write_text(json.dumps(config.describe()))
    shown = describe_loading([tmp_path / "m.pt", tmp_path / "m.json"])
    assert shown == f'open_clip.create_model("{name}", pretrained="{tmp_path / "m.pt"}")'
    with torch.device("meta"):  # Names and shapes need no weights.
        ours = CLIP(config).state_dict()
        theirs = open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_half_precision_keeps_layer_norm(root, tmp_path, open_clip):
    export_model(root / "clip.pt", tmp_path, checkpoint=root / "swa.pth", dtype="fp16", name="h")
    state = load_file(tmp_path / "h.safetensors")
    assert state["visual.proj"].dtype == state["token_embedding.weight"].dtype == torch.float16
    assert state["visual.ln_pre.weight"].dtype == state["logit_scale"].dtype == torch.float32
    open_clip.add_model_config(tmp_path / "h-open_clip.json")
    model = CLIP.from_state_dict(load_clip(tmp_path / "h.safetensors"))
    compare(open_clip, model, "h-open_clip", tmp_path / "h-open_clip.pt", 1e-5)


def test_plain_clip_comes_out_as_it_went_in(root, tmp_path):
    paths = export_model(root / "clip.pt", tmp_path, layout="openai", labels=["a", "b"])
    assert [p.name for p in paths] == ["openvclip.safetensors", "openvclip-classifier.safetensors"]
    before, after = load_clip(root / "clip.pt"), load_file(paths[0])
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---- what is refused -----------------------------------------------------------------------------

def refuse(root: Path, out: Path, error: type[Exception], match: str, **changes) -> None:
    settings = {"clip": root / "clip.pt", "output": out, "checkpoint": root / "swa.pth", **changes}
    with pytest.raises(error, match=match) as caught:
        export_model(**settings)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not any(out.iterdir())


def test_what_neither_layout_can_hold(root, tmp_path):
    block = "model.visual.transformer.resblocks.0."
    for name, match in ((block + "message_fc.weight", "weights of a temporal variant .*"
                         "visual.transformer.resblocks.0.message_fc.weight"),
                        ("head", "a tuned head")):
        path = train(root / "clip.pt", tmp_path / "own.pth", **{name: torch.zeros(3)})
        refuse(root, tmp_path / "out", CheckpointError, f"own.pth has {match}", checkpoint=path)


def test_damaged_and_missing_weights(root, tmp_path):
    out = tmp_path / "out"
    refuse(root, out, CheckpointError, "none.pth does not exist", checkpoint=tmp_path / "none.pth")
    refuse(root, out, CheckpointError, "none.pt does not exist", clip=tmp_path / "none.pt")
    path = train(root / "clip.pt", tmp_path / "nan.pth", shift=float("nan"))
    refuse(root, out, CheckpointError, "nan.pth holds NaN or infinity in", checkpoint=path)
    whole = (root / "swa.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:1000] + b"x" + whole[1001:])
    refuse(root, out, CheckpointError, "cut.pth .*damaged", checkpoint=tmp_path / "cut.pth")
    path = train(root / "clip.pt", tmp_path / "large.pth", shift=1e6)
    refuse(root, out, CheckpointError, "in float16 holds NaN or infinity", checkpoint=path,
           dtype="fp16")
    write_other = CLIP(CLIPConfig(16, 16, 8, 32, 1, 32, 1, vocab_size=64)).state_dict()
    torch.save(write_other, tmp_path / "other.pth")
    refuse(root, out, CheckpointError, "other.pth does not fit", checkpoint=tmp_path / "other.pth")


def test_ratios_names_and_existing_files(root, tmp_path):
    out = tmp_path / "out"
    refuse(root, out, ConfigError, "--checkpoint", checkpoint=None, patching_ratio=0.5)
    for ratio in (-0.1, 1.5, float("nan")):
        refuse(root, out, ConfigError, "from 0 to 1", patching_ratio=ratio)
    refuse(root, out, ConfigError, "--name is 'a/b'", name="a/b")
    out.mkdir()
    (out / "x-open_clip.json").write_text("mine")
    with pytest.raises(ConfigError, match="x-open_clip.json exists; give another"):
        export_model(root / "clip.pt", out, name="x")
    assert (out / "x-open_clip.json").read_text() == "mine" and len(list(out.iterdir())) == 1
    export_model(root / "clip.pt", out, name="x", overwrite=True)
    assert len(list(out.iterdir())) == 3


def test_nothing_is_left_when_writing_fails(root, tmp_path, monkeypatch):
    from openvclip.checkpoints import export

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "save_classifier", full)
    refuse(root, tmp_path / "out", CheckpointError, "cannot write to .*No space left.*--output",
           labels=["a"])


def test_the_classifier_is_that_of_a_text_tower_that_trained(root, tmp_path):
    path = train(root / "clip.pt", tmp_path / "text.pth",
                 **{"model.ln_final.bias": torch.ones(64)})
    found = {}
    for ratio in (0.0, 0.5, 1.0):
        export_model(root / "clip.pt", tmp_path / f"{ratio}", checkpoint=path, labels=["a", "b"],
                     patching_ratio=ratio)
        found[ratio] = load_file(tmp_path / f"{ratio}/{FILES[3]}")["embeddings"]
        # By whatever reads the weights.
        clip = CLIP.from_state_dict(load_clip(tmp_path / f"{ratio}/{FILES[0]}"))
        expected = class_embeddings(clip, ["a", "b"])
        torch.testing.assert_close(found[ratio], expected, atol=1e-5, rtol=0)
    assert (found[0.0] - found[1.0]).abs().max() > 1e-2


def test_a_label_that_is_too_long_leaves_nothing(tmp_path):
    write_tiny_clip(tmp_path / "clip.pt")
    with pytest.raises(DataError, match="tokens does not fit"):
        export_model(tmp_path / "clip.pt", tmp_path / "out", labels=["word " * 90])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, said", [
    (["--patching_ratio", "0.5"], "there is no option --patching_ratio; the nearest is --patch"),
    (["--labels", "a, b, A"], "--labels: labels 1 and 3 are the same"),
    (["--label-file", ""], "give the labels either with"),
])
def test_mistakes_on_the_command_line_are_one_line(root, tmp_path, options, said):
    done = subprocess.run(
        [sys.executable, "tools/export.py", "--clip", str(root / "clip.pt"), "--output",
         str(tmp_path / "out"), *options],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = (done.stdout + done.stderr).splitlines()
    assert said in line
