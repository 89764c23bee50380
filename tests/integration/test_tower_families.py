"""A small member of each family of towers through everything: training to export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest_integration import CLASSES, INTERPOLATED, options
from conftest_training import launch
from safetensors.torch import save_file

from openvclip import load_model
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.export import export_model
from openvclip.checkpoints.files import checkpoint_path, load_file
from openvclip.checkpoints.loading import load_patched
from openvclip.clip.open_clip_weights import build_open_clip
from openvclip.clip.towers import TOWER, load_tower
from openvclip.config import load_cfg
from openvclip.evaluation.build import build_runners
from openvclip.evaluation.runner import run_tests
from openvclip.models.backbone import build_backbone
from openvclip.models.resolve import build_resolved
from openvclip.training.build import build_trainer

TEXT = {"layers": 1, "width": 64, "heads": 1, "context_length": 32, "hf_tokenizer_name": None,
        "tokenizer_kwargs": {}, "vocab_size": 49408, "hf_model_name": None}
IMAGE = {"layers": 2, "width": 64}
SIZE = 64  # of the input of those that can have any
# Name in open_clip, its image tower's changes, and whether frames can see each other.
FAMILIES = {
    "ViT-B-16": ({**IMAGE, "image_size": SIZE}, True),  # DFN, DataComp, LAION: GELU
    "ViT-B-16-SigLIP2": (IMAGE, True),  # attention pooling, sigmoid
    "PE-Core-B-16": (IMAGE, True),  # rotary positions
    "EVA02-B-16": (IMAGE, True),
    "coca_ViT-B-32": ({**IMAGE, "image_size": SIZE}, True),
    "RN50": ({"layers": [1, 1, 1, 1], "width": 32, "image_size": SIZE}, False),
    "convnext_base": ({**IMAGE, "layers": 1, "width": 32}, False),
}
AUTO = dict.fromkeys((
    "MODEL__CONTEXT_LENGTH", "DATA__MEAN", "DATA__STD", "DATA__RESIZE_MODE", "DATA__INTERPOLATION",
    "DATA__TRAIN_CROP_SIZE", "DATA__TEST_CROP_SIZE", "DATA__TRAIN_JITTER_SCALES"), "auto")


def save_folder(name: str, vision: dict, folder: Path) -> Path:
    """Write a small member with random weights as open_clip saves a model."""
    torch.manual_seed(0)
    changes = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": TEXT}
    if name.startswith("coca"):
        changes["multimodal_cfg"] = {"layers": 1, "width": 64, "heads": 1, "context_length": 32}
    towers = build_backbone(name, overrides=changes)
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in towers.state_dict().items()},
              folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": dict(towers.tower.config),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    }))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_from_training_to_export(name, tiny, tmp_path):
    vision, sees = FAMILIES[name]
    clip = save_folder(name, vision, tmp_path / "tower")
    view = {} if sees else {"MODEL__MODEL_NAME": "BasicClipVideo",
                            "MODEL__TEMPORAL_MODELING_TYPE": None}
    changes = {
        **INTERPOLATED, **AUTO, **view, "MODEL__CLIP_PATH": clip, "DATA__NUM_FRAMES": 2,
        "MODEL__TEXT_TEMPLATES": "name_only",
        "MODEL__TEXT_CACHE_DIR": tmp_path / "cache", "TRAIN__EVAL_PERIOD": 10,
    }
    # 12 videos: three steps in two epochs.
    cfg = build_resolved(load_cfg(None, options(tiny, tmp_path, **changes, TRAIN__BATCH_SIZE=6)))
    build_trainer(cfg).run()
    swa = tmp_path / "swa.pth"
    average_checkpoints(tmp_path, start=1, end=2, output=swa)
    assert load_file(swa)[TOWER] == load_file(checkpoint_path(tmp_path, 2))[TOWER]

    cfg = build_resolved(load_cfg(None, options(
        tiny, tmp_path / "test", **changes, TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True,
        TEST__CUSTOM_LOAD_FILE=swa, TEST__PATCHING_RATIOS="[0.0,0.5,1.0]",
        TEST__NUM_ENSEMBLE_VIEWS=1)))
    (results,) = run_tests(build_runners(cfg))
    assert [row["patching_ratio"] for row in results["results"]] == [0.0, 0.5, 1.0]
    assert not results["failed"]

    model = load_model(clip, swa, patching_ratio=0.5)
    prediction = model.predict(tiny / "videos" / "test" / CLASSES[0] / "0.mp4", CLASSES)
    assert len(prediction.ranking) == 3 and not prediction.error

    weights, config = export_model(clip, tmp_path / "export", checkpoint=swa, patching_ratio=0.5)
    theirs = build_open_clip(json.loads(config.read_text()), "the export", "cpu").eval()
    theirs.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    ours = load_patched(clip, swa, 0.5).model.eval()
    images = torch.randn(2, 3, *ours.preprocess.size)
    tokens = ours.tokenize(CLASSES, ours.context_length)
    with torch.no_grad():
        for method, given in (("encode_image", images), ("encode_text", tokens)):
            # Of length 1, as CoCa's come.
            found, expected = (F.normalize(getattr(towers, method)(given), dim=-1)
                               for towers in (ours, theirs))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_sharded_tower_trains_as_a_whole_one(tiny, repo, tmp_path):
    """In float64, with blocks that are computed twice in the sharded run."""
    clip = save_folder("ViT-B-16-SigLIP2", IMAGE, tmp_path / "tower")
    states = []
    for processes, changes in ((1, {}), (2, {"TRAIN__SHARDING": "fsdp",
                                             "MODEL__USE_CHECKPOINT": True})):
        output = tmp_path / f"by{processes}"
        launch(repo, processes, "double_run.py", *options(
            tiny, output, **INTERPOLATED, **AUTO, **changes, MODEL__CLIP_PATH=clip,
            DATA__NUM_FRAMES=2, MODEL__TEXT_TEMPLATES="name_only", TEST__ENABLE=False,
            TRAIN__EVAL_PERIOD=10, SOLVER__MAX_EPOCH=1))
        states.append(load_file(checkpoint_path(output, 1))["model_state"])
    whole, sharded = states
    original = load_tower(clip)[1]
    moved = [name for name, tensor in whole.items()
             if not torch.equal(tensor.float(), original[name.removeprefix("model.")])]
    assert len(moved) > 20
    for name, tensor in whole.items():
        torch.testing.assert_close(sharded[name], tensor, atol=1e-9, rtol=0)
