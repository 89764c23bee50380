"""load_model and what it returns."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from openvclip import load_model
from openvclip.checkpoints import loading
from openvclip.checkpoints.files import save_file
from openvclip.clip.weights import load_clip
from openvclip.predict import classifier as predictor
from openvclip.predict import timelines
from openvclip.predict.classifier import VideoClassifier
from openvclip.predict.input_spec import InputSpec, find_input_spec
from openvclip.utils.errors import CheckpointError, ConfigError, DataError
from openvclip.utils.logging import Progress
from tests.data.conftest import write_video

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from conftest_integration import COLOURS, write_clip, write_tiny_clip  # noqa: E402

LABELS = ["red moving", "green resting", "blue blinking"]
WINDOWS_THAT_CANNOT_BE = [
    {"window": value} for value in (0, -1, 1e-9, 1e7, float("nan"), float("inf"))
] + [{"stride": value} for value in (0, -1, 1e-9, 1e300, float("nan"), float("inf"))]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny CLIP, weights that differ from it, and videos of which some are broken."""
    root = tmp_path_factory.mktemp("world")
    write_tiny_clip(root / "clip.pt")
    state = load_clip(root / "clip.pt")
    rng = torch.Generator().manual_seed(1)
    moved = {n: t + 0.05 * torch.randn(t.shape, generator=rng) if n.startswith("visual.") else t
             for n, t in state.items()}
    save_file(root / "tuned.pth", {"model_state": {f"model.{n}": t for n, t in moved.items()}})
    for number, colour in enumerate(COLOURS):
        write_clip(root / f"videos/{number}.mp4", colour, number, frames=30)
    (root / "videos/1_broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def model(world):
    return load_model(world / "clip.pt", world / "tuned.pth", 0.5, sampling_rate=3)


def visual(model) -> dict:
    return {name: p for name, p in model.model.named_parameters() if "visual" in name}


def test_weights_are_clips_the_checkpoints_or_between(world, model):
    plain = load_model(world / "clip.pt")
    tuned = load_model(world / "clip.pt", world / "tuned.pth")
    all_clip = load_model(world / "clip.pt", world / "tuned.pth", 1.0)
    assert plain.options.temporal_type is None
    assert tuned.options.temporal_type == "expand_temporal_view"
    for name, half in visual(model).items():
        a, b = visual(plain)[name], visual(tuned)[name]
        assert not torch.equal(a, b)
        assert torch.equal(a, visual(all_clip)[name])
        assert torch.allclose(half, (a + b) / 2, atol=1e-6)


def test_embeddings_have_the_documented_shapes_and_make_the_scores(world, model):
    video = model.encode_video(world / "videos/0.mp4")
    texts = model.encode_text(LABELS)
    assert video.shape == (model.embed_dim,) == (32,) and texts.shape == (3, 32)
    assert video.dtype == texts.dtype == torch.float32
    assert torch.allclose(texts.norm(dim=1), torch.ones(3)) and 0 < video.norm() <= 1
    scores = model.logit_scale * texts @ video
    found = model.predict(world / "videos/0.mp4", LABELS, top_k=2)
    best = scores.argsort(descending=True)[:2].tolist()
    assert [row.label for row in found.ranking] == [LABELS[i] for i in best]
    assert [row.score for row in found.ranking] == pytest.approx(scores[best].tolist(), abs=1e-4)
    assert len(found.times) == 3 and "red moving" in str(model.predict(
        str(world / "videos/0.mp4"), LABELS))


def test_a_clip_with_a_bias_says_yes_or_no_to_each_label(world):
    """As SigLIP was trained; fine-tuned with a softmax, labels share a probability of 1."""
    tower = load_model(world / "clip.pt")
    tower.model.model.logit_bias = torch.nn.Parameter(torch.tensor(-6.0))
    model = VideoClassifier(tower.model, tower.options)
    ranking = model.predict(world / "videos/0.mp4", LABELS).ranking
    scores = tower.logit_scale * tower.encode_text(LABELS) @ tower.encode_video(
        world / "videos/0.mp4") - 6.0
    wanted = {label: float(s) for label, s in zip(LABELS, scores, strict=True)}
    for row in ranking:
        assert row.score == pytest.approx(wanted[row.label], abs=1e-4)
        assert row.probability == pytest.approx(1 / (1 + math.exp(-row.score)), rel=1e-5)
    tuned = VideoClassifier(tower.model, replace(tower.options, loss="soft_cross_entropy"))
    rows = tuned.predict(world / "videos/0.mp4", LABELS).ranking
    assert sum(row.probability for row in rows) == pytest.approx(1.0)
    assert VideoClassifier(tower.model, replace(tower.options, loss="sigmoid")).single
    alone, shared = (each.timeline(world / "videos/0.mp4", LABELS).probabilities
                     for each in (model, tuned))
    torch.testing.assert_close(alone.logit().softmax(dim=1), shared, atol=1e-5, rtol=1e-4)
    assert (alone.sum(dim=1) < 0.9).all()


def test_many_videos_in_order_with_bad_ones_among_them(world, model):
    paths = sorted((world / "videos").iterdir()) + [world / "nowhere.mp4"]
    found = list(model.predict_many(paths, LABELS, workers=3))
    assert [item.video for item in found] == list(map(str, paths))
    assert [bool(item.error) for item in found] == [False, False, True, False, True]
    assert found[2].error.startswith(str(paths[2])) and found[2].ranking == []
    for item in (found[0], found[3]):
        alone = model.predict(item.video, LABELS)
        assert [row.score for row in alone.ranking] == pytest.approx(
            [row.score for row in item.ranking], abs=1e-4)
    with pytest.raises(DataError, match="1_broken.mp4"):
        model.predict(paths[2], LABELS)
    with pytest.raises(DataError, match="nowhere.mp4"):
        model.encode_video(paths[4])


def test_only_a_few_videos_are_read_ahead(world, model):
    asked = []

    def names():
        for number in range(100):
            asked.append(number)
            yield world / "videos/0.mp4"

    found = model.predict_many(names(), LABELS, workers=2)
    next(found)
    # A group is full with 8 clips of 3 videos' 3; beyond it two threads and one that waits.
    assert len(asked) <= 8


def test_texts_are_encoded_once_a_label_set(world, monkeypatch):
    calls = []
    whole = predictor.class_embeddings
    monkeypatch.setattr(predictor, "class_embeddings",
                        lambda *args, **kw: calls.append(args[1]) or whole(*args, **kw))
    model = load_model(world / "clip.pt", sampling_rate=3)
    video = world / "videos/0.mp4"
    for _ in range(3):
        model.predict(video, LABELS)
    list(model.predict_many([video] * 3, LABELS))
    model.timeline(video, LABELS)
    assert calls == [tuple(LABELS)]
    for number in range(predictor.LABEL_SETS + 3):
        model.encode_text([str(number)])
    assert len(model._texts) == predictor.LABEL_SETS


def test_a_timeline_of_the_whole_video_is_its_prediction(world, model):
    found = model.timeline(world / "videos/0.mp4", LABELS, window=1.0, stride=0.5)
    assert [span[0] for span in found.spans] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert found.spans[-1][1] == pytest.approx(3.0)
    assert found.probabilities.shape == (6, 3)
    assert torch.allclose(found.probabilities.sum(dim=1), torch.ones(6))
    assert found.segments()[0]["start"] == 0.0 and len(found.pictures) == 6
    # One window from 0 s on with the frames that the only view of a prediction takes.
    single = load_model(world / "clip.pt", world / "tuned.pth", 0.5, views=1, num_frames=6,
                        sampling_rate=15, as_tested=True)
    (row,) = single.timeline(world / "videos/0.mp4", LABELS, stride=3).probabilities
    ranking = single.predict(world / "videos/0.mp4", LABELS).ranking
    assert row.max().item() == pytest.approx(ranking[0].probability, abs=0.05)


def test_pictures_of_a_timeline_stay_few(world, model):
    found = model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1)
    numbers = list(found.pictures)
    assert len(found.spans) >= 29 and len(numbers) <= timelines.PICTURES
    assert numbers == list(range(0, len(found.spans), 2))


