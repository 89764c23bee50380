"""Methods that keep weights near CLIP's: any number of processes, resuming, combinations."""

from __future__ import annotations

import json

import pytest
import torch
from conftest_integration import INTERPOLATED, options
from conftest_training import assert_equal, launch, make_trainer, read_epochs, stop_after

from openvclip.checkpoints.files import checkpoint_path
from openvclip.utils.errors import CheckpointError, ConfigError

EWC = {"TRAIN__EWC_SET": True, "MODEL__KEEP_RAW_MODEL": True, "TRAIN__EWC_CONSTRAIN_RATIO": 50.0}
L2SP = {"TRAIN__L2SP__ENABLE": True}
PULL = {"TRAIN__ZS_INIT_CONS": True, "TRAIN__ZS_RESTART_CONS": True, "TRAIN__ZS_RESTART_EPOCH": 2,
        "TRAIN__ZS_CONS_RATIO": 0.3, "TRAIN__ADAPT_ZS_CONS_RATIO": True}
# 12 rows: one batch of 8 an epoch.
SHORT = {"TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 4, "TRAIN__CHECKPOINT_PERIOD": 4,
         "TRAIN__EVAL_PERIOD": 4, "TEST__ENABLE": False}


def assert_near(ours, theirs, most=1e-9):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        torch.testing.assert_close(theirs[name], tensor, atol=most, rtol=0, msg=name)


def test_the_recorded_fisher_information_of_two_processes(repo):
    output = launch(repo, 2, "fisher_run.py")
    (line,) = [x for x in output.splitlines() if x.startswith("found")]
    difference, tensors, exchanged = json.loads(line[6:])
    assert difference < 1e-5 and tensors == 45 and exchanged


def test_two_processes_equal_one(tiny, repo, tmp_path):
    """In float64, interpolated, with all three; the Fisher information is that of one process."""
    changes = {**INTERPOLATED, **EWC, **L2SP, **PULL, **SHORT}
    states, epochs = [], []
    for processes, more in ((1, {}), (2, {"TRAIN__GRAD_ACCUM_STEPS": 2,
                                         "TRAIN__EWC_LOAD_FILE": tmp_path / "1" / "fisher_0.pth"})):
        out = tmp_path / str(processes)
        launch(repo, processes, "double_run.py", *options(tiny, out, **changes, **more))
        states.append(torch.load(checkpoint_path(out, 4), weights_only=True))
        epochs.append(read_epochs(out))
    assert_near(states[0]["model_state"], states[1]["model_state"])
    assert states[0]["objectives"] == states[1]["objectives"]
    for number, (ours, theirs) in enumerate(zip(*epochs, strict=True)):
        for key in ("ewc_loss", "l2sp_loss", "total_loss", "grad_norm"):
            # Restarts are before the second and the fourth epoch: no EWC in the others.
            assert (key in ours) == (key != "ewc_loss" or number in (1, 3))
            if key in ours:
                assert ours[key] == pytest.approx(theirs[key], rel=2e-5), key


DISTILL = {"MODEL__RAW_MODEL_DISTILLATION": True}
TEXTS = {"MODEL__TEXT_TOWER": "trainable"}


def write_other_text(tiny, path):
    """Weights whose text tower, which does not train, is not CLIP's."""
    state = torch.load(tiny / "clip.pt", weights_only=True)
    state["ln_final.weight"] = state["ln_final.weight"] * torch.linspace(0.2, 2.0, 64)
    torch.save({"model_state": {f"model.{name}": t for name, t in state.items()}}, path)
    return {"TRAIN__CUSTOM_LOAD": True, "TRAIN__CUSTOM_LOAD_FILE": path}


