"""Predictions as tables, files and pictures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from openvclip.predict.plots import (
    draw_prediction,
    draw_timeline,
    format_time,
    order_rows,
)
from openvclip.predict.results import (
    Prediction,
    Ranked,
    Timeline,
    describe,
    display_width,
    format_prediction,
    rank_labels,
    write_predictions,
    write_timeline,
)

LONG = [f"{number:02d} " + "M" * 57 for number in range(20)]  # 60 of the widest letters


def predicted(labels, *, clips=3, frames=8, size=(90, 160), video="a/v.mp4") -> Prediction:
    scores = torch.arange(len(labels), 0, -1).float()
    pictures = np.zeros((clips, frames, *size, 3), np.uint8)
    times = tuple(tuple(70.0 * c + i for i in range(frames)) for c in range(clips))
    return Prediction(video, rank_labels(labels, scores, len(labels)), 10.0, times, pictures)


def test_probabilities_are_among_all_labels_whatever_is_shown():
    scores = torch.tensor([1.0, 3.0, 2.0])
    (first, second) = rank_labels(["a", "b", "c"], scores, 2)
    expected = scores.softmax(0)
    assert (first.label, second.label) == ("b", "c") and first.score == 3.0
    assert first.probability == pytest.approx(float(expected[1]))
    assert len(rank_labels(["a", "b", "c"], scores, 9)) == 3


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_table_shows_whole_labels_in_line_within_the_terminal(count, columns):
    lines = format_prediction(predicted(LONG[:count]), "[1/9] ", columns).splitlines()
    assert lines[0] == "[1/9] a/v.mp4  (10.0 s, 3 clips)"
    assert [line.split()[0] for line in lines[1:]] == [str(i + 1) for i in range(count)]
    assert all(label in line for label, line in zip(LONG, lines[1:], strict=False))
    assert len({line.index(" %") for line in lines[1:]}) == 1
    assert max(map(len, lines)) <= columns


def test_wide_and_narrow_letters_stay_in_line():
    lines = format_prediction(predicted(["弓道をする人", "ab", "x" * 300]), columns=80).splitlines()
    assert len({display_width(line[: line.index(" %")]) for line in lines[1:]}) == 1
    assert max(map(display_width, lines)) <= 80 and "..." in lines[3]


def test_a_skipped_video_is_a_line_with_the_reason_once():
    text = format_prediction(Prediction("b\n.mp4", error="b\n.mp4: has no video stream"))
    assert text == "b\\n.mp4\n  skipped: has no video stream"


def test_files_hold_rankings_and_failures(tmp_path):
    good = predicted(["a", "b, with a comma"], clips=1, frames=2)
    bad = Prediction("\udcff.mp4", error="\udcff.mp4: broken")
    paths = write_predictions(tmp_path, {"clip": "c.pt"}, [describe(good)], [describe(bad)])
    content = json.loads(paths[0].read_text("utf-8"))
    assert content["clip"] == "c.pt" and content["failed"] == [
        {"video": "\ufffd.mp4", "reason": "\ufffd.mp4: broken"}]
    (video,) = content["videos"]
    assert video["clips"] == [[0.0, 1.0]] and video["seconds"] == 10.0
    assert [row["label"] for row in video["ranking"]] == ["a", "b, with a comma"]
    with open(paths[1], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert rows[1]["label"] == "b, with a comma" and rows[2]["error"] == "\ufffd.mp4: broken"


def make_timeline(values, *, window=2.0, stride=1.0, labels=None) -> Timeline:
    values = torch.tensor(values)
    spans = tuple((stride * i, stride * i + window) for i in range(len(values)))
    labels = tuple(labels or "abcdefgh"[: values.shape[1]])
    pictures = {i: np.zeros((90, 160, 3), np.uint8) for i in range(len(values))}
    return Timeline("v.mp4", labels, window, stride, spans, values, pictures)


def test_segments_cover_the_video_without_gap(tmp_path):
    found = make_timeline([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    assert found.segments() == [
        {"start": 0.0, "end": 2.5, "label": "a", "probability": 0.8},
        {"start": 2.5, "end": 3.5, "label": "b", "probability": 0.8},
        {"start": 3.5, "end": 5.0, "label": "a", "probability": 0.6},
    ]
    write_timeline(tmp_path / "t.csv", found)
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["start", "end", "first", "a", "b"]
    assert rows[3] == ["2.0", "4.0", "b", "0.2", "0.8"]


def test_a_long_window_speaks_from_the_first_middle_that_it_stands_for_to_the_last():
    values = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    spans = ((0.0, 2.0), (1.0, 1001.0), (1000.0, 1001.5))
    found = Timeline("v.mp4", ("a", "b"), 2.0, 1.0, spans, values)
    assert [found.edge(i) for i in range(4)] == [0, 1.5, (1000 + 1000.75) / 2, 1001.5]


def test_labels_of_a_timeline_that_matter_come_first_by_time():
    values = np.array([[0.0, 0.0, 0.01], [0.1, 0.2, 0.9], [0.9, 0.7, 0.05], [0.0, 0.1, 0.04]])
    assert order_rows(values) == [2, 3, 1, 0]
    assert len(order_rows(np.random.default_rng(0).random((50, 4)))) == 20


def assert_nothing_is_clipped(figure):
    """Every text lies inside the picture, and no two of the same axes' labels overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.bbox
    texts = [text for text in figure.findobj(lambda a: hasattr(a, "get_text"))
             if text.get_text().strip() and text.get_visible()]
    assert texts
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
        assert box.x1 <= whole.x1 and box.y1 <= whole.y1, text.get_text()
    for axes in figure.findobj(lambda a: hasattr(a, "get_yticklabels")):
        boxes = [t.get_window_extent(renderer) for t in axes.get_yticklabels() if t.get_text()]
        boxes.sort(key=lambda box: box.y0)
        assert all(a.y1 <= b.y0 + 1 for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("count, clips, frames, size", [
    (5, 3, 8, (90, 160)), (20, 3, 8, (90, 160)), (20, 1, 16, (240, 135)), (5, 10, 32, (32, 32)),
])
def test_nothing_of_a_contact_sheet_is_clipped(count, clips, frames, size):
    prediction = predicted(LONG[:count], clips=clips, frames=frames, size=size, video="v" * 300)
    figure = draw_prediction(prediction, "swa_5_8.pth patched at 0.7, 20 labels")
    assert_nothing_is_clipped(figure)
    texts = {text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))}
    assert {format_time(prediction.times[0][i]) for i in range(frames)} <= texts