def test_a_timeline_has_a_bound_and_says_that_it_was_cut(world, model, monkeypatch):
    whole = model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1)
    assert not whole.cut and whole.merged == 0
    monkeypatch.setattr(timelines, "MOST_WINDOWS", 11)  # No multiple of the batch size.
    found = model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1)
    assert found.cut and found.spans == whole.spans[:11]
    assert torch.allclose(found.probabilities, whole.probabilities[:11], atol=1e-6)
    monkeypatch.setattr(timelines, "MOST_WINDOWS", len(whole.spans))
    assert not model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1).cut


@pytest.mark.parametrize("promised", [0.3, 3.0, 1e6])
def test_a_long_timeline_tells_how_far_it_is(world, model, monkeypatch, caplog, promised):
    caplog.set_level("INFO", logger="openvclip")
    model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1)
    assert "timeline of" not in caplog.text, "a short one has no lines"
    monkeypatch.setattr(timelines, "Progress", partial(Progress, period=0.0))
    monkeypatch.setattr(predictor, "probe", lambda path: SimpleNamespace(seconds=promised))
    found = model.timeline(world / "videos/0.mp4", LABELS, window=0.2, stride=0.1)
    lines = [line for line in caplog.messages if line.startswith("timeline of")]
    count = len(found.spans) + found.merged
    assert len(lines) > 5 and "windows/s, ETA" in lines[0]
    assert f"0.mp4: {count}/{count} windows" in lines[-1]
    assert not any(f"{n}/{n} " in line for line in lines[:-1] for n in range(count))


