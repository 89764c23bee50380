"""The demo's world and the dataset that is written of it."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from openvclip.data.lists.labels import LabelSpace, read_list
from openvclip.data.lists.retrieval import read_retrieval_list
from openvclip.demo import dataset as disk
from openvclip.demo import world
from openvclip.utils.errors import DataError

TINY = disk.DatasetSize(train=1, val=1, test=1, unseen=1, knew=1, val_knew=1)


def draw(action: str, shape: str = "circle", times=None, seed: int = 0) -> np.ndarray:
    times = np.arange(12.0) if times is None else times
    one = np.array([0])
    draws = np.random.default_rng(seed).random((1, world.DRAWS))
    kind, acting = world.SHAPES.index(shape), world.ACTIONS.index(action)
    scene = world.draw_scene(one, one + kind, one + acting, times[None], draws)
    return world.render(scene)[0]


def middle(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal and vertical centre, and area, of what is redder than the background."""
    red = np.clip(frames[..., 0].astype(float) - frames[..., 1] - 60, 0, None)
    area = red.sum((1, 2))
    axis = np.arange(frames.shape[1])
    return (red.sum(1) @ axis) / area, (red.sum(2) @ axis) / area, area


def test_actions_move_what_they_say() -> None:
    spread = {}
    for action in world.ACTIONS[:5]:
        x, y, area = middle(draw(action))
        spread[action] = (np.ptp(x), np.ptp(y), area.max() / area.min())
    assert np.allclose(spread["standing still"], (0, 0, 1))
    sideways, vertical = spread["moving sideways"], spread["moving vertically"]
    assert sideways[0] > 6 and sideways[1] < 0.5
    assert vertical[1] > 6 and vertical[0] < 0.5
    assert min(spread["going round"][:2]) > 6
    assert max(spread["pulsing"][:2]) < 0.5 and spread["pulsing"][2] > 2


def test_blinking_vanishes_and_returns() -> None:
    frames = draw("blinking").astype(int)
    contrast = (frames[..., 0] - frames[..., 1]).max((1, 2))
    assert contrast.max() > 120 and contrast.min() < 40


@pytest.mark.parametrize("action", world.ACTIONS)
def test_no_action_is_another_one_backwards(action: str) -> None:
    """Backwards, an action is the same action begun elsewhere: time enters through a sine only."""
    u = np.random.default_rng(1).random((1, world.DRAWS))
    u[0, 11] = 0.0
    back = u.copy()
    back[0, 11] = 0.5  # sin(pi - wt) = sin(wt): what wt from 0 shows, half a period later, mirrored
    one = np.array([0])
    args = (one, one, one + world.ACTIONS.index(action))
    period = 5.0 + 3.0 * u[0, 10]
    forwards = world.draw_scene(*args, np.linspace(0, period / 2, 9)[None], u)
    backwards = world.draw_scene(*args, np.linspace(0, -period / 2, 9)[None], back)
    np.testing.assert_allclose(backwards.centre[..., 0], forwards.centre[..., 0], atol=1e-5)
    np.testing.assert_allclose(backwards.radius, forwards.radius, atol=1e-5)
    np.testing.assert_allclose(backwards.opacity, forwards.opacity, atol=1e-5)


