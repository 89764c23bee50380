"""Videos that are in no list: found, and read with times."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from openvclip.data.video.sampling import ClipRequest, Sampling
from openvclip.data.video.video_io import read_clips
from openvclip.predict import video_file as own_video
from openvclip.predict.find_videos import find_videos
from openvclip.predict.video_file import probe, read_views
from openvclip.utils.errors import DataError


@pytest.mark.parametrize("name", ["bframes", "avi", "mkv", "ts", "raw", "opengop"])
def test_times_are_those_of_the_frames(videos, name):
    sampling = Sampling(num_frames=4, sampling_rate=6, target_fps=25)
    clips = read_clips(str(videos[name]), [ClipRequest(v, 2) for v in range(2)], sampling)
    shown = [round((frame.mean() - 20) / 5) for frame in clips.frames]
    # AVI numbers frames as they are stored, so that B-frames put it off by one.
    late = 1 if name == "avi" else 0
    assert [round(25 * second) - late for second in clips.seconds] == shown


def test_a_short_video_is_one_clip_spread_over_all_of_it(videos):
    sampling = Sampling(num_frames=4, sampling_rate=16, target_fps=25)
    clips, facts = read_views(str(videos["tenbit"]), sampling, views=3)
    assert (facts.count, facts.fps, facts.seconds) == (12, 25, pytest.approx(0.48))
    assert [clips.seconds[i] for i in clips.indices[0]] == pytest.approx([0, 0.12, 0.28, 0.44])
    assert len(clips.indices) == 1
    tested, _ = read_views(str(videos["tenbit"]), sampling, views=3, as_tested=True)
    expected = read_clips(str(videos["tenbit"]), [ClipRequest(v, 3) for v in range(3)], sampling)
    assert tested.indices == expected.indices and len(tested.indices) == 3
    assert np.array_equal(tested.frames, expected.frames)


def test_a_long_video_is_read_as_a_test_reads_it(videos):
    sampling = Sampling(num_frames=4, sampling_rate=5, target_fps=25)
    found, _ = read_views(str(videos["bframes"]), sampling, views=3)
    expected = read_clips(str(videos["bframes"]), [ClipRequest(v, 3) for v in range(3)], sampling)
    assert found.indices == expected.indices and np.array_equal(found.frames, expected.frames)


def test_videos_stored_turned_are_turned_back(videos, monkeypatch):
    sampling = Sampling(num_frames=4, sampling_rate=5, target_fps=25)
    stored, _ = read_views(str(videos["bframes"]), sampling, views=1)
    monkeypatch.setattr(own_video, "count_turns", lambda frame: 3)  # a quarter turn clockwise
    turned, facts = read_views(str(videos["bframes"]), sampling, views=1)
    assert facts.turns == 3
    assert np.array_equal(turned.frames, stored.frames[:, ::-1].transpose(0, 2, 1, 3))
    tested, _ = read_views(str(videos["bframes"]), sampling, views=1, as_tested=True)
    assert np.array_equal(tested.frames, stored.frames)


@pytest.mark.parametrize("degrees, turns", [(0, 0), (90, 1), (-90, 3), (180, 2), (-180, 2)])
def test_quarter_turns(degrees, turns):
    assert own_video.count_turns(SimpleNamespace(rotation=degrees)) == turns


def test_one_frame_is_enough(videos):
    clips, _ = read_views(str(videos["single"]), Sampling(), views=3)
    assert clips.indices == [(0,) * 8]


@pytest.mark.parametrize("name", ["garbage", "empty", "audio", "missing"])
def test_what_is_no_video_says_so(videos, name):
    with pytest.raises(DataError, match=videos[name].name):
        probe(str(videos[name]))


def test_files_folders_and_patterns_are_found_once(videos, tmp_path):
    for name in ("b/two.mp4", "a[1].mp4", "b/one.MKV", "b/c/three.avi", ".hidden.mp4", "no.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(videos["single"], tmp_path / name)
    root = str(tmp_path)
    everything = [f"{root}/{n}" for n in ("a[1].mp4", "b/c/three.avi", "b/one.MKV", "b/two.mp4")]
    assert find_videos([root]) == everything
    assert find_videos([f"{root}/b/two.mp4", root])[0] == f"{root}/b/two.mp4"
    assert len(find_videos([f"{root}/b/two.mp4", root, root])) == 4
    assert find_videos([f"{root}/a[1].mp4"]) == [f"{root}/a[1].mp4"]
    assert find_videos([f"{root}/b/*.mp4"]) == [f"{root}/b/two.mp4"]
    assert set(find_videos([f"{root}/*"])) == {*everything, f"{root}/no.txt"}
    (tmp_path / "empty").mkdir()
    for wrong, said in (("nowhere.mp4", "does not exist"), (f"{root}/*.gif", "matches no file"),
                        (f"{root}/empty", "has no videos"), ("a\0b.mp4", "does not exist"),
                        ("a\0*.mp4", "matches no file")):
        with pytest.raises(DataError, match=said):
            find_videos([root, wrong])


def test_large_videos_are_read_one_after_the_other(videos, monkeypatch):
    reading, most = 0, 0
    whole = own_video.read_clips

    def watched(*args, **options):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        found = whole(*args, **options)
        reading -= 1
        return found

    monkeypatch.setattr(own_video, "read_clips", watched)
    monkeypatch.setattr(own_video, "LARGE", 64 * 48 - 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_views(str(videos["bframes"]), Sampling(), views=3), range(8)))
    assert most == 1
    assert own_video._ONE_LARGE.acquire(blocking=False)
    try:
        monkeypatch.setattr(own_video, "LARGE", 64 * 48)
        read_views(str(videos["bframes"]), Sampling(), views=3)  # Does not wait.
    finally:
        own_video._ONE_LARGE.release()
