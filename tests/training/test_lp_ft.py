"""Linear probing, then fine-tuning: what trains when, at which rate, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.config import load_cfg
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.losses import cross_entropy
from openvclip.training.objectives.lp_ft import ProbeFirst
from openvclip.training.objectives.objective import Objective
from openvclip.training.step import PlainStep
from openvclip.utils.errors import ConfigError

SIZES = {"embed_dim": 12, "image_size": 16, "patch_size": 8, "vision_width": 64,
         "vision_layers": 1, "text_width": 64, "text_layers": 1, "context_length": 8,
         "vocab_size": 50}


class Shrink(Objective):
    """A penalty on all weights."""

    name = "shrink"

    def __init__(self, model):
        self.model = model

    def add_gradients(self, scale):
        for parameter in self.model.parameters():
            parameter.grad = parameter.detach().clone() * scale + (
                0 if parameter.grad is None else parameter.grad)


@pytest.fixture
def model():
    torch.manual_seed(0)
    clip = build_temporal_clip(CLIP(CLIPConfig(**SIZES)).state_dict(),
                               temporal_type="expand_temporal_view", num_frames=2)
    return VideoCLIP(clip, 2, F.normalize(torch.randn(3, 12), dim=-1), tune_head=True).double()


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(4, 3, 2, 16, 16).double(), torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("others", [(), (Shrink,)])
def test_only_the_head_gets_a_gradient_and_then_everything(model, batch, others):
    video, label = batch
    trained = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(F.cross_entropy(model(video), label), trained)
    probe = ProbeFirst(model, epochs=2, rate=3.0)
    step = PlainStep(model, cross_entropy, accumulate=2,
                     objectives=[probe, *(other(model) for other in others)])
    for epoch in range(3):
        probe.begin_epoch(epoch)
        model.zero_grad()
        step(video, label, epoch)
        assert probe.rate == (3.0 if epoch < 2 else 1.0)
        for parameter, gradient in zip(trained, wanted, strict=True):
            if epoch < 2 and parameter is not model.head:
                assert parameter.grad is None
                continue
            gradient = gradient + parameter.detach() if others else gradient
            torch.testing.assert_close(parameter.grad, gradient)
    assert all(p.requires_grad for p in trained)
    assert all(not p.requires_grad for p in model.model.text_parameters().values())


def test_probing_keeps_no_activations_of_the_towers(model, batch):
    probe = ProbeFirst(model, epochs=1)
    probe.begin_epoch(0)
    assert not model.embed_frames(batch[0]).requires_grad
    probe.begin_epoch(1)
    assert model.embed_frames(batch[0]).requires_grad


@pytest.mark.parametrize(("opts", "said"), [
    (["TRAIN.LP_FT.EPOCHS", 2], "TRAIN.LP_FT.EPOCHS is 2, which has no effect without TRAIN.LP_FT"),
    (["TRAIN.LP_FT.ENABLE", True],
     "TUNE_HEAD is False; with TRAIN.LP_FT.ENABLE True it must be True: the head is what is"),
    (["TRAIN.LP_FT.ENABLE", True, "TUNE_HEAD", True, "TRAIN.SHARDING", "fsdp"],
     "TRAIN.SHARDING is fsdp; with TRAIN.LP_FT.ENABLE True it must be ddp"),
    (["TRAIN.LP_FT.ENABLE", True, "TUNE_HEAD", True, "MODEL.STATIC_GRAPH", True],
     "MODEL.STATIC_GRAPH is True; with TRAIN.LP_FT.ENABLE True it must be False"),
    (["TRAIN.LP_FT.ENABLE", True, "TUNE_HEAD", True, "TRAIN.LP_FT.EPOCHS", 4,
      "SOLVER.MAX_EPOCH", 3], "TRAIN.LP_FT.EPOCHS is 4, but SOLVER.MAX_EPOCH is 3"),
    (["TRAIN.LP_FT.ENABLE", True, "TUNE_HEAD", True, "TRAIN.LP_FT.LR_FACTOR", 0.0],
     "TRAIN.LP_FT.LR_FACTOR is 0.0; TRAIN.LP_FT.ENABLE True needs more than 0"),
])
def test_settings_that_are_refused(opts, said):
    with pytest.raises(ConfigError, match=said):
        load_cfg(None, opts)
