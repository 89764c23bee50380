"""Experts and learning-rate factors: any number of processes, resuming, tests and predictions."""

from __future__ import annotations

import pytest
import torch
from conftest_integration import CLASSES, INTERPOLATED, options
from conftest_training import make_trainer, read_epochs, stop_after

from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.export import check_exportable
from openvclip.checkpoints.files import checkpoint_path, load_file, save_file
from openvclip.config import load_cfg
from openvclip.evaluation.build import build_runner
from openvclip.models.experts import Experts, expert_blocks, is_expert
from openvclip.models.resolve import build_resolved
from openvclip.predict.classifier import load_model
from openvclip.predict.input_spec import find_input_spec
from openvclip.report.run.predictions_file import load_predictions
from openvclip.training.build import build_trainer
from openvclip.utils.errors import CheckpointError, ConfigError

EXPERTS = {"MODEL__NUM_EXPERTS": 2, "MODEL__EXPERT_INSERT_LAYERS": "[1]",
           "MODEL__ROUTING_TYPE": "image-level", "MODEL__EXPERT_FINETUNE_FACTOR": 2.0,
           "MODEL__ROUTING_FINETUNE_FACTOR": 20.0}
ROUTING = {**EXPERTS, "MODEL__RECORD_ROUTING": True, "MODEL__LOSS_FREQ_TYPE": "mse",
           "MODEL__ROUTING_FREQUENCE_CONSTRAIN": 0.6, "MODEL__ROUTING_FREQ_CONS_FACTOR": 1.5,
           "MODEL__CLS_LOSS_RATIO": 0.8}
# 12 rows: one batch of 8 an epoch.
SHORT = {**INTERPOLATED, "TRAIN__BATCH_SIZE": 8, "SOLVER__MAX_EPOCH": 4,
         "TRAIN__CHECKPOINT_PERIOD": 4, "TRAIN__EVAL_PERIOD": 4, "TEST__ENABLE": False}


@pytest.fixture(scope="module")
def train(double):
    """Train in float64 with some processes; returns the weights and the log's epochs."""

    def start(processes, **changes):
        run = double(processes, **{**SHORT, **changes})
        return run.state, run.epochs

    return start


@pytest.mark.parametrize(("changes", "ways"), [
    (ROUTING, {}),
    ({**EXPERTS, "MODEL__ROUTING_TYPE": "patch-level"}, {"TRAIN__SHARDING": "fsdp"}),
], ids=["routing, ddp", "fsdp"])
def test_two_processes_equal_one(changes, ways, train):
    """Interpolated; the two accumulate, and checkpoint activations."""
    state, rows = train(1, **changes)
    other, other_rows = train(2, **changes, **ways, TRAIN__GRAD_ACCUM_STEPS=2,
                              MODEL__USE_CHECKPOINT=True)
    assert sum(map(is_expert, state)) == 12
    for name, tensor in state.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-9, rtol=0, msg=name)
        if is_expert(name):
            assert not torch.equal(tensor, tensor.float().double()), f"{name} did not train"
    names = ["loss", "connect_loss", "total_loss", "grad_norm"]
    if "MODEL__RECORD_ROUTING" in changes:
        names += ["routing_loss", "connect_routing_loss", "clip_share_block_1"]
    for ours, theirs in zip(rows, other_rows, strict=True):
        for name in names:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5), name
            assert ours[name] > 0


def test_a_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(tiny, tmp_path):
    changes = {**INTERPOLATED, **ROUTING}
    make_trainer(tiny, tmp_path / "whole", **changes).run()
    stop_after(make_trainer(tiny, tmp_path / "parts", **changes), 8)  # the third of six
    resumed = make_trainer(tiny, tmp_path / "parts", **changes)
    assert (resumed.start_epoch, resumed.start_iteration) == (1, 2)
    resumed.run()
    whole, parts = (torch.load(checkpoint_path(tmp_path / folder, 2), weights_only=True)
                    for folder in ("whole", "parts"))
    for name, tensor in whole["model_state"].items():
        assert torch.equal(parts["model_state"][name], tensor), name
    for place, values in whole["optimizer_state"]["state"].items():
        for name, value in values.items():
            assert torch.equal(parts["optimizer_state"]["state"][place][name], value)
    ours, theirs = (read_epochs(tmp_path / folder)[-1] for folder in ("whole", "parts"))
    for name in ("routing_loss", "connect_routing_loss", "clip_share_block_1", "total_loss"):
        assert ours[name] == theirs[name]


