"""The test tool on the published yaml against the published protocol, written once more."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from conftest_integration import COLOURS, write_clip
from published_protocol import classify, clip_index, patch, predict, read_video, to_pixels

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Kinetics"
TOLERANCE = 1e-4
SIZE = 64  # of the tiny CLIP; the published one has 224


def write_tuned(clip: dict, other: dict, path: Path) -> dict:
    """Write a checkpoint with another image tower, and return its weights."""
    tuned = {name: other[name].float() if name.startswith("visual.") else t
             for name, t in clip.items()}
    torch.save({"model_state": {f"model.{name}": t for name, t in tuned.items()}}, path)
    return tuned


def run_tool(in_process, config: str, out: Path, lists: Path, videos: Path, names: Path,
             clip: Path, *more: str) -> torch.Tensor:
    """Test by a published yaml in which only paths and sizes are replaced."""
    in_process(CONFIGS / config, [
        "NUM_GPUS", "0", "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(out),
        "DATA.PATH_TO_DATA_DIR", str(lists), "DATA.PATH_PREFIX", str(videos),
        "DATA.PATH_LABEL_SEPARATOR", ",", "DATA.INDEX_LABEL_MAPPING_FILE", str(names),
        "MODEL.NUM_CLASSES", "5", "MODEL.ARCH", "auto", "MODEL.CLIP_PATH", str(clip),
        "DATA.TRAIN_JITTER_SCALES", f"[{SIZE},{SIZE}]", "DATA.TRAIN_CROP_SIZE", str(SIZE),
        "DATA.TEST_CROP_SIZE", str(SIZE), "DATA_LOADER.NUM_WORKERS", "0",
        "TEST.SAVE_RESULTS_PATH", "found.pkl", *more])
    with open(out / "found.pkl", "rb") as file:
        return pickle.load(file)[0]


def compare(in_process, tmp_path, paths, names, clip_file, clip, other, classifier):
    """Unpatched, patched and raw: the tool's predictions are the reference's."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/test.csv").write_text(
        "".join(f"{path.name},{i % 5}\n" for i, path in enumerate(paths)))
    tuned = write_tuned(clip, other, tmp_path / "tuned.pyth")
    wanted = predict({"unpatched": (tuned, True), "patched": (patch(clip, tuned, 0.5), True),
                      "raw": (clip, False)}, classifier, paths, SIZE)
    weights = ("TEST.CUSTOM_LOAD", "True", "TEST.CUSTOM_LOAD_FILE", str(tmp_path / "tuned.pyth"))
    runs = {
        "unpatched": ("TemporalCLIP_vitb16_8x16_STAdapter.yaml", weights),
        "patched": ("TemporalCLIP_vitb16_8x16_STAdapter.yaml", (
            *weights, "TEST.PATCHING_MODEL", "True", "TEST.PATCHING_RATIO", "0.5")),
        "raw": ("CLIP_vitb16_8x16_STAdapter.yaml", (
            "TEST.CUSTOM_LOAD", "False", "TEST.CUSTOM_LOAD_FILE", "None",
            "TEST.PATCHING_MODEL", "True", "TEST.PATCHING_RATIO", "1.0")),
    }
    for name, (config, more) in runs.items():
        found = run_tool(in_process, config, tmp_path / name, tmp_path / "lists", paths[0].parent,
                         names, clip_file, "MODEL.TEXT_CACHE_DIR", str(tmp_path / "cache"), *more)
        difference = float((found - wanted[name]).abs().max())
        assert difference < TOLERANCE, (name, difference)
    assert float((wanted["patched"] - wanted["unpatched"]).abs().max()) > 0.1
    assert float((wanted["patched"] - wanted["raw"]).abs().max()) > 0.1


def test_predictions_equal_the_published_ones(tmp_path, in_process, golden, tiny_clip_state):
    paths = []
    for seed, colour in enumerate(COLOURS):
        paths.append(tmp_path / "videos" / f"{seed}.mp4")
        write_clip(paths[-1], colour, seed, frames=30 + 25 * seed, size=72 + 8 * seed)
    other = {name: t + 0.05 * t.std() * torch.randn(
        t.shape, generator=torch.Generator().manual_seed(1)) if t.ndim > 1 else t
        for name, t in tiny_clip_state.items()}
    torch.save(tiny_clip_state, tmp_path / "clip.pt")
    classifier = torch.load(golden / "classifier5.pt", weights_only=True)["classifier"]
    compare(in_process, tmp_path, paths, golden / "classmap5.json", tmp_path / "clip.pt",
            tiny_clip_state, other, classifier)


@pytest.mark.parametrize(("case", "temporal"), [("None", False), ("expand_temporal_view", True)])
def test_the_reference_computes_the_recorded_logits(golden, tiny_clip_state, case, temporal):
    recorded = torch.load(golden / f"forward_{case}.pt", weights_only=True)
    classifier = torch.load(golden / "classifier5.pt", weights_only=True)["classifier"]
    torch.manual_seed(42)
    videos = torch.randn(2, 3, 8, 64, 64)
    found = torch.stack([classify(tiny_clip_state, classifier, v, temporal) for v in videos])
    torch.testing.assert_close(found, recorded["logits"], atol=1e-4, rtol=0)


def list_real(shared: Path) -> list[Path]:
    recorded = sorted((shared / "golden" / "test_tensors").glob("*.pt"))
    return [shared / "videos" / path.name.removesuffix(".pt") for path in recorded]


def test_the_reference_makes_the_recorded_pixels(shared):
    for path in list_real(shared):
        recorded = torch.load(shared / "golden" / "test_tensors" / f"{path.name}.pt",
                              weights_only=True)
        images, pts, fps, count, duration = read_video(path)
        index = clip_index(pts, fps, count, duration, recorded["view"], recorded["num_views"])
        order = sorted(range(len(pts)), key=pts.__getitem__)
        assert [order.index(number) for number in index] == recorded["chosen_frame_index"], (
            path.name)
        pixels = to_pixels([images[number] for number in index], 224, 224)
        torch.testing.assert_close(pixels[..., ::8, ::8], recorded["frames_every_8th_pixel"],
                                   atol=1e-3, rtol=0, msg=path.name)


def test_predictions_on_real_videos_equal_the_published_ones(tmp_path, in_process, shared):
    clip, other = (torch.load(shared / "golden" / name, weights_only=True)
                   for name in ("tiny_clip.pt", "tiny_clip_other.pt"))
    classifier = torch.load(shared / "golden/classifier5.pt", weights_only=True)["classifier"]
    compare(in_process, tmp_path, list_real(shared), shared / "golden/classmap5.json",
            shared / "golden/tiny_clip.pt", clip, other, classifier)
