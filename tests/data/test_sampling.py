from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvclip.data.video.sampling import (
    ClipRequest,
    Sampling,
    clip_size,
    clip_window,
    counted_indices,
    exact_indices,
    start_end,
    window_indices,
    window_size,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampling.json").read_text())
RECIPE = Sampling(num_frames=8, sampling_rate=16, target_fps=30)
RATES = {"23.976": 24000 / 1001, "29.97": 30000 / 1001}
SEEK_MARGIN = 1024  # published decoding sought so many ticks before the window


def rate(text: str) -> float:
    return RATES.get(text) or float(text)


def windowed(count: int, ticks: int, fps: float, request: ClipRequest) -> list:
    """Return [where published code sought, frames in the window, frame numbers]."""
    window = clip_window(RECIPE, request, count=count, fps=fps, duration=count * ticks)
    kept = []
    for number in range(count):
        if number * ticks >= window.start:
            kept.append(number)
            if number * ticks > window.end:
                break
    indices = [kept[i] for i in window_indices(window, len(kept))]
    return [max(window.start - SEEK_MARGIN, 0), len(kept), indices]


def test_recorded_test_views():
    for case in GOLDEN["windows"]:
        for view, expected in enumerate(case["views"]):
            request = ClipRequest(view, case["num_views"])
            found = windowed(case["n_frames"], case["pts_per_frame"], rate(case["fps"]), request)
            assert found == expected, case


def test_recorded_training_clips():
    for fps, count, draw, ticks, *expected in GOLDEN["train"]:
        assert windowed(count, ticks, rate(fps), ClipRequest(draw=draw)) == expected


def test_recorded_clips_of_videos_without_a_duration():
    for case in GOLDEN["counted"]:
        sampling = Sampling(8, 16, 30, use_offset=case["use_offset"])
        views = case.get("num_views", 1)
        for view, expected in enumerate(case["indices"]):
            request = ClipRequest(view, views, draw=case.get("u"))
            found = counted_indices(
                sampling, request, count=case["n_frames"], fps=rate(case["fps"])
            )
            assert list(found) == expected, case


def test_recorded_starts_and_ends():
    for case in GOLDEN["start_end"]:
        request = ClipRequest(case["clip_idx"], case["num_clips"])
        found = start_end(case["video_size"], case["clip_size"], request, case["use_offset"])
        assert found == pytest.approx((case["start"], case["end"]), abs=1e-9)


def test_three_views_of_ten_seconds():
    views = [windowed(300, 512, 30.0, ClipRequest(v, 3))[2] for v in range(3)]
    assert views[0] == [0, 18, 36, 54, 72, 90, 108, 112]
    assert (views[1][0], views[1][-2:]) == (63, [171, 174])
    assert (views[2][0], views[2][-2:]) == (126, [234, 237])


def test_a_higher_target_rate_takes_frames_closer_together():
    plain, faster = ClipRequest(draw=0.0), ClipRequest(draw=0.0, fps_jitter=30.0)
    assert window_size(RECIPE, plain, 30.0) == 112
    assert window_size(RECIPE, faster, 30.0) == 56
    assert clip_size(RECIPE, faster, 30.0) == clip_size(RECIPE, plain, 30.0) / 2


def test_the_window_ignores_offset_sampling_as_published():
    offset = Sampling(8, 16, 30, use_offset=True)
    for view in range(3):
        given = {"count": 300, "fps": 30.0, "duration": 300}
        request = ClipRequest(view, 3)
        assert clip_window(offset, request, **given) == clip_window(RECIPE, request, **given)


@pytest.mark.parametrize("fps", [10.0, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 60.0])
@pytest.mark.parametrize("count", [113, 250, 301])
def test_exact_views_span_the_video_and_keep_their_steps(fps, count):
    sampling = Sampling(8, 4, 30, use_offset=True, compat="exact")
    step = 4 / 30 * fps
    for views in (2, 3, 10):
        clips = [
            exact_indices(sampling, ClipRequest(v, views), count=count, fps=fps)
            for v in range(views)
        ]
        assert clips[0][0] == 0
        assert clips[-1][-1] == count - 1
        for clip in clips:
            steps = {b - a for a, b in zip(clip, clip[1:], strict=False)}
            assert steps <= {int(step), int(step) + 1, round(step)}


def test_exact_single_view_lies_in_the_middle_only_with_offset():
    request = ClipRequest(0, 1)
    offset = Sampling(8, 16, 30, use_offset=True, compat="exact")
    assert exact_indices(offset, request, count=213, fps=30.0) == tuple(range(50, 163, 16))
    plain = Sampling(8, 16, 30, compat="exact")
    assert exact_indices(plain, request, count=213, fps=30.0) == tuple(range(0, 113, 16))


def test_exact_short_video_repeats_its_last_frame():
    exact = Sampling(8, 16, 30, compat="exact")
    found = counted_indices(exact, ClipRequest(draw=0.7), count=20, fps=30.0)
    assert found == (0, 16, 19, 19, 19, 19, 19, 19)
