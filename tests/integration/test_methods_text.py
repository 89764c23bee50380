"""Class texts that train: any number of processes, parts of a batch, resuming, testing."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from conftest_integration import CLASSES, INTERPOLATED, options
from conftest_training import make_trainer, stop_when_saved

from openvclip.checkpoints.files import checkpoint_path, load_file
from openvclip.config import load_cfg
from openvclip.data.captions.index import write_captions
from openvclip.evaluation.build import build_runner
from openvclip.models.text import class_embeddings
from openvclip.predict.classifier import load_model
from openvclip.report.run.predictions_file import load_predictions
from openvclip.utils.errors import CheckpointError

# 12 rows: one batch an epoch, so 4 interpolated steps.
CHANGES = {
    **INTERPOLATED, "TRAIN__BATCH_SIZE": 12, "SOLVER__MAX_EPOCH": 4, "TRAIN__CHECKPOINT_PERIOD": 4,
    "TRAIN__EVAL_PERIOD": 4, "TRAIN__GRAD_ACCUM_STEPS": 2, "TEST__ENABLE": False,
}
# 3 sentences: of two processes one has two, in two chunks; of four, one has none.
TEXTS = {"MODEL__TEXT_TOWER": "trainable", "MODEL__TEXT_SAMPLE": 1, "MODEL__TEXT_CHUNK": 1}
METHODS = {"class texts": TEXTS, "prompts": {
    "MODEL__TEXT_PROMPT": True, "MODEL__PROMPT_NUM": 3, "MODEL__TEXT_CHUNK": 1}}
FROZEN = {"class texts": (), "prompts": ("model.transformer.", "model.token_embedding.")}


@pytest.fixture(scope="module")
def train(double):
    """Train in float64 with some processes; returns the weights, the log's rows, the exchanges."""

    def start(processes, **changes):
        run = double(processes, **{**CHANGES, **changes})
        return run.state, run.epochs, run.exchanged

    return start


@pytest.fixture(scope="module")
def alone(train):
    """Runs of one process that keeps all texts' activations, by the name of the method."""
    return cache(lambda name: train(1, **{**METHODS[name], "MODEL__TEXT_CHUNK": 256}))


@pytest.mark.parametrize(("name", "processes"), [
    ("class texts", 2), ("class texts", 3), ("class texts", 4), ("prompts", 2), ("prompts", 4)])
def test_processes_share_the_texts(name, processes, train, alone):
    state, rows, _ = alone(name)
    other, other_rows, exchanged = train(processes, **METHODS[name])
    trained = {key for key in state if not key.startswith(FROZEN[name])}
    assert exchanged == [sum(state[key].numel() for key in trained)] * 4
    for key, tensor in state.items():
        torch.testing.assert_close(other[key], tensor, atol=1e-9, rtol=0, msg=key)
        moved = not torch.equal(tensor, tensor.float().double())
        assert moved == (key in trained), key
    for ours, theirs in zip(rows, other_rows, strict=True):
        for loss in ("connect_loss", "loss", "grad_norm"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=2e-5), loss


def test_captions_and_class_texts_share_a_tower(train, tmp_path):
    file = tmp_path / "captions.sqlite"
    write_captions(file, {str(n): [f"clip number {n}", f"a clip {n}"] for n in range(3)})
    changes = {**TEXTS, "TRAIN__CAPTION__ENABLE": True, "TRAIN__CAPTION__FILE": file,
               "TRAIN__CAPTION__TEXT_TOWER": "trainable"}
    state, rows, _ = train(1, **changes)
    other, other_rows, _ = train(2, **changes)
    for key, tensor in state.items():
        torch.testing.assert_close(other[key], tensor, atol=1e-9, rtol=0, msg=key)
    for ours, theirs in zip(rows, other_rows, strict=True):
        for loss in ("caption_loss", "connect_caption_loss", "loss", "grad_norm"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=2e-5), loss


