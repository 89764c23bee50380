"""tools/run_net.py as a user runs it, on real mp4 files."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from unittest.mock import ANY

import pytest
import torch
from conftest_integration import CLASSES, INTERPOLATED, options

from openvclip.clip.towers import describe_tower
from openvclip.config import load_cfg
from openvclip.report.run.curves import read_curves
from openvclip.report.run.predictions_file import load_predictions
from openvclip.training.build import build_trainer
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError


def read_stats(output, kind):
    lines = (output / "json_stats.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["_type"] == kind]


def same_weights(first, second):
    a, b = (torch.load(p, weights_only=True)["model_state"] for p in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def check_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    found = events.Tags()
    wanted = {f"Train/{name}" for name in (
        "loss", "connect_loss", "ratio", "lr", "grad_norm", "top1_err", "top5_err", "dt", "dt_data",
        "dt_net", "clips_per_s", "RAM_GiB")}
    wanted |= {"Epoch/loss", "Epoch/connect_loss", "Val/top1_acc", "Val/top1_acc_patched"}
    assert wanted <= set(found["scalars"])
    assert len(events.Scalars("Train/loss")) == 6 and len(events.Scalars("Epoch/loss")) == 2
    assert "config/text_summary" in found["tensors"]


def test_epochs_shorter_than_the_log_period_have_their_line(in_process, tiny, tmp_path, empty_cfg):
    out = tmp_path / "run"
    in_process(empty_cfg, options(tiny, out, LOG_PERIOD=10, TEST__ENABLE=False,
                                  MODEL__TEXT_CACHE_DIR=tmp_path / "texts",
                                  TENSORBOARD__ENABLE=True, **INTERPOLATED))
    said = (out / "stdout.log").read_text()
    begun = [said.index(what) for what in (
        "train.csv: 12 videos", "reading CLIP from", "texts of 3 classes", "making the optimizer",
        "starting the decoding processes", "train_iter")]
    assert begun == sorted(begun), "what takes seconds is said before it is done"
    assert [row["iter"] for row in read_stats(out, "train_iter")] == ["3/3"] * 2
    curves = read_curves((out / "json_stats.jsonl").read_text().splitlines())
    assert curves.points("train_iter", "lr")[0] == [1.0, 2.0]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "runs-kinetics")).Reload()
    assert len(events.Scalars("Train/lr")) == 2


def test_without_an_output_dir_a_run_stays_in_a_folder_of_its_own(
    in_process, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here").mkdir()
    (tmp_path / "my.yaml").write_text("NUM_GPUS: 0\n")
    monkeypatch.chdir(tmp_path / "here")
    in_process(tmp_path / "my.yaml", ["TRAIN.ENABLE", "False", "TEST.ENABLE", "False"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert "results go to output/my, named after the config" in first and "loading torch" in first
    assert any("OUTPUT_DIR is output/my" in line for line in rest)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["output"]
    assert load_cfg("output/my/config.yaml").OUTPUT_DIR == "output/my"
    assert "OUTPUT_DIR is output/my" in (tmp_path / "here/output/my/stdout.log").read_text()


def check_published_lines(log):
    """What PySlowFast's readers take from the log: rows by _type or split, fields by name."""
    rows = [json.loads(line.split("json_stats: ")[1]) for line in log.splitlines()
            if "json_stats: " in line]
    kinds = {kind: [row for row in rows if row["_type"] == kind]
             for kind in ("train_iter_", "train_epoch", "val_iter", "val_epoch")}
    assert [len(found) for found in kinds.values()] == [6, 2, 4, 2]
    for kind, found in kinds.items():
        for row in found:
            assert [int(part) for part in row["epoch"].split("/")][1] == 2
            assert row["gpu_mem"] == "0.00G" and row["RAM"].endswith("G")
            assert 0 <= row["top1_err"] <= 100 and 0 <= row["top5_err"] <= 100
            names = {"train_iter_": "iter dt dt_data dt_net eta loss lr", "val_iter": "iter eta",
                     "train_epoch": "dt dt_data dt_net eta loss lr", "val_epoch": "time_diff"}
            assert set(names[kind].split()) <= set(row)
            assert row.get("eta", "0:00:00").count(":") == 2
    assert [row["iter"] for row in kinds["val_iter"]] == ["1/2", "2/2"] * 2
    best = min(row["top1_err"] for row in kinds["val_epoch"])
    assert kinds["val_epoch"][-1]["min_top1_err"] == best
    tests = [row for row in rows if "split" in row]
    assert {row["split"] for row in tests} == {"test_iter", "test_final"}
    assert [row["cur_iter"] for row in tests[:-1]] == [str(i + 1) for i in range(len(tests) - 1)]
    assert tests[-1]["top1_acc"] == f"{tests[-1]['top1']:.2f}" and tests[-1]["top5_acc"]