def test_windows_with_the_same_frames_are_encoded_once(world, model, tmp_path, monkeypatch):
    shown_at = [i if i < 20 else i + 86400 * 25 for i in range(40)]
    path = write_video(tmp_path / "gap.mp4", 40, shown_at=shown_at)
    encoded = []
    whole = model._encode_clips
    monkeypatch.setattr(model, "_encode_clips", lambda clips: encoded.append(len(clips)) or
                        whole(clips))
    found = model.timeline(path, LABELS)
    assert sum(encoded) == len(found.spans) < 20
    assert found.merged > 86400 / model.options.seconds and not found.cut
    segments = found.segments()
    assert segments[0]["start"] == 0 and segments[-1]["end"] == pytest.approx(86401.6)


def test_a_duration_of_nothing_is_not_the_callers_fault(world, model, monkeypatch):
    monkeypatch.setattr(predictor, "probe", lambda path: SimpleNamespace(seconds=1e-9))
    assert model.timeline(world / "videos/0.mp4", LABELS, stride=1.0).window == timelines.SHORTEST


def test_a_head_tuned_for_other_classes_is_left_out(world, tmp_path, caplog):
    state = torch.load(world / "tuned.pth", weights_only=True)["model_state"]
    save_file(tmp_path / "head.pth", {"model_state": {**state, "head": torch.eye(5, 32)}})
    found = load_model(world / "clip.pt", tmp_path / "head.pth")
    assert "head tuned for its own classes" in caplog.text
    assert found.encode_text(LABELS).shape == (3, 32)


def test_texts_come_from_the_patched_text_tower(world, tmp_path):
    state = dict(torch.load(world / "tuned.pth", weights_only=True)["model_state"])
    state["model.text_projection"] = state["model.text_projection"] * -3
    save_file(tmp_path / "text.pth", {"model_state": state})
    clips = load_model(world / "clip.pt").encode_text(LABELS)
    for ratio, sign in ((None, -1), (0.5, -1), (0.8, 1), (1.0, 1)):  # of ratio - 3 · (1 - ratio)
        found = load_model(world / "clip.pt", tmp_path / "text.pth", ratio)
        torch.testing.assert_close(found.encode_text(LABELS), sign * clips, atol=1e-6, rtol=0)


CONFIG = """
MODEL: {MODEL_NAME: TemporalClipVideo, TEMPORAL_MODELING_TYPE: channel_shift, NEWER_KEY: 3}
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, TARGET_FPS: 10, MEAN: [0.1, 0.2, 0.3]}
TRAIN: {ENABLE: true}
"""


