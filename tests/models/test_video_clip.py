from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import DataError

SMALL = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1,
                   text_width=32, text_layers=1, vocab_size=64)


@pytest.fixture
def model() -> VideoCLIP:
    torch.manual_seed(0)
    return VideoCLIP(CLIP(SMALL), 3, F.normalize(torch.randn(5, 16), dim=-1))


def test_logits_are_the_mean_of_the_frames_logits(model):
    video = torch.randn(2, 3, 3, 16, 16)
    with torch.no_grad():
        logits = model(video)
        for clip, row in zip(video, logits, strict=True):
            frames = [F.normalize(model.model.encode_image(clip[:, t][None]), dim=-1)
                      for t in range(3)]
            scale = model.model.logit_scale.exp()
            expected = sum(scale * f @ model.classifier.T for f in frames) / 3
            torch.testing.assert_close(row[None], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3, 4, 16, 16), "4 frames per clip, but the model was built for 3.*DATA.NUM_FRAMES"),
     ((2, 3, 3, 16, 24), "16x24 pixels, this CLIP takes 16x16.*CROP_SIZE"),
     ((2, 3, 16, 16), r"expected a batch \(B, 3, T, H, W\)"),
     ((2, 1, 3, 16, 16), r"expected a batch \(B, 3, T, H, W\)")],
)
def test_batches_that_do_not_fit(model, shape, message):
    with pytest.raises(DataError, match=message):
        model(torch.zeros(shape))


def test_state_dict_holds_clip_behind_its_prefix_and_no_classifier(model):
    assert set(model.state_dict()) == {f"model.{name}" for name in model.model.state_dict()}


def test_text_tower_is_frozen(model):
    model(torch.randn(1, 3, 3, 16, 16)).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in model.named_parameters()
                       if n.startswith("model.visual.") or n == "model.logit_scale"}


def test_other_classes(model):
    video = torch.randn(1, 3, 3, 16, 16)
    before = model(video)
    model.set_classifier(model.classifier[[1, 0]])
    torch.testing.assert_close(model(video), before[:, [1, 0]])
    with pytest.raises(DataError, match=r"\(2, 15\) do not fit.*\(classes, 16\)"):
        model.set_classifier(torch.zeros(2, 15))


def test_tuned_head_trains():
    torch.manual_seed(0)
    classifier = F.normalize(torch.randn(5, 16), dim=-1)
    clip = CLIP(SMALL)
    fixed, tuned = VideoCLIP(clip, 2, classifier), VideoCLIP(clip, 2, classifier, tune_head=True)
    video = torch.randn(2, 3, 2, 16, 16)
    torch.testing.assert_close(tuned(video), fixed(video))
    F.cross_entropy(tuned(video), torch.tensor([0, 1])).backward()
    assert tuned.head.grad.abs().sum() > 0
    assert "head" in tuned.state_dict()
    tuned.head.data.copy_(2 * classifier.flip(0))  # its length does not matter
    torch.testing.assert_close(tuned(video), fixed(video).flip(1))


def test_logits_are_fp32_under_autocast(model):
    video = torch.randn(2, 3, 3, 16, 16)
    full = model(video)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(video)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, full)
    torch.testing.assert_close(logits, full, atol=0.3, rtol=0)