def test_training_testing_averaging_and_predicting(tiny, tmp_path, empty_cfg, in_process):
    # Not the last block, whose class token alone counts, and has its own weights in both routings.
    run, first = tmp_path / "run", {"MODEL__EXPERT_INSERT_LAYERS": "[0]"}
    in_process(empty_cfg, options(tiny, run, TRAIN__EVAL_PATCHING_RATIO=0.5, TEST__ENABLE=False,
                                  TRAIN__BATCH_SIZE=8, **{**ROUTING, **first}))
    for row in read_epochs(run):
        total = 0.8 * row["loss"] + 1.5 * row["routing_loss"]
        assert row["total_loss"] == pytest.approx(total, rel=1e-4)
        assert 0 < row["clip_share_block_0"] < 1
    swa = average_checkpoints(run, start=1, end=2, output=run / "swa.pth")
    # After so few steps experts are all but copies, whose mixture is the same whatever the routing.
    content = load_file(swa)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in content["model_state"].items():
        if "experts_" in name or "routing" in name:
            content["model_state"][name] = tensor + torch.randn(tensor.shape, generator=generator)
    moved = save_file(run / "moved.pth", content)
    weights = {"TRAIN__ENABLE": False, "TEST__CUSTOM_LOAD": True, "TEST__CUSTOM_LOAD_FILE": moved,
               "TEST__PATCHING_RATIOS": "[0.5, 0.0]", "TEST__SAVE_RESULTS_PATH": "p.pt"}
    scores = {}
    for name, routing in (("image", "image-level"), ("patch", "patch-level")):
        in_process(empty_cfg, options(tiny, tmp_path / name, **{
            **weights, **EXPERTS, **first, "MODEL__ROUTING_TYPE": routing}))
        scores[name] = load_predictions(tmp_path / name / "p_ratio0.00.pt")[0]
    image, patch = (torch.as_tensor(scores[name]) for name in ("image", "patch"))
    assert float((image - patch).abs().max()) > 1e-2

    # A prediction finds them in the average's config.
    assert find_input_spec(swa).experts == Experts(2, (0,), "image-level")
    model = load_model(tiny / "clip.pt", swa, 0.5, device="cpu", views=1)
    (_, block), = expert_blocks(model.model)
    assert block.image_level
    video = min((tiny / "videos" / "test").rglob("*.mp4"))
    assert len(model.predict(video, CLASSES).ranking) == len(CLASSES)
    with pytest.raises(CheckpointError, match="weights of experts"):
        check_exportable(swa)
    with pytest.raises(CheckpointError,
                       match=r"NUM_EXPERTS 2 and MODEL.EXPERT_INSERT_LAYERS \[0\]"):
        build_runner(build_resolved(load_cfg(
            None, options(tiny, tmp_path / "none", **weights))), tmp_path / "none")


def test_what_is_frozen_costs_nothing(tiny, tmp_path):
    """No gradient, no share of the clipped norm, no optimizer state, no copy for mixing."""
    def build(folder, **changes):
        (tmp_path / folder).mkdir()
        return build_trainer(build_resolved(load_cfg(None, options(
            tiny, tmp_path / folder, **{**EXPERTS, **changes},
            TRAIN__BATCH_SIZE=8, TEST__ENABLE=False, SOLVER__MAX_EPOCH=1))))

    trainer = build("mlp", MODEL__DEFAULT_FINETUNE_FACTOR=0.0, **INTERPOLATED)
    assert all(".mlp." in name for name in trainer.step.interpolator.names)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    norms = []
    clip = trainer._clip_gradients

    def clip_gradients():
        squares = [p.grad.square().sum() for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack(squares).sum().sqrt()))
        assert clip() == pytest.approx(norms[-1], rel=1e-4)
        return norms[-1]

    trainer._clip_gradients = clip_gradients
    trainer.run()
    assert norms
    for name, parameter in trainer.model.named_parameters():
        trains = "visual" in name and (".mlp." in name or is_expert(name))
        assert (parameter in trainer.optimizer.state) is trains, name
        assert torch.equal(parameter, before[name]) is not trains, name
        assert trains or parameter.grad is None

    alone = {"MODEL__DEFAULT_FINETUNE_FACTOR": 0.0, "MODEL__MLP_FINETUNE_FACTOR": 0.0}
    with pytest.raises(CheckpointError, match="nothing to interpolate with"):
        build("alone", **alone, **INTERPOLATED)
    with pytest.raises(ConfigError, match=r"parameters are frozen: MODEL.DEFAULT_FINETUNE_FACTOR "
                       r"and MODEL.MLP_FINETUNE_FACTOR .*EXPERT_FINETUNE_FACTOR.* are 0"):
        build("all", **{**alone, **dict.fromkeys((
            "MODEL__EXPERT_FINETUNE_FACTOR", "MODEL__ROUTING_FINETUNE_FACTOR"), 0.0)})
