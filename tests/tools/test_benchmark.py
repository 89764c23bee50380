"""``tools/benchmark.py``: what it measures against is right, and its tables are whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import benchmark
from benchmarks import clips, straightforward
from benchmarks.measure import time_in_turn
from benchmarks.settings import Settings
from benchmarks.targets import summarize

SMALL = ["--frames", "4", "--sampling-rate", "4", "--scale", "32", "--crop", "32",
         "--train-scales", "32", "40"]
SETTINGS = Settings(views=3, frames=4, sampling_rate=4, scale=32, crop=32, train_scales=(32, 40))


def write_video(path, *, frames=60, keyframes=12, bframes=2, codec="libx264"):
    """Write noise, with keyframes at regular distances."""
    draws = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        stream.options = {"g": str(keyframes), "bf": str(bframes), "sc_threshold": "0"}
        for _ in range(frames):
            image = draws.integers(0, 255, (60, 80, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


@pytest.fixture(scope="module", params=[
    ("a.mp4", {}), ("b.mkv", {}), ("c.avi", {"codec": "mpeg4"}), ("d.mp4", {"bframes": 0}),
], ids=lambda param: param[0])
def any_video(request, tmp_path_factory):
    name, how = request.param
    return write_video(tmp_path_factory.mktemp("any") / name, **how)


def decoded(video, passes, monkeypatch):
    """Return the ticks of the frames that a bare decode gives."""
    seen = []

    class Packet:
        def __init__(self, packet):
            self.packet = packet

        def decode(self):
            for frame in self.packet.decode():
                seen.append(frame.pts)
                yield frame

    class Container:
        def __init__(self, container):
            self.container = container
            self.seek = container.seek

        def demux(self, stream):
            return map(Packet, self.container.demux(stream))

    with clips.open_stream(video.path) as (container, stream), monkeypatch.context() as patch:
        patch.setattr(clips, "open_stream", lambda _: _Opened((Container(container), stream)))
        clips.decode_bare(video.path, passes)
    return seen


class _Opened:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("mode", ["test", "train"])
def test_straightforward_and_library_make_the_same_tensor(any_video, mode, epoch):
    path, pixels = str(any_video), SETTINGS.pixels(mode)
    if mode == "test":
        plain = straightforward.make_test_item(path, 3, SETTINGS.sampling, pixels)
    else:
        plain = straightforward.make_train_item(path, epoch, 0, 0, SETTINGS.sampling, pixels)
    ours = SETTINGS.dataset(mode, [path])[(epoch, 0)]["video"]
    assert plain.shape == (3 if mode == "test" else 1, 3, 4, 32, 32)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("first, last", [(0, 0), (0, 30), (13, 13), (20, 41), (24, 47), (59, 59)])
def test_the_floor_is_from_the_keyframe_before_the_first_to_the_last_wanted_frame(
    any_video, first, last, monkeypatch
):
    video = clips.survey(any_video)
    start = max(key for key in video.keys if key <= first)
    passes = clips.plan_floor(video, [[video.stamps[first], video.stamps[last]]])
    assert decoded(video, passes, monkeypatch) == list(video.stamps[start:last + 1])


def test_the_floor_leaves_out_what_a_seek_between_far_views_skips(any_video, monkeypatch):
    video = clips.survey(any_video)
    ends = [max(key for key in video.keys if key <= frame) for frame in (3, 50)]
    passes = clips.plan_floor(video, [[video.stamps[50]], [video.stamps[3]]])
    assert len(passes) == 2
    assert decoded(video, passes, monkeypatch) == [
        *video.stamps[ends[0]:4], *video.stamps[ends[1]:51]
    ]


def test_the_floor_of_overlapping_views_is_one_pass(any_video):
    video = clips.survey(any_video)
    views = [[video.stamps[i] for i in view] for view in ((2, 20), (10, 30), (30, 41))]
    assert clips.plan_floor(video, views) == [clips.Pass(None, 42)]


def test_a_keyframe_that_no_seek_reaches_gives_way_to_an_earlier_one(video, monkeypatch):
    video = clips.survey(video)
    early = [key for key in video.keys if key < 20]
    reach = clips._frames_until

    def reach_early(video, seek_to, needed):
        return reach(video, seek_to, needed) if seek_to < video.stamps[20] else None

    monkeypatch.setattr(clips, "_frames_until", reach_early)
    (part,) = clips.plan_floor(video, [[video.stamps[30]]])
    assert part.frames == 31 - early[-1]


@pytest.fixture(scope="module")
def run(video, tmp_path_factory):
    """Run the whole tool once on a folder with one good and one bad video."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "in").mkdir()
    (folder / "in" / "clip.mp4").symlink_to(video)
    (folder / "in" / "bad.mp4").write_bytes(b"no video at all")
    code = benchmark.main([
        "data", "--videos", str(folder / "in"), *SMALL, "--repeats", "1", "--draws", "2",
        "--loader-seconds", "0.05", "--workers", "1", "--output", str(folder / "out.json"),
    ])
    assert code == 0
    return json.loads((folder / "out.json").read_text())


def test_the_json_says_what_was_measured_on(run):
    assert {"date", "cpu", "cores", "torch", "av", "ffmpeg"} <= run["machine"].keys()
    assert run["settings"]["frames"] == 4
    assert [Path(bad["path"]).name for bad in run["left_out"]] == ["bad.mp4"]
    assert "cannot be decoded" in run["left_out"][0]["reason"]