def test_shapes_and_colours_differ_and_edges_are_smooth() -> None:
    images = {shape: draw("standing still", shape)[0].astype(int) for shape in world.SHAPES}
    for first in world.SHAPES:
        for second in world.SHAPES:
            if first != second:
                assert np.abs(images[first] - images[second]).max() > 60, (first, second)
    reds = images["circle"][..., 0]
    assert len(np.unique(reds // 16)) > 4  # more than figure and ground


def test_an_unseen_class_has_one_word_that_training_never_shows() -> None:
    maps = disk.label_maps()
    assert [len(maps[k]) for k in ("trained", "unseen", "knew")] == [72, 144, 48]
    assert "red bar moving sideways" in maps["trained"]
    assert not set(maps["trained"]) & set(maps["unseen"])
    seen = {word for name in maps["trained"] for word in name.split()[:2]}
    for name in maps["unseen"]:
        assert len(seen & set(name.split()[:2])) == 1, name


def test_stills_follow_their_generator_and_captions() -> None:
    images, captions = world.captioned_stills(200, np.random.default_rng(3))
    again, same = world.captioned_stills(200, np.random.default_rng(3))
    assert images.shape == (200, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, again) and captions == same
    naming = [c for c in captions if any(action in c for action in world.ACTIONS)]
    assert 60 < len(naming) < 140
    assert all(any(f"{c} {s}" in text for c in world.COLOURS for s in world.SHAPES)
               for text in captions)
    other, _ = world.captioned_stills(200, np.random.default_rng(4))
    assert not np.array_equal(images, other)


def test_long_exposure_streaks_along_the_movement() -> None:
    """A caption's action can be seen in its still."""
    images, captions = world.captioned_stills(1500, np.random.default_rng(5))
    widths = {}
    for action in ("moving sideways", "moving vertically"):
        rows = [i for i, c in enumerate(captions) if f"red circle {action}" in c]
        red = np.clip(images[rows, :, :, 0].astype(float) - images[rows, :, :, 1] - 40, 0, None) > 0
        widths[action] = red.any(1).sum(1).mean() / red.any(2).sum(1).mean()
    assert widths["moving sideways"] > 1.2 > 0.85 > widths["moving vertically"]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> object:
    root = tmp_path_factory.mktemp("demo")
    assert disk.write_dataset(root, seed=1, size=TINY)
    return root


def test_lists_and_maps_are_any_datasets(written) -> None:
    for folder, labels, name, count in (
        ("trained", "trained", "train", 72), ("trained", "trained", "val", 72),
        ("trained", "trained", "test", 72), ("val_trained", "trained", "test", 72),
        ("unseen", "unseen", "test", 144), ("knew", "knew", "test", 48),
        ("val_knew", "knew", "test", 48),
    ):
        space = LabelSpace.from_json(written / f"{labels}-index2cls.json")
        rows = read_list(written / folder / f"{name}.csv", prefix=str(written / "videos"),
                         num_classes=len(space))
        assert len(rows) == count and sorted(set(rows.labels)) == list(range(len(space)))


def test_clips_are_h264_and_keep_their_colours(written) -> None:
    clips = disk.clip_lists(TINY)[0]
    expected = disk.render_clips(clips, [5], seed=1)[0]
    with av.open(str(written / "videos" / clips.rows()[5][0])) as video:
        stream = video.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.frames == world.FRAMES_PER_CLIP
        assert stream.average_rate == world.FPS
        frames = np.stack([f.to_ndarray(format="rgb24") for f in video.decode(stream)])
    assert np.abs(frames.astype(int) - expected).mean() < 5


def test_no_clip_occurs_twice(written) -> None:
    files = [p.read_bytes() for p in (written / "videos").rglob("*.mp4")]
    assert len(set(files)) == len(files) == 72 * 3 + 144 + 48 * 2


def test_a_half_written_dataset_is_completed(written) -> None:
    videos = sorted((written / "videos" / "unseen").glob("*.mp4"))
    before = videos[3].read_bytes()
    kept = videos[4].stat().st_mtime_ns
    assert not disk.write_dataset(written, seed=1, size=TINY)  # all there: nothing to do
    videos[3].unlink()
    videos[7].write_bytes(b"")
    (written / "dataset.json").rename(written / "dataset.partial.json")
    (written / "unseen" / "test.csv").unlink()
    assert disk.write_dataset(written, seed=1, size=TINY)
    assert videos[3].read_bytes() == before and videos[7].stat().st_size > 0
    assert videos[4].stat().st_mtime_ns == kept
    assert (written / "unseen" / "test.csv").exists() and (written / "dataset.json").exists()


def test_other_parameters_are_refused(written) -> None:
    with pytest.raises(DataError, match="dataset.json describes other demo data"):
        disk.write_dataset(written, seed=2, size=TINY)
    with pytest.raises(DataError, match="above 0"):
        TINY.scaled(0)


def test_a_clip_does_not_depend_on_the_others() -> None:
    clips = disk.clip_lists(TINY)[3]
    alone = disk.render_clips(clips, [9], seed=4)[0]
    assert np.array_equal(alone, disk.render_clips(clips, range(5, 20), seed=4)[4])
    assert not np.array_equal(alone, disk.render_clips(clips, [9], seed=5)[0])


def test_captions_tell_what_the_clip_shows(written) -> None:
    clips = disk.clip_lists(disk.DatasetSize())[2]
    assert disk.caption_clip(clips, 4, 2).startswith("a large red triangle standing still")
    large, small, high, low = [], [], [], []
    for row in range(clips.per_class):  # of "red triangle standing still"
        said = disk.caption_clip(clips, row, seed=2)
        _, y, area = middle(disk.render_clips(clips, [row], seed=2)[0])
        (large if "large" in said else small if "small" in said else []).append(area[0])
        (high if "top" in said else low if "bottom" in said else []).append(y[0])
    assert min(large) > max(small) and max(high) < min(low)
    quick, slow = (np.full(world.DRAWS, u) for u in (0.1, 0.9))
    assert world.describe_clip("red bar blinking", quick) == (
        "a small red bar blinking quickly near the top on a black background.")
    assert world.describe_clip("red bar standing still", slow) == (
        "a large red bar standing still near the bottom on a grey background.")


def test_caption_files_are_lists_for_training_and_retrieval(written) -> None:
    said = json.loads((written / "captions" / "train.json").read_text())
    assert len(said) == 72 and all((written / "videos" / path).is_file() for path in said)
    names = disk.label_maps()["trained"]
    rows = read_list(written / "trained" / "train.csv", num_classes=72)
    for path, label in zip(rows.paths, rows.labels, strict=True):
        assert all(word in said[path].split(" on a ")[0] for word in names[label].split())
    assert len(set(said.values())) > 65
    for name, count in (("trained", 72), ("val_trained", 72), ("unseen", 144)):
        found = read_retrieval_list(written / "retrieval" / f"{name}.json",
                                    prefix=str(written / "videos"))
        assert len(found.captions) == len(found.videos) == count
    sizes = {path.name: len(json.loads(path.read_text())) for path in
             (written / "retrieval").iterdir()}
    assert sizes == {"trained.json": 72, "val_trained.json": 72, "unseen.json": 144}


def test_captions_are_added_to_a_dataset_that_has_none(written) -> None:
    before = (written / "dataset.json").read_bytes()
    for name in ("captions/train.json", "retrieval/unseen.json"):
        text = (written / name).read_text()
        (written / name).unlink()
        assert disk.write_dataset(written, seed=1, size=TINY)
        assert (written / name).read_text() == text
    assert not disk.write_dataset(written, seed=1, size=TINY)
    assert (written / "dataset.json").read_bytes() == before


def test_label_map_is_json_in_order(written) -> None:
    table = json.loads((written / "unseen-index2cls.json").read_text())
    assert list(table) == [str(i) for i in range(144)]
    assert list(table.values()) == disk.label_maps()["unseen"]
