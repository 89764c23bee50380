"""Finite weights whose numbers overflow: one error, nothing written, nothing kept."""

from __future__ import annotations

import json
import re
import runpy

import pytest
import torch
from conftest_integration import CLASSES, options

from openvclip.checkpoints.export import export_model
from openvclip.evaluation import resume_log as journals
from openvclip.predict.classifier import load_model
from openvclip.utils.errors import CheckpointError

SAID = r"NaN or infinity, although the weights are finite: .* overflow"
TOO_LARGE = {"image": "visual.ln_post.weight", "text": "ln_final.weight",
             "scale": "logit_scale"}


@pytest.fixture(scope="module")
def broken(tiny, tmp_path_factory):
    """CLIPs of finite weights: one tower's last norm, or the scale, is too large for fp32."""
    root = tmp_path_factory.mktemp("broken")
    state = torch.load(tiny / "clip.pt", weights_only=True)
    for name, key in TOO_LARGE.items():
        value = torch.full_like(state[key], 1000.0 if name == "scale" else 3e38)
        changed = {**state, key: value}
        assert all(tensor.isfinite().all() for tensor in changed.values())
        torch.save(changed, root / f"{name}.pt")
        torch.save({"model_state": {f"model.{k}": v for k, v in changed.items()}},
                   root / f"{name}.pth")
    (root / "pairs.json").write_text(json.dumps(
        [{"video": f"test/{name}/0.mp4", "caption": f"a {name} square"} for name in CLASSES]))
    return root


@pytest.fixture
def refused(tiny, empty_cfg, tmp_path, in_process, capfd):
    """Run with changed options; gives the line of the error."""

    def run(**changes):
        out = tmp_path / "run"
        assert in_process(empty_cfg, options(
            tiny, out, TRAIN__ENABLE=False, MODEL__TEXT_CACHE_DIR=tmp_path / "texts", **changes,
        ), check=None) == 2
        assert not (out / "results.json").exists()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        (line,) = re.findall(r"CheckpointError: (.*)", captured.out + captured.err)
        assert re.search(SAID, line)
        return line

    return run


@pytest.mark.parametrize("name", ["image", "scale"])
def test_a_test_of_classes(refused, broken, name):
    line = refused(TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=broken / f"{name}.pth")
    assert line.startswith("testing: of some videos, such as that in row 0 of the list")
    line = refused(TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=broken / f"{name}.pth",
                   TEST__PATCHING_RATIOS="[1.0,0.0]")
    assert line.startswith("testing, patching ratio 0: ")


@pytest.mark.parametrize("name, said", [("image", "embedding videos: of some"),
                                        ("text", "embedding captions: the embedding of a")])
def test_a_retrieval_test(refused, broken, tiny, name, said):
    line = refused(
        TEST__TASK="retrieval", TEST__RETRIEVAL_FILE=broken / "pairs.json",
        DATA__PATH_PREFIX=tiny / "videos", DATA__INDEX_LABEL_MAPPING_FILE="",
        DATA__PATH_TO_DATA_DIR="", TEST__CUSTOM_LOAD=True,
        TEST__CUSTOM_LOAD_FILE=broken / f"{name}.pth")
    assert line.startswith(said)


def test_validation(refused, broken):
    line = refused(VAL_MODE=True, MODEL__CLIP_PATH=broken / "image.pt")
    assert line.startswith("validation after epoch")


def test_a_classifier_is_not_kept(refused, broken, tmp_path):
    line = refused(MODEL__CLIP_PATH=broken / "text.pt")
    assert line.startswith("text classifier: the embedding of a sentence is NaN")
    assert not list((tmp_path / "texts").glob("*.pt"))


@pytest.mark.parametrize("name", ["image", "scale", "text"])
def test_predicting(broken, tiny, repo, tmp_path, capsys, name):
    tool = runpy.run_path(str(repo / "tools/predict.py"))["main"]
    video = tiny / "videos/test" / CLASSES[0] / "0.mp4"
    code = tool(["--video", str(video), "--labels", "red, green", "--clip",
                 str(broken / f"{name}.pt"), "--num-frames", "4", "--sampling-rate", "2",
                 "--output", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 2 and re.search(SAID, captured.out + captured.err)
    assert name == "text" or str(video) in captured.out + captured.err
    model = load_model(broken / f"{name}.pt", num_frames=4, sampling_rate=2)
    with pytest.raises(CheckpointError, match=SAID):
        model.timeline(video, ["red", "green"])
    if name == "image":
        with pytest.raises(CheckpointError, match=SAID):
            model.encode_video(video)


def test_exporting_a_classifier(broken, tmp_path):
    with pytest.raises(CheckpointError, match=SAID):
        export_model(broken / "text.pt", tmp_path / "out", labels=CLASSES)
    assert not list((tmp_path / "out").glob("*"))


def test_a_journal_with_such_scores_is_not_gone_on_with(tmp_path):
    journal = journals.open_resume_log(tmp_path, {"a": 1}, (1, 2))
    for first, value in ((0, 1.0), (1, float("nan")), (2, 2.0)):
        scores = torch.full((1, 1, 2), value)
        journal.append(journals.ScoredGroup(first, [first], scores, {}))
    journal.close()
    assert journals.open_resume_log(tmp_path, {"a": 1}, (1, 2)).done == {0, 2}
