from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from openvclip.data import dataset
from openvclip.data.augment.clip import ClipAugment, RandomErasing
from openvclip.data.augment.randaugment import RandAugment
from openvclip.data.dataset import Pixels, RandomClips, VideoDataset, item_generator
from openvclip.data.lists.labels import VideoList
from openvclip.data.video.sampling import Sampling
from openvclip.data.video.video_io import Clips
from openvclip.utils.errors import DataError

GOOD = ("bframes", "mkv", "avi", "odd")


def build(videos, mode: str, names=GOOD, **options) -> VideoDataset:
    draws = {field.name: options.pop(field.name) for field in fields(RandomClips)
             if field.name in options}
    given = {
        "draws": RandomClips(**draws),
        "num_classes": 10,
        "sampling": Sampling(4, 4, 25),
        "pixels": Pixels(scales=(32, 40), size=32, mean=(0.0,) * 3, std=(1.0,) * 3),
        **options,
    }
    paths = [str(videos[name]) for name in names]
    return VideoDataset(mode, VideoList(paths, np.arange(len(paths))), **given)


def brightness(clip: torch.Tensor) -> list[int]:
    """Return which frames (3, T, H, W) shows: frame i of the fixtures has brightness 20 + 5 i."""
    return ((clip.mean((0, 2, 3)) * 255 - 20) / 5).round().int().tolist()


def test_training_items_repeat_exactly_and_differ_by_epoch(videos):
    data = build(videos, "train")
    first, again, later = data[0, 0], data[0, 0], data[1, 0]
    assert first["video"].shape == (1, 3, 4, 32, 32)
    assert first["video"].dtype == torch.float32
    assert torch.equal(first["video"], again["video"])
    assert not torch.equal(first["video"], later["video"])
    data.set_epoch(1)
    assert torch.equal(data[0]["video"], later["video"])
    other = build(videos, "train", seed=7)
    assert not torch.equal(first["video"], other[0, 0]["video"])


def test_generators_depend_on_each_of_their_seeds():
    seeds = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (-1, 0, 0, 0)]
    assert len({item_generator(*seed).uniform() for seed in seeds}) == len(seeds)


def test_training_clips_visit_the_whole_video(videos):
    data = build(videos, "train")
    starts = [brightness(data[epoch, 0]["video"][0])[0] for epoch in range(40)]
    assert min(starts) <= 5 and max(starts) >= 22


def test_repeated_samples_show_the_same_frames_cropped_anew(videos):
    data = build(videos, "train", num_sample=3, pixels=Pixels((34, 60), 32, flip=False))
    item = data[0, 1]
    assert item["video"].shape == (3, 3, 4, 32, 32)
    assert item["clip"].tolist() == [0, 1, 2]
    means = item["video"].mean((1, 3, 4))
    torch.testing.assert_close(means[0], means[1], atol=0.02, rtol=0)
    crops = [data.pixels.draw(48, 64, item_generator(0, 0, 1, s)) for s in range(3)]
    assert len({crop.resized for crop in crops}) > 1


def test_frame_rate_jitter_moves_frames_closer(videos):
    def span(fps_jitter):
        data = build(videos, "train", names=("bframes",), fps_jitter=fps_jitter)
        clips = [brightness(data[epoch, 0]["video"][0]) for epoch in range(10)]
        return np.mean([clip[-1] - clip[0] for clip in clips])

    assert span(100.0) < 0.7 * span(0.0)


def test_validation_is_the_first_view_and_the_centre(videos):
    data = build(videos, "val")
    item, again = data[0, 0], data[5, 0]
    assert torch.equal(item["video"], again["video"])
    assert brightness(item["video"][0]) == [0, 5, 10, 12]
    assert (item["label"].item(), item["index"], item["bad"]) == (0, 0, [])
    random = build(videos, "val", validation=True)
    assert not torch.equal(random[0, 0]["video"], random[1, 0]["video"])


def test_test_items_hold_views_times_crops(videos):
    data = build(videos, "test", views=3, crops=3)
    item = data[0]
    assert item["video"].shape == (9, 3, 4, 32, 32)
    assert item["clip"].tolist() == list(range(9))
    assert [brightness(clip)[0] for clip in item["video"]] == [0, 0, 0, 10, 10, 10, 19, 19, 19]
    single = build(videos, "test", views=3, crops=1)[0]["video"]
    assert [brightness(clip) for clip in single] == [brightness(c) for c in item["video"][1::3]]


def test_three_crops_lie_side_by_side(videos, monkeypatch):
    frames = np.tile(np.arange(96, dtype=np.uint8)[None, None, :, None], (4, 32, 1, 3))
    monkeypatch.setattr(
        dataset, "read_clips",
        lambda *_, keep, **__: Clips(list(map(keep, frames)), [(0, 1, 2, 3)]))
    data = build(videos, "test", views=1, crops=3)
    video = data[0]["video"] * 255
    assert [round(clip[0, 0, 0, 0].item()) for clip in video] == [0, 32, 64]


def test_an_unreadable_training_video_is_replaced_and_named(videos):
    data = build(videos, "train", names=("garbage", "bframes", "mkv"))
    item = data[0, 0]
    assert item["index"] in (1, 2)
    assert item["label"].item() == item["index"]
    assert item["bad"][0][0] == 0 and "garbage.mp4" in item["bad"][0][1]
    assert torch.equal(item["video"], data[0, 0]["video"])
    assert {data[epoch, 0]["index"] for epoch in range(20)} == {1, 2}


def test_training_gives_up_when_nothing_can_be_read(videos):
    data = build(videos, "train", names=("garbage", "empty", "audio"))
    with pytest.raises(DataError, match="10 videos .* in a row cannot be read"):
        data[0, 0]


@pytest.mark.parametrize("mode", ["val", "test"])
def test_an_unreadable_evaluation_video_is_reported(videos, mode):
    item = build(videos, mode, names=("bframes", "audio"))[0, 1]
    assert item["video"] is None
    assert item["bad"] == [(1, f"{videos['audio']}: has no video stream")]


def test_several_labels_become_a_vector(videos):
    data = build(videos, "val")
    data.videos = VideoList(data.videos.paths, [(0, 3), (1,), (2,), (9, 0)])
    assert data[0, 0]["label"].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert data.label_tensor().shape == (4, 10)
    assert data.label_tensor().sum(1).tolist() == [2, 1, 1, 2]


def test_rows_are_described_by_their_path(videos):
    data = build(videos, "val")
    assert data.describe([2, 0]) == [str(videos["avi"]), str(videos["bframes"])]
    assert data.label_tensor().tolist() == [0, 1, 2, 3]


def test_augmentation_is_for_training_alone(videos):
    augment = ClipAugment(RandAugment(9, 4, 0.5, True), RandomErasing(1.0))
    for mode in ("train", "val"):
        plain, changed = build(videos, mode), build(videos, mode, augment=augment)
        same = torch.equal(plain[0, 0]["video"], changed[0, 0]["video"])
        assert same == (mode == "val")
        assert changed[0, 0]["video"].shape == (1, 3, 4, 32, 32)


def test_relative_scales_replace_the_jitter(videos):
    pixels = Pixels((32, 40), 32, area=(0.1, 0.3))
    crop = pixels.draw(100, 100, np.random.default_rng(0))
    assert crop.region[2] * crop.region[3] < 3200
    assert crop.resized == (32, 32)


def test_unknown_mode(videos):
    with pytest.raises(ValueError, match="mode is 'valid'"):
        build(videos, "valid")


def test_items_leave_torchs_threads_alone(videos):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        build(videos, "val")[0, 0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