def test_a_training_checkpoint_says_how_it_wants_videos(world, tmp_path, caplog):
    state = torch.load(world / "tuned.pth", weights_only=True)["model_state"]
    save_file(tmp_path / "epoch.pyth", {"model_state": state, "cfg": CONFIG})
    expected = InputSpec("channel_shift", 4, 2, 10, use_offset=False, mean=(0.1, 0.2, 0.3),
                            std=(0.225,) * 3, loss="cross_entropy")
    assert load_model(world / "clip.pt", tmp_path / "epoch.pyth").options == expected
    given = load_model(world / "clip.pt", tmp_path / "epoch.pyth", num_frames=6, sampling_rate=1,
                       temporal_type="none").options
    assert (given.num_frames, given.sampling_rate, given.temporal_type) == (6, 1, None)
    # Averaged weights: the config beside them, if it is of a training.
    averaged = tmp_path / "swa.pth"
    averaged.write_bytes((world / "tuned.pth").read_bytes())
    assert find_input_spec(averaged) == InputSpec()
    assert "contains no config" in caplog.text
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert find_input_spec(averaged) == expected
    (tmp_path / "config.yaml").write_text(CONFIG.replace("true", "false"))
    assert find_input_spec(averaged) == InputSpec()
    (tmp_path / "own.yaml").write_text("DATA: {NUM_FRAMES: 5}\n")
    assert find_input_spec(averaged, tmp_path / "own.yaml").num_frames == 5


@pytest.mark.parametrize("text, said", [
    ("DATA: [", "not yaml"), ("DATA: {NUM_FRAMES: many}", "NUM_FRAMES is 'many'"),
])
def test_a_config_that_cannot_be_is_named(world, tmp_path, text, said):
    save_file(tmp_path / "epoch.pyth", {"model_state": {}, "cfg": text})
    with pytest.raises(CheckpointError, match=f"epoch.pyth.*{said}"):
        find_input_spec(tmp_path / "epoch.pyth")


def test_what_cannot_be_is_refused_before_weights_are_read(world, monkeypatch):
    monkeypatch.setattr(loading, "load_tower", lambda _: pytest.fail("weights were read"))
    clip, tuned = world / "clip.pt", world / "tuned.pth"
    for args, options, kind, said in (
        ((clip, None, 0.5), {}, ConfigError, "no checkpoint is given"),
        ((clip, tuned, 1.5), {}, ConfigError, "ratio is 1.5"),
        ((clip, tuned, float("nan")), {}, ConfigError, "ratio is nan"),
        ((world / "no.pt",), {}, CheckpointError, "no.pt does not exist"),
        ((clip, world / "no.pth"), {}, CheckpointError, "no.pth does not exist"),
        ((clip, tuned), {"views": 0}, ConfigError, "views is 0"),
        ((clip, tuned), {"device": "gpu"}, ConfigError, "device is 'gpu'"),
        ((clip, tuned), {"device": "cuda:99"}, ConfigError, "device is 'cuda:99'"),
        ((clip, tuned), {"precision": "half"}, ConfigError, "precision is 'half'"),
        ((clip, tuned), {"num_frames": 0}, ConfigError, "number of frames is 0"),
        ((clip, tuned), {"sampling_rate": -1}, ConfigError, "sampling rate is -1"),
    ):
        with pytest.raises(kind, match=said):
            load_model(*args, **options)


def test_what_cannot_be_predicted_is_refused_before_videos_are_read(model):
    for call, kind in (
        (lambda: model.predict("nowhere.mp4", []), DataError),
        (lambda: model.predict("nowhere.mp4", "archery"), DataError),
        (lambda: model.predict("nowhere.mp4", ["a", "A"]), DataError),
        (lambda: model.predict("nowhere.mp4", LABELS, top_k=0), ConfigError),
        *((lambda given=given: model.timeline("nowhere.mp4", LABELS, **given), ConfigError)
          for given in WINDOWS_THAT_CANNOT_BE),
        (lambda: model.timeline("nowhere.mp4", LABELS, window=4, stride=0.1), ConfigError),
    ):
        with pytest.raises(kind) as error:
            call()
        assert "nowhere" not in str(error.value)


def test_half_precision_ranks_the_same(world, model):
    half = load_model(world / "clip.pt", world / "tuned.pth", 0.5, sampling_rate=3,
                      precision="bfloat16")
    exact = model.encode_video(world / "videos/1.mp4")
    found = half.encode_video(world / "videos/1.mp4")
    assert not torch.equal(found, exact) and torch.allclose(found, exact, atol=0.05)