@pytest.mark.parametrize("count", [5, 20])
def test_nothing_of_a_timeline_is_clipped(count):
    values = torch.rand(200, count, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = make_timeline(values.tolist(), window=60.0, stride=20.0, labels=LONG[:count])
    assert_nothing_is_clipped(draw_timeline(found, "CLIP, many labels"))


def test_signs_of_formulas_in_labels_are_text():
    prediction = Prediction("$x$.mp4", [Ranked("cost: $5 or $_", 1.0, 2.0)], 1.0, ((0.0,),),
                            np.zeros((1, 1, 8, 8, 3), np.uint8))
    assert_nothing_is_clipped(draw_prediction(prediction, "a $\\frac$ note"))


def test_the_bars_of_probabilities_end_at_a_hundred_percent():
    prediction = Prediction("x.mp4", [Ranked("sure", 1.0, 9.0), Ranked("no", 0.0, 1.0)], 1.0,
                            ((0.0,),), np.zeros((1, 1, 8, 8, 3), np.uint8))
    figure = draw_prediction(prediction)
    (bars,) = (axes for axes in figure.findobj(Axes) if axes.patches and axes.get_xlabel())
    assert bars.get_xlim() == (0, 100)
    assert_nothing_is_clipped(figure)


def test_times_are_readable_at_any_length():
    assert [format_time(s) for s in (0, 7.256, 59.999, 62.5, 3599.96, 7384.2)] == [
        "0.00 s", "7.26 s", "1:00.0", "1:02.5", "1:00:00", "2:03:04"]