@pytest.mark.parametrize("changes", [
    {**EWC, **L2SP, **INTERPOLATED},
    {**EWC, **PULL, **DISTILL, "TRAIN__ZS_CONS_ANCHOR": "restart"},
    {**EWC, "TRAIN__ZS_CONS": True, **TEXTS, **DISTILL, "TRAIN__ZS_CONS_ANCHOR": "restart"},
    {**EWC, "TRAIN__ZS_CONS": True, "TRAIN__ZS_CONS_RATIO": 0.3, "other text": True},
], ids=["penalties", "restarts", "texts", "frozen texts"])
def test_a_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(changes, tiny, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    if "other text" in changes:
        changes = {name: value for name, value in changes.items() if name != "other text"}
        changes |= write_other_text(tiny, tmp_path / "other.pth")
    make_trainer(tiny, whole, **changes).run()
    stop_after(make_trainer(tiny, parts, **changes), 8)  # the second epoch's third of six
    written = (parts / "fisher_0.pth").stat().st_mtime_ns
    resumed = make_trainer(tiny, parts, **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == (1, 2)
    resumed.run()
    assert (parts / "fisher_0.pth").stat().st_mtime_ns == written
    contents = [torch.load(checkpoint_path(folder, 2), weights_only=True)
                for folder in (whole, parts)]
    for part in ("model_state", "optimizer_state", "objectives"):
        assert_equal(*(content[part] for content in contents))
    moved = contents[0]["objectives"].get("pull", {})
    assert ("raw" in moved) == ("TRAIN__ZS_CONS_ANCHOR" in changes)
    assert all(row["ewc_loss"] > 0 for row in read_epochs(whole)
               if "TRAIN__ZS_RESTART_CONS" not in changes or row["epoch"] == "2/2")


def test_fisher_information_belongs_to_a_run(tiny, tmp_path):
    """A new run computes it whatever lies there; a resumed one refuses another's."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "fisher_0.pth").write_bytes(b"of an earlier run")
    stop_after(make_trainer(tiny, out, **EWC), 3)
    content = torch.load(out / "fisher_0.pth", weights_only=True)
    assert all(name.startswith("module.model.visual.") or name == "module.model.logit_scale"
               for name in content)
    assert all(bool((t >= 0).all()) and bool(t.any()) for t in content.values())
    (out / "fisher_0.pth").unlink()
    with pytest.raises(CheckpointError, match="run's beginning.*fisher_0.pth"):
        make_trainer(tiny, out, **EWC).run()


@pytest.mark.parametrize("changes", [
    {"TRAIN__EWC_IDENTITY_FISHER": True},
    {"TRAIN__EWC_IDENTITY_FISHER": True, "DATA__MULTI_LABEL": True, "MODEL__LOSS_FUNC": "bce"},
    {"TRAIN__EWC_IGNORE_LOGIT_SCALE": True, "MIXUP__ENABLE": True, "AUG__NUM_SAMPLE": 2,
     "MODEL__LOSS_FUNC": "soft_cross_entropy"},
    {"MODEL__TEXT_PROMPT": True},
    {"TUNE_HEAD": True, "MODEL__TEMPORAL_MODELING_TYPE": "stadapt_zeroinit", **L2SP},
], ids=["identity", "several labels", "mixed", "prompts", "head"])
def test_what_it_combines_with(changes, tiny, tmp_path):
    trainer = make_trainer(tiny, tmp_path / "run", **EWC, **changes)
    trainer.run()
    rows = read_epochs(tmp_path / "run")
    assert all(row["ewc_loss"] > 0 and row["total_loss"] > row["loss"] for row in rows)
    written = (tmp_path / "run" / "fisher_0.pth").exists()
    assert written == ("TRAIN__EWC_IDENTITY_FISHER" not in changes)
    if "TUNE_HEAD" in changes:
        assert all(row["l2sp_loss"] > 0 for row in rows)


def test_where_nothing_of_clip_trains(tiny, tmp_path):
    frozen = {"MODEL__DEFAULT_FINETUNE_FACTOR": 0.0, "MODEL__MLP_FINETUNE_FACTOR": 0.0,
              "MODEL__TEMPORAL_MODELING_TYPE": "stadapt_zeroinit"}
    for number, changes in enumerate((EWC, {"TRAIN__ZS_CONS": True})):
        with pytest.raises(ConfigError, match=r"nothing that CLIP\s+has trains"):
            make_trainer(tiny, tmp_path / str(number), **changes, **frozen)
