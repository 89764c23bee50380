"""Training with captions: both towers train, are averaged, patched and tested together."""

from __future__ import annotations

import json

import pytest
import torch
from conftest_integration import CLASSES, INTERPOLATED, options

from openvclip.config import load_cfg
from openvclip.data.captions.index import write_captions
from openvclip.evaluation.build import build_runner
from openvclip.models.text import class_embeddings
from openvclip.report.run.predictions_file import load_predictions
from openvclip.utils.errors import DataError

# The tiny dataset's videos are called 0 to 3 in every class; the fourth has no caption.
SENTENCES = {str(n): [f"clip number {n}", f"the clip {n} of a class"] for n in range(3)}


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "captions.sqlite"
    write_captions(path, SENTENCES)
    return path


def with_captions(path, tower="trainable"):
    return {**INTERPOLATED, "TRAIN__CAPTION__ENABLE": True, "TRAIN__CAPTION__FILE": path,
            "TRAIN__CAPTION__TEXT_TOWER": tower, "TRAIN__EVAL_PATCHING_RATIO": 0.5}


def read_stats(out, kind):
    rows = map(json.loads, (out / "json_stats.jsonl").read_text().splitlines())
    return [row for row in rows if row["_type"] == kind]


def test_train_average_patch_and_test_both_towers(tiny, captions, tmp_path, empty_cfg, in_process,
                                                  repo, tool):
    run, swa = tmp_path / "run", tmp_path / "swa.pth"
    in_process(empty_cfg, options(tiny, run, TEST__ENABLE=False, **with_captions(captions)))
    rows = read_stats(run, "train_epoch")
    assert all(row["caption_loss"] > 0 and row["connect_caption_loss"] > 0 for row in rows)
    assert all("top1_acc_patched" in row for row in read_stats(run, "val_epoch"))
    tool("weight_average", "--source", run, "--start", 1, "--end", 2, "--output", swa)
    text = "model.ln_final.weight"
    mean = torch.load(swa, weights_only=True)["model_state"][text]
    parts = [torch.load(run / f"checkpoints/checkpoint_epoch_0000{n}.pyth", weights_only=True)
             ["model_state"][text] for n in (1, 2)]
    assert not torch.equal(*parts)
    torch.testing.assert_close(mean, sum(parts) / 2)

    tested, raw = tmp_path / "tested", tmp_path / "raw"
    weights = {"TRAIN__ENABLE": False, "TEST__CUSTOM_LOAD": True, "TEST__CUSTOM_LOAD_FILE": swa}
    in_process(empty_cfg, options(tiny, tested, TEST__PATCHING_RATIOS="[0.0,0.5,1.0]",
                                  TEST__SAVE_RESULTS_PATH="p.pt", **weights))
    in_process(empty_cfg, options(tiny, raw, TRAIN__ENABLE=False, TEST__SAVE_RESULTS_PATH="p.pt"))
    assert "whose text tower is not the original CLIP's" in (tested / "stdout.log").read_text()
    scores = {ratio: load_predictions(tested / f"p_ratio{ratio:.2f}.pt")[0]
              for ratio in (0.0, 0.5, 1.0)}
    at_clip = load_predictions(raw / "p.pt")[0]
    torch.testing.assert_close(scores[1.0], at_clip, atol=1e-4, rtol=0)

    # Ratio by ratio with towers that are patched by hand.
    pooled_at_0 = None
    tester = build_runner(load_cfg(None, options(
        tiny, tmp_path / "by_hand", TEST__PATCHING_RATIOS="[0.0,0.5,1.0]", **weights)),
        tmp_path).setup
    for ratio, found in scores.items():
        clip = tester.model.model
        with torch.no_grad(), tester.weights.at(ratio):
            clips = tester.loader.dataset[4]["video"].finish()
            pooled = tester.model.pool_frames(clips).sum(dim=0)
            classes = class_embeddings(clip, CLASSES)
            expected = clip.logit_scale.exp() * classes @ pooled
        pooled_at_0 = pooled if ratio == 0.0 else pooled_at_0
        at_ratio_1 = classes
        torch.testing.assert_close(found[4], expected, atol=1e-4, rtol=0)
    # It matters: CLIP's own text tower would have given other scores.
    with torch.no_grad(), tester.weights.at(0.0):
        other = clip.logit_scale.exp() * at_ratio_1 @ pooled_at_0
    assert (scores[0.0][4] - other).abs().max() > 1e-3


def test_frozen_text_tower_stays_and_gets_captions(tiny, captions, tmp_path, empty_cfg, in_process):
    run = tmp_path / "run"
    in_process(empty_cfg, options(tiny, run, **with_captions(captions, "frozen")))
    assert all(row["caption_loss"] > 0 for row in read_stats(run, "train_epoch"))
    state = torch.load(run / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)
    clip = torch.load(tiny / "clip.pt", weights_only=True)
    assert "classifier" not in state
    results = json.loads((run / "results.json").read_text())
    assert results["trained_on"]["captions"] == "frozen"
    for name, tensor in clip.items():
        same = torch.equal(state["model_state"][f"model.{name}"], tensor)
        assert same == (not name.startswith("visual.") and name != "logit_scale"), name


def test_validation_only_uses_the_checkpoints_own_text_tower(tiny, captions, tmp_path, empty_cfg,
                                                            in_process):
    run = tmp_path / "run"
    changes = with_captions(captions)
    in_process(empty_cfg, options(tiny, run, TEST__ENABLE=False, **changes))
    again = tmp_path / "again"
    in_process(empty_cfg, options(
        tiny, again, VAL_MODE=True, TRAIN__CHECKPOINT_FILE_PATH=run / "checkpoints"
        / "checkpoint_epoch_00002.pyth", **changes))
    first, second = read_stats(run, "val_epoch")[-1], read_stats(again, "val_epoch")[-1]
    for name in ("top1_acc", "top1_acc_patched", "top5_acc"):
        assert first[name] == second[name]


def test_wrong_files_are_one_line_before_anything_else(tiny, tmp_path, empty_cfg, in_process,
                                                       capfd):
    for number, make in enumerate((lambda path: None, lambda path: path.write_text("{}"),
                                   lambda path: write_captions(path, {"other": ["x"]}))):
        path = tmp_path / f"{number}.sqlite"
        make(path)
        in_process(empty_cfg, options(tiny, tmp_path / "run", **with_captions(path)), check=2)
        (line,) = [x for x in capfd.readouterr().out.splitlines() if "ERROR" in x]
        assert DataError.__name__ in line and path.name in line