def test_train_then_test_leaves_everything(tiny, tool, tmp_path, empty_cfg):
    out = tmp_path / "run"
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(tiny, out, **INTERPOLATED,
         TRAIN__EVAL_PATCHING_RATIO=0.5,
         TEST__SAVE_RESULTS_PATH="preds.pt", TENSORBOARD__ENABLE=True,
         TENSORBOARD__CONFUSION_MATRIX__ENABLE=True, TENSORBOARD__HISTOGRAM__ENABLE=True,
         TENSORBOARD__WRONG_PRED_VIS__ENABLE=True))
    iterations = read_stats(out, "train_iter")
    assert [row["iter"] for row in iterations] == ["1/3", "2/3", "3/3"] * 2
    assert all(0.0 <= row["ratio"] <= 0.6 and row["connect_loss"] > 0 for row in iterations)
    assert len({row["ratio"] for row in iterations}) == 6
    assert all(row["clips_per_s"] > 0 and row["dt_net"] > 0 for row in iterations)
    validations = read_stats(out, "val_epoch")
    assert [row["patching_ratio"] for row in validations] == [0.5, 0.5]
    assert all(0 <= row["top1_acc_patched"] <= 100 for row in validations)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    check_tensorboard(out / "runs-kinetics")
    results = json.loads((out / "results.json").read_text())
    assert results["videos"] == 9 and results["failed"] == []
    assert results["views"] == 2 and results["label_set"]["classes"] == 3
    assert results["checkpoint"]["file"].endswith("checkpoint_epoch_00002.pyth")
    assert len(results["checkpoint"]["sha256"]) == 64
    (row,) = results["results"]
    with open(out / "preds.pt", "rb") as file:
        preds, labels = pickle.load(file)
    assert preds.shape == (9, 3)
    assert row["top1"] == pytest.approx(100 * float((preds.argmax(1) == labels).float().mean()))
    with open(out / "per_class.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [r["class"] for r in table] == list(CLASSES)
    assert {r["videos"] for r in table} == {"3"}
    check_published_lines((out / "stdout.log").read_text())
    # The config that was left behind makes the same config again.
    cfg = load_cfg(str(out / "config.yaml"), [])
    assert cfg.TRAIN.LINEAR_CONNECT_CLIMB is True and str(out) == cfg.OUTPUT_DIR


def test_kill_resume_average_patch_test(tiny, tool, tmp_path, empty_cfg, repo):
    """A run killed in its third epoch ends with the weights of an undisturbed one."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    changes = {**INTERPOLATED, "SOLVER__MAX_EPOCH": 6, "TEST__ENABLE": False}
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(tiny, whole, **changes))
    command = [
        sys.executable, str(repo / "tools" / "run_net.py"), "--cfg", str(empty_cfg), "--opts",
        *options(tiny, killed, **changes),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=repo,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    second = killed / "checkpoints" / "checkpoint_epoch_00002.pyth"
    deadline = time.monotonic() + 60
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = killed / "checkpoints" / "checkpoint_epoch_00006.pyth"
    assert second.exists() and not last.exists()
    # Workers must not matter either.
    output = tool("run_net", "--cfg", empty_cfg, "--opts",
                  *options(tiny, killed, **changes, DATA_LOADER__NUM_WORKERS=2)).output
    assert "resuming after epoch" in output
    assert same_weights(last, whole / "checkpoints" / last.name)

    averaged = tmp_path / "swa_2_4.pth"
    tool("weight_average", "--source", killed, "--start", 2, "--end", 4, "--output", averaged)
    mean = torch.load(averaged, weights_only=True)["model_state"]
    states = [
        torch.load(killed / "checkpoints" / f"checkpoint_epoch_0000{n}.pyth", weights_only=True)
        for n in (2, 3, 4)
    ]
    for name, tensor in mean.items():
        wanted = sum(state["model_state"][name].double() for state in states) / 3
        torch.testing.assert_close(tensor.double(), wanted, atol=1e-6, rtol=0)

    tested = tmp_path / "tested"
    output = tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, tested, TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=averaged,
        TEST__PATCHING_RATIOS="[0.0,0.3,1.0]", TEST__SAVE_RESULTS_PATH="preds.pt")).output
    assert f"loaded the weights of {averaged}" in output and "patching" in output
    assert all(f"wrote {tested}/preds_ratio{r}.pt" in output for r in ("0.00", "0.30", "1.00"))
    rows = json.loads((tested / "results.json").read_text())["results"]
    assert [row["patching_ratio"] for row in rows] == [0.0, 0.3, 1.0]
    assert (tested / "accuracy_vs_ratio.png").is_file()

    # Weights do not tell heads and activation: every file says which towers they are of.
    towers = [torch.load(path, weights_only=True)["tower"] for path in (last, averaged)]
    assert towers[0] == towers[1] and towers[0]["config"]["quick_gelu"] is True
    assert towers[0] == {**describe_tower(tiny / "clip.pt").to_dict(), "source": ANY}
    assert json.loads((tested / "results.json").read_text())["tower"]["sha256"] == (
        describe_tower(tiny / "clip.pt").digest())

    # One ratio alone gives the same predictions as the sweep, and ratio 1 is CLIP itself.
    single, raw = tmp_path / "single", tmp_path / "raw"
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, single, TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True, TEST__CUSTOM_LOAD_FILE=averaged,
        TEST__PATCHING_MODEL=True, TEST__PATCHING_RATIO=0.3, TEST__SAVE_RESULTS_PATH="preds.pt"))
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, raw, TRAIN__ENABLE=False, TEST__SAVE_RESULTS_PATH="preds.pt"))
    for path, ratio in ((single, 0.3), (raw, 1.0)):
        ours = load_predictions(path / "preds.pt")[0]
        swept = load_predictions(tested / f"preds_ratio{ratio:.2f}.pt")[0]
        torch.testing.assert_close(ours, swept, atol=1e-5, rtol=0)


def test_raw_clip_stays_raw_and_trained_weights_are_named(tiny, tool, tmp_path, empty_cfg):
    out = tmp_path / "run"
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, out, SOLVER__MAX_EPOCH=1, TEST__ENABLE=False))
    output = tool("run_net", "--cfg", empty_cfg, "--opts",
                  *options(tiny, out, TRAIN__ENABLE=False)).output
    assert "testing the untouched CLIP" in output
    assert "lies in OUTPUT_DIR but is not tested" in output
    assert json.loads((out / "results.json").read_text())["checkpoint"] is None


def test_two_processes_train_and_test_like_one(tiny, tmp_path, empty_cfg, repo, tool):
    """torchrun with two gloo processes: same weights, every video scored once."""
    # SGD: AdamW's first updates turn a gradient's rounding into a step of full size.
    changes = {**INTERPOLATED, "TEST__SAVE_RESULTS_PATH": "preds.pt", "SOLVER__MAX_EPOCH": 1,
               "SOLVER__OPTIMIZING_METHOD": "sgd", "SOLVER__BASE_LR": 0.01,
               "TRAIN__EVAL_PATCHING_RATIO": 0.5}
    alone, both = tmp_path / "alone", tmp_path / "both"
    tool("run_net", "--cfg", empty_cfg, "--opts", *options(tiny, alone, **changes))
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(repo / "tools" / "run_net.py"), "--cfg", str(empty_cfg), "--opts",
         *options(tiny, both, **changes)],
        capture_output=True, text=True, timeout=180, cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    name = "checkpoints/checkpoint_epoch_00001.pyth"
    states = [torch.load(d / name, weights_only=True)["model_state"] for d in (alone, both)]
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, atol=1e-6, rtol=0)
    assert read_stats(alone, "val_epoch") == read_stats(both, "val_epoch")
    # Each process tells the progress of its own share: groups of four.
    for out, share in ((alone, 6), (both, 4)):
        log = (out / "stdout.log").read_text()
        assert f"validation after epoch 1: {share}/{share} videos" in log
    preds = [load_predictions(d / "preds.pt") for d in (alone, both)]
    torch.testing.assert_close(preds[0][0], preds[1][0], atol=1e-3, rtol=0)
    assert torch.equal(preds[0][1], preds[1][1])


@pytest.mark.parametrize("changes", [
    {"TRAIN__MIXED_PRECISION": True, "TRAIN__AMP_DTYPE": "bfloat16", "TEST__MIXED_PRECISION": True},
    {"TRAIN__MIXED_PRECISION": True, "TRAIN__AMP_DTYPE": "float16", "TEST__MIXED_PRECISION": True},
    {"TRAIN__GRAD_ACCUM_STEPS": 2, "MODEL__USE_CHECKPOINT": True},
    pytest.param({"MODEL__COMPILE": True, "MODEL__USE_CHECKPOINT": True,
                  "TRAIN__MIXED_PRECISION": True, "TRAIN__AMP_DTYPE": "bfloat16",
                  "TEST__MIXED_PRECISION": True},
                 marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")),
    {"AUG__ENABLE": True, "AUG__NUM_SAMPLE": 2, "MIXUP__ENABLE": True,
     "MODEL__LOSS_FUNC": "soft_cross_entropy"},
    {"TUNE_HEAD": True, "SOLVER__OPTIMIZING_METHOD": "sgd"},
    {"MODEL__TEMPORAL_MODELING_TYPE": "stadapt_zeroinit", "TEST__NUM_SPATIAL_CROPS": 3},
    {"MODEL__TEMPORAL_MODELING_TYPE": "cross_frame_attend", "DATA__ENSEMBLE_METHOD": "max"},
    {"MODEL__TEMPORAL_MODELING_TYPE": "None", "MODEL__MODEL_NAME": "BasicClipVideo",
     "TEST__NUM_TEMPORAL_CLIPS": "[1,2]"},
], ids=lambda c: next(iter(c.values())) if isinstance(c, dict) else None)
def test_options_run_to_the_end(tiny, tmp_path, empty_cfg, changes, in_process):
    in_process(empty_cfg, options(tiny, tmp_path / "run", **{
        **INTERPOLATED, "SOLVER__MAX_EPOCH": 1, "TEST__PATCHING_MODEL": True, **changes}))
    found = sorted(p.parent.name for p in (tmp_path / "run").rglob("results.json"))
    wanted = ["views_1", "views_2"] if "TEST__NUM_TEMPORAL_CLIPS" in changes else ["run"]
    assert found == wanted
    reports = sorted(p.parent.name for p in (tmp_path / "run").rglob("report.html"))
    assert reports == wanted


def test_tests_compute_in_fp32_whatever_training_does(
    tiny, tmp_path, empty_cfg, in_process
):
    def run(name, **changes):
        out = tmp_path / name
        in_process(empty_cfg, options(tiny, out, TRAIN__ENABLE=False,
                                      TEST__SAVE_RESULTS_PATH="p.pkl", **changes))
        results = json.loads((out / "results.json").read_text())
        return load_predictions(out / "p.pkl")[0], results["precision"]

    plain, precision = run("plain")
    published, same = run("published", TRAIN__MIXED_PRECISION=True, TRAIN__AMP_DTYPE="bfloat16")
    mixed, other = run("mixed", TEST__MIXED_PRECISION=True, TRAIN__AMP_DTYPE="bfloat16")
    assert torch.equal(plain, published) and not torch.equal(plain, mixed)
    assert (precision, same, other) == ("float32", "float32", "bfloat16")


def test_validation_takes_the_tests_precision(tiny, tmp_path, empty_cfg):
    def build(*changes):
        cfg = load_cfg(str(empty_cfg), [*options(tiny, tmp_path), *changes])
        return build_trainer(cfg)

    mixed = ["TRAIN.MIXED_PRECISION", "True", "TRAIN.AMP_DTYPE", "bfloat16"]
    trainer = build(*mixed)
    assert trainer.validator.autocast is nullcontext and trainer.step.autocast is not nullcontext
    trainer = build("TEST.MIXED_PRECISION", "True")
    assert trainer.validator.autocast is not nullcontext and trainer.step.autocast is nullcontext


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_val_mode_builds_nothing_that_trains(tiny, tmp_path, empty_cfg, caplog, ratio):
    caplog.set_level("INFO", logger="openvclip")
    opts = options(tiny, tmp_path, VAL_MODE=True, TRAIN__EVAL_PATCHING_RATIO=ratio, **INTERPOLATED)
    trainer = build_trainer(load_cfg(str(empty_cfg), opts))
    assert trainer.optimizer is None and type(trainer.step) is PlainStep
    assert "optimizer" not in caplog.text and "interpolated training" not in caplog.text
    mixing = [line for line in caplog.messages if line.startswith("mixing")]
    assert len(mixing) == (ratio > 0) and all(m.endswith("for patched validation") for m in mixing)


def test_the_log_says_what_weights_are_mixed_for(tiny, tmp_path, empty_cfg, caplog):
    caplog.set_level("INFO", logger="openvclip")
    given = {"TRAIN__EVAL_PATCHING_RATIO": 0.3}
    build_trainer(load_cfg(str(empty_cfg), options(tiny, tmp_path, **given)))
    build_trainer(load_cfg(str(empty_cfg), options(tiny, tmp_path, **given, **INTERPOLATED)))
    mixing = [line for line in caplog.messages if line.startswith("mixing")]
    assert [line.split("clip.pt ")[1] for line in mixing] == [
        "for patched validation", "in training"]


def test_val_mode_validates_and_stops(tiny, tmp_path, empty_cfg, in_process):
    in_process(empty_cfg, options(tiny, tmp_path / "run", VAL_MODE=True))
    assert len(read_stats(tmp_path / "run", "val_epoch")) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "results.json").exists()


def test_val_mode_says_the_epoch_of_what_it_validates(tiny, tmp_path, empty_cfg, in_process):
    given = {"SOLVER__MAX_EPOCH": 2, "TEST__ENABLE": False, "TRAIN__EVAL_PERIOD": 1}
    in_process(empty_cfg, options(tiny, tmp_path, **given))
    in_process(empty_cfg, options(tiny, tmp_path, **given, VAL_MODE=True))
    lines = map(json.loads, (tmp_path / "json_stats.jsonl").read_text().splitlines())
    found = [line for line in lines if line["_type"] == "val_epoch"]
    assert [line["epoch"] for line in found] == ["1/2", "2/2", "2/2"]
    assert found[2]["top1_acc"] == found[1]["top1_acc"]


def test_val_mode_patches_as_a_test_would(tiny, tmp_path, empty_cfg):
    state = torch.load(tiny / "clip.pt", weights_only=True)
    rng = torch.Generator().manual_seed(0)
    tuned = {f"model.{n}": t + 0.1 * torch.randn(t.shape, generator=rng) * n.startswith("visual")
             for n, t in state.items()}
    torch.save({"model_state": tuned}, tmp_path / "tuned.pyth")

    def validate(**changes):
        cfg = load_cfg(str(empty_cfg), options(tiny, tmp_path, VAL_MODE=True, **changes))
        trainer = build_trainer(cfg)
        found = trainer.validator.predict(trainer.model, 0, trainer.stop)
        (tmp_path / "json_stats.jsonl").unlink(missing_ok=True)
        trainer.validator.report(found, 0)
        return ({ratio: predictions.scores for ratio, predictions in found.items()},
                read_stats(tmp_path, "val_epoch"))

    weights = {"TRAIN__CUSTOM_LOAD": True, "TRAIN__CUSTOM_LOAD_FILE": tmp_path / "tuned.pyth"}
    clip, _ = validate()
    plain, (line,) = validate(**weights)
    assert "patching_ratio" not in line and not torch.equal(plain[0.0], clip[0.0])
    found, (line,) = validate(**weights, TEST__PATCHING_MODEL=True, TEST__PATCHING_RATIO=1.0)
    assert line["patching_ratio"] == 1.0 and "top1_acc_patched" in line
    torch.testing.assert_close(found[1.0], clip[0.0], atol=1e-5, rtol=0)
    assert torch.equal(found[0.0], plain[0.0]), "the log has both, by name"
    found, lines = validate(**weights, TEST__PATCHING_RATIOS="[0.0,0.5,1.0]")
    assert list(found) == [0.0, 0.5, 1.0] and not torch.equal(found[0.5], found[1.0])
    assert [line["patching_ratio"] for line in lines] == [0.5, 1.0]
    assert "top1_acc" in lines[0] and "top1_acc" not in lines[1]


def test_val_mode_with_nothing_to_patch_is_said(tiny, tmp_path, empty_cfg):
    opts = options(tiny, tmp_path, VAL_MODE=True, TEST__PATCHING_MODEL=True)
    cfg = load_cfg(str(empty_cfg), opts)
    with pytest.raises(ConfigError, match="nothing to patch: give TRAIN.CUSTOM_LOAD True"):
        build_trainer(cfg)


@pytest.mark.parametrize("interpolated", [{}, INTERPOLATED], ids=["plain", "interpolated"])
def test_factor_zero_freezes(tiny, tmp_path, empty_cfg, in_process, interpolated):
    out = tmp_path / "run"
    changes = {**interpolated, "MODEL__MLP_FINETUNE_FACTOR": 0.0, "TEST__ENABLE": False,
               "MODEL__USE_CHECKPOINT": True, "TRAIN__EVAL_PATCHING_RATIO": 0.5}
    in_process(empty_cfg, options(tiny, out, SOLVER__MAX_EPOCH=1, **changes))
    start = torch.load(tiny / "clip.pt", weights_only=True)
    content = torch.load(out / "checkpoints/checkpoint_epoch_00001.pyth", weights_only=True)
    state = content["model_state"]
    mlp = [name for name in state if name.startswith("model.visual") and ".mlp." in name]
    assert mlp and all(torch.equal(state[n], start[n.removeprefix("model.")]) for n in mlp)
    attn = "model.visual.transformer.resblocks.0.attn.in_proj_weight"
    assert not torch.equal(state[attn], start[attn.removeprefix("model.")])
    optimizer = content["optimizer_state"]
    names = [name for group in optimizer["param_groups"] for name in group["names"]]
    assert not any(".mlp." in name for name in names) and attn in names
    in_process(empty_cfg, options(tiny, out, SOLVER__MAX_EPOCH=2, **changes))
    assert (out / "checkpoints/checkpoint_epoch_00002.pyth").is_file()
    assert "parameters are frozen: their learning-rate factor is 0" in (
        out / "stdout.log").read_text()


def test_frozen_parameters_have_no_gradient_and_no_share_of_the_norm(tiny, tmp_path, empty_cfg):
    def step(**changes):
        cfg = load_cfg(str(empty_cfg), options(tiny, tmp_path, SOLVER__MAX_EPOCH=1, **changes))
        trainer = build_trainer(cfg)
        trainer.train_loader.set_epoch(0, 0)
        batch = next(iter(trainer.train_loader))
        trainer.step(batch["video"], batch["label"], 0)
        grads = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        return grads, trainer._clip_gradients(), trainer

    grads, norm, _ = step(MODEL__MLP_FINETUNE_FACTOR=0.5)
    rest, less, trainer = step(MODEL__MLP_FINETUNE_FACTOR=0.0, **INTERPOLATED)
    plain, other, _ = step(MODEL__MLP_FINETUNE_FACTOR=0.0)
    assert any(".mlp." in name for name in grads) and not any(".mlp." in n for n in [*rest, *plain])
    assert not any(".mlp." in name for name in trainer.step.interpolator.names)
    # The two plain steps are the same but for what is frozen.
    assert set(plain) == {name for name in grads if ".mlp." not in name}
    assert 0 < other < norm and less > 0


def test_multi_label_reports_mean_average_precision(tiny, tmp_path, empty_cfg, in_process):
    lists = tmp_path / "lists"
    shutil.copytree(tiny, lists, ignore=shutil.ignore_patterns("videos"))
    for split in ("train", "val", "test"):
        rows = (lists / f"{split}.csv").read_text().split()
        text = "\n".join((lists / f"{split}.csv").read_text().splitlines())
        assert rows
        (lists / f"{split}.csv").write_text(text.replace(",0", ",0;2") + "\n")
    in_process(empty_cfg, options(
        tiny, tmp_path / "run", DATA__PATH_TO_DATA_DIR=lists, DATA__MULTI_LABEL=True,
        MODEL__LOSS_FUNC="bce_logit", SOLVER__MAX_EPOCH=1))
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert 0 < row["map_decoded"] <= 100
    assert "mean average precision" in (tmp_path / "run" / "report.html").read_text()
    assert read_stats(tmp_path / "run", "val_epoch")[0]["map"] > 0


def test_bad_videos_are_replaced_in_training_and_counted_in_testing(
    tiny, tmp_path, empty_cfg, in_process
):
    root = tmp_path / "data"
    shutil.copytree(tiny, root)
    victims = [root / "videos" / s / CLASSES[0] / "0.mp4" for s in ("train", "val", "test")]
    for path in victims:
        path.write_bytes(b"not a video")
    out = tmp_path / "run"
    in_process(empty_cfg, options(root, out, SOLVER__MAX_EPOCH=1, DATA__MAX_BAD_FRACTION=0.5))
    with open(out / "bad_videos.csv", newline="") as file:
        (bad,) = csv.DictReader(file)
    assert bad["path"] == str(victims[0])
    results = json.loads((out / "results.json").read_text())
    assert [f["path"] for f in results["failed"]] == [str(victims[2])]
    (row,) = results["results"]
    assert row["top1"] == pytest.approx(row["top1_decoded"] * 8 / 9)
    assert read_stats(out, "val_epoch")[0]["failed"] == 1


def test_two_shards_meet_by_init_method(tiny, tmp_path, empty_cfg, repo):
    """PySlowFast's own way to start: one command on each machine, here the same one."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "run"
    commands = [
        [sys.executable, str(repo / "tools" / "run_net.py"), "--cfg", str(empty_cfg),
         "--num_shards", "2", "--shard_id", str(shard), "--init_method", f"tcp://localhost:{port}",
         "--opts", *options(tiny, out, SOLVER__MAX_EPOCH=1)]
        for shard in range(2)
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=repo,
                         env=environment, text=True)
        for c in commands
    ]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert json.loads((out / "results.json").read_text())["videos"] == 9
    assert "train_epoch" in outputs[0] and "train_epoch" not in outputs[1]