@pytest.mark.parametrize("mode, clips_of, draws", [("test", 3, 1), ("train", 1, 2)])
def test_each_mode_has_a_row_a_video_and_medians_with_targets(run, mode, clips_of, draws):
    (row,) = run[mode]["rows"]
    assert (row["width"], row["height"], row["codec"], row["frames"]) == (80, 60, "h264", 60)
    assert 4 <= row["frames_wanted"] <= row["frames_decoded"] <= 60
    assert row["max_difference"] < 1e-4
    assert len(row["runs_ms"]) == draws
    for name in ("floor", "ours", "straightforward"):
        assert 0 < row[f"{name}_min_ms"] <= row[f"{name}_ms"]
    assert row["ours_over_floor"] > 0 and row["straightforward_over_ours"] > 0
    assert row["clips_per_s"] == pytest.approx(clips_of / row["ours_ms"] * 1e3)
    (summary,) = run[mode]["summary"]
    assert summary["ours_over_floor"] == row["ours_over_floor"]


@pytest.mark.parametrize("mode", ["test", "train"])
def test_the_stages_add_up(run, mode):
    (row,) = run["stages"][mode]
    assert list(row["stages_ms"]) == ["open", "decode", "convert", "resize", "collate"]
    assert min(row["stages_ms"][name] for name in ("open", "decode", "convert", "collate")) > 0
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["total_ms"] == pytest.approx(sum(row["stages_ms"].values()))


def test_the_stages_count_the_frames_that_the_library_decodes(run):
    # Test views decode one clip, the same in both; more than the floor would be waste.
    assert run["stages"]["test"][0]["frames_decoded"] == run["test"]["rows"][0]["frames_decoded"]


@pytest.mark.parametrize("mode", ["test", "train"])
def test_the_loader_has_a_rate_without_and_with_workers(run, mode):
    row = run["loader"][mode]
    assert row["rows"] % 4 == 0
    assert row["clips_per_s"]["0"] > 0 and row["clips_per_s"]["1"] > 0
    assert row["ratio"] == pytest.approx(row["clips_per_s"]["1"] / row["clips_per_s"]["0"])


def test_one_part_alone_on_a_generated_clip_shows_its_table(capsys, tmp_path, monkeypatch):
    small = clips.write_clip(tmp_path / "made.mp4", seed=1, width=64, height=48, frames=20)
    monkeypatch.setattr("benchmarks.data.write_clip", lambda path, seed: small)
    code = benchmark.main(
        ["data", "--generate", "1", *SMALL, "--repeats", "1", "--only", "test"]
    )
    shown = capsys.readouterr().out.splitlines()
    assert code == 0
    assert any(line.startswith("made.mp4") and "64x48" in line for line in shown)
    assert any(line.startswith("up to 480p, generated") for line in shown)
    assert not any("loader" in line or "stages" in line for line in shown)
    assert max(map(len, shown)) <= 120


def test_a_generated_clip_is_ten_seconds_of_h264_with_few_keyframes(tmp_path):
    made = clips.survey(clips.write_clip(tmp_path / "made.mp4", seed=0, width=64, height=48))
    assert (made.codec, made.fps, len(made.stamps)) == ("h264", 30.0, 300)
    assert made.keys[0] == 0 and len(made.keys) <= 3


@pytest.mark.parametrize("arguments, says", [
    ([], "give --videos, --generate or both"),
    (["--videos", "/nonexistent/a.mp4"], "/nonexistent/a.mp4 does not exist"),
    (["--generate", "1", "--scale", "200"], "must not be less than --crop 224"),
    (["--generate", "1", "--train-scales", "256", "224"], "second training scale less"),
])
def test_arguments_that_make_no_sense_are_named(arguments, says, capsys):
    assert benchmark.main(["data", *arguments]) == 2
    assert says in capsys.readouterr().out


def test_only_bad_videos_is_an_error(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    assert benchmark.main(["data", "--videos", str(tmp_path)]) == 2
    assert "none of the videos can be decoded" in capsys.readouterr().out


def test_variants_take_turns():
    order = []
    runs = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert [len(runs["a"]), len(runs["b"])] == [3, 3]


def row(width, height, floor, straight, generated=False):
    return {"width": width, "height": height, "ours_over_floor": floor,
            "straightforward_over_ours": straight, "generated": generated}


def test_medians_go_by_size_and_say_whether_the_target_is_met():
    rows = [row(340, 256, 1.2, 3, True), row(256, 340, 1.6, 5), row(640, 480, 9, 4),
            row(1280, 720, 99, 0), row(1920, 1080, 2.1, 12), row(1080, 1920, 2.1, 12)]
    small, made, large = summarize("test", rows)
    assert (small["clips_of"], small["videos"]) == ("up to 480p", 3)
    assert (small["ours_over_floor"], small["ours_over_floor_met"]) == (1.6, True)
    assert (small["straightforward_over_ours"], small["straightforward_over_ours_met"]) == (4, True)
    assert (made["videos"], made["straightforward_over_ours_met"]) == (1, False)
    assert (large["clips_of"], large["videos"]) == ("1080p", 2)
    assert (large["ours_over_floor_met"], large["straightforward_over_ours_met"]) == (False, True)