@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumes_bit_for_bit_inside_an_epoch(name, tiny, tmp_path):
    changes = {**INTERPOLATED, **METHODS[name], "TRAIN__BATCH_SIZE": 4, "TRAIN__EVAL_PERIOD": 2}
    make_trainer(tiny, tmp_path / "whole", **changes).run()
    stop_when_saved(make_trainer(tiny, tmp_path / "stopped", **changes), (1, 2))
    resumed = make_trainer(tiny, tmp_path / "stopped", **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == (1, 2)
    resumed.run()
    whole, other = (load_file(checkpoint_path(tmp_path / run, 2)) for run in ("whole", "stopped"))
    for key, tensor in whole["model_state"].items():
        assert torch.equal(tensor, other["model_state"][key]), key
    for number, state in whole["optimizer_state"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other["optimizer_state"]["state"][number][key])


@pytest.mark.parametrize("name", METHODS)
def test_train_average_patch_test_and_predict(name, tiny, tmp_path, empty_cfg, in_process, tool):
    run, swa, raw = tmp_path / "run", tmp_path / "swa.pth", tmp_path / "raw"
    own = {"prompts": {"MODEL__TEXT_PROMPT": True, "MODEL__PROMPT_NUM": 3}}.get(name, {})
    in_process(empty_cfg, options(tiny, run, TEST__ENABLE=False, TRAIN__EVAL_PATCHING_RATIO=0.5,
                                  **INTERPOLATED, **METHODS[name]))
    rows = map(json.loads, (run / "json_stats.jsonl").read_text().splitlines())
    assert sum("top1_acc_patched" in row for row in rows if row["_type"] == "val_epoch") == 2
    tool("weight_average", "--source", run, "--start", 1, "--end", 2, "--output", swa)
    weights = {"TRAIN__ENABLE": False, "TEST__CUSTOM_LOAD": True, "TEST__CUSTOM_LOAD_FILE": swa,
               "TEST__PATCHING_RATIOS": "[0.0,0.5,1.0]", "TEST__SAVE_RESULTS_PATH": "p.pt", **own}
    tested = tmp_path / "tested"
    in_process(empty_cfg, options(tiny, tested, **weights))
    texts = json.loads((tested / "results.json").read_text())["prompts"]
    assert texts["name"] == ("prompts" if own else "openvclip28")

    # Ratio by ratio with towers that are patched by hand, as a prediction has them.
    setup = build_runner(load_cfg(None, options(tiny, tested, **weights)), tmp_path).setup
    made = []
    for ratio in (0.0, 0.5, 1.0):
        clip = setup.model.model
        with torch.no_grad(), setup.weights.at(ratio):
            clips = setup.loader.dataset[4]["video"].finish()
            pooled = setup.model.pool_frames(clips).sum(dim=0)
            classes = class_embeddings(clip, CLASSES)
            expected = clip.logit_scale.exp() * classes @ pooled
        found = load_predictions(tested / f"p_ratio{ratio:.2f}.pt")[0][4]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        predicted = load_model(tiny / "clip.pt", swa, ratio).encode_text(CLASSES)
        torch.testing.assert_close(predicted, classes, atol=1e-5, rtol=0)
        made.append(classes)
    assert (made[0] - made[1]).abs().max() > 1e-4 and (made[1] - made[2]).abs().max() > 1e-4
    if not own:
        in_process(empty_cfg, options(tiny, raw, TRAIN__ENABLE=False,
                                      TEST__SAVE_RESULTS_PATH="p.pt"))
        torch.testing.assert_close(found, load_predictions(raw / "p.pt")[0][4], atol=1e-4, rtol=0)
        return
    for file, said in ((tiny / "clip.pt", "clip.pt has no trained prompts"),
                       (None, "the original CLIP has no prompts")):
        changes = {**weights, "TEST__CUSTOM_LOAD_FILE": file} if file else {
            key: value for key, value in weights.items() if "TEST__" not in key}
        with pytest.raises(CheckpointError, match=f"{said}.*MODEL.TEXT_PROMPT is True"):
            build_runner(load_cfg(None, options(tiny, tested, **changes)), tmp_path)
    done = tool("export", "--clip", tiny / "clip.pt", "--checkpoint", swa, "--output",
                tmp_path / "exported", check=2)
    assert "swa.pth has trained prompts (1 tensors: prompt_embed)" in done.output
