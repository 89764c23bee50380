"""``report.html``: its numbers, what a hostile name can do to it, and its pictures."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest_html import NASTY, Videos, make_scores
from PIL import Image

from openvclip.metrics.classification import (
    compute_average_precision,
    compute_confusion,
    compute_confusion_pairs,
    compute_mean_average_precision,
    compute_per_class_accuracy,
    rank_mistakes,
)
from openvclip.report.plots import draw_confusion
from openvclip.report.run import details as details_module
from openvclip.report.run.details import MISTAKES, build_details, make_thumbnail
from openvclip.report.run.page import format_html, to_safe_json, write_html


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += text


@pytest.mark.parametrize(("checkpoint", "ratios", "line"), [
    (None, [None], "the untouched CLIP, clip.pt"),
    (None, [1.0], "the untouched CLIP, clip.pt"),
    ("a/swa.pth", [None], "a/swa.pth, not patched"),
    ("a/swa.pth", [0.5], "a/swa.pth, patched with CLIP at ratio 0.5"),
    ("a/swa.pth", [1.0, 0.0, 0.5], "a/swa.pth, patched with CLIP at 3 ratios, 0 to 1"),
])
def test_the_first_lines_name_what_was_tested(checkpoint, ratios, line):
    results = {"videos": 1, "failed": [], "clip": {"source": "clip.pt", "sha256": "a"},
               "checkpoint": checkpoint and {"file": checkpoint, "sha256": "b"},
               "results": [{"patching_ratio": ratio} for ratio in ratios]}
    assert details_module.describe_run(results, "")["weights"] == line


def test_the_weights_stand_in_the_page_itself(make_details):
    page = format_html({**make_details()[0], "weights": "<b>/swa.pth, not patched"})
    assert '<p id="weights">&lt;b&gt;/swa.pth, not patched</p>' in page


def test_tensorboards_matrix_has_the_classes_that_occur():
    counts = torch.zeros(400, 400, dtype=torch.int64)
    counts[7, 7], counts[7, 311], counts[50, 50] = 3, 1, 2
    axes = draw_confusion(counts, [f"class {i}" for i in range(400)]).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "class 7", "class 50", "class 311"]
    assert axes.get_title() == "3 of 400 classes occur"
    assert axes.images[0].get_array().tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]]


def test_numbers_are_those_of_the_metrics(make_details):
    found, labels, columns = make_details()
    assert found["totals"] == [10] * 6
    for row, (scores, done) in zip(found["tested"], columns, strict=True):
        _, right = compute_per_class_accuracy(scores[done], labels[done])
        assert row["right"] == right.tolist()
        assert row["top1"] == pytest.approx(100 * sum(row["right"]) / 60)
        counts = torch.zeros(6, 6, dtype=torch.int64)
        for i in range(0, len(row["confusion"]), 3):
            is_, named, count = row["confusion"][i:i + 3]
            counts[is_, named] = count
        assert torch.equal(counts, compute_confusion(scores[done], labels[done]))
        for mistake in row["mistakes"]:
            assert mistake["is"] == labels[mistake["row"]] != mistake["named"]
            assert mistake["row"] != 5  # failed
    assert found["best"] == 1 and "top-1" in found["headline"] and "0.5" in found["headline"]


def test_first_of_equally_good_ratios_is_shown(make_details):
    assert make_details(ratios=(0.4, 0.6))[0]["best"] == 0


def test_confusion_pairs_are_the_nonzero_cells():
    labels = torch.tensor([0, 0, 2, 2, 2])
    scores = torch.eye(3)[torch.tensor([0, 1, 0, 0, 2])]
    assert compute_confusion_pairs(scores, labels).tolist() == [
        [0, 0, 1], [0, 1, 1], [2, 0, 2], [2, 2, 1]]
    assert compute_confusion_pairs(scores[:0], labels[:0]).shape == (0, 3)


def test_mistakes_are_the_surest_of_the_mean_over_clips():
    labels = torch.tensor([0, 0, 0, 0])
    scores = torch.tensor([[9.0, 0.0], [0.0, 2.0], [0.0, 4.0], [0.0, 8.0]])
    done = torch.tensor([True, True, True, False])
    found = rank_mistakes(scores, labels, done, 5, clips=2)
    assert [row for row, _, _ in found] == [2, 1]
    assert found[0][1:] == (1, pytest.approx(1 / (1 + 2.718281828 ** -2), abs=1e-6))
    assert len(rank_mistakes(scores, labels, done, 1)) == 1


def test_mean_average_precision_is_the_mean_of_the_classes():
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    scores = make_scores(torch.tensor([0, 1, 0]), 3, 0.5)
    each = compute_average_precision(scores, targets)
    assert each[2].isnan()
    assert compute_mean_average_precision(scores, targets) == pytest.approx(
        float(each[:2].mean() * 100))


def test_hostile_names_stay_text(make_details, tmp_path):
    found, _, _ = make_details()
    write_html(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "<i>" not in text.replace("<i></i>", "") and "alert(1)<" not in text
    read = json.loads(page.scripts[0])
    assert read["classes"][:4] == list(NASTY[:4])
    assert read["classes"][4] == "no text \\udcff"
    assert read["failed"]["shown"][0]["path"] == "videos/<i>\\udcff5.mp4"


def test_title_and_headline_are_escaped(make_details):
    found, _, _ = make_details()
    found["title"] = found["headline"] = "</title><script>alert(1)</script>"
    assert [tag for tag, _ in Page(format_html(found)).tags].count("script") == 2


def test_json_is_safe_and_means_the_same():
    value = {"a<b>&": ["</script>", "<!--", "é\u2028", 1.5, None]}
    text = to_safe_json(value)
    assert text.isascii() and not re.search("[<>&]", text)
    assert json.loads(text) == value
    with pytest.raises(ValueError):
        to_safe_json(float("nan"))


def test_page_asks_for_nothing_from_outside(make_details):
    text = format_html(make_details()[0])
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert "style" not in attributes and not any(key.startswith("on") for key in attributes)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"url\(|@import|fetch\(|innerHTML|insertAdjacentHTML|eval\(", text)


def test_pictures_are_few_small_jpegs_best_ratio_first(make_details, monkeypatch):
    videos = Videos()
    monkeypatch.setattr(details_module, "MAX_DECODED", 15)
    found, _, _ = make_details(videos=300, dataset=videos)
    best = found["tested"][1]["mistakes"]
    assert len(best) == MISTAKES
    assert videos.read[:MISTAKES] == [mistake["row"] for mistake in best]
    assert len(videos.read) == len(set(videos.read)) == len(found["pictures"]) == 15
    head, data = found["pictures"][str(best[0]["row"])].split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and picture.format == "JPEG"
    assert picture.size == (3 * 160 + 4, 90) and len(data) < 20_000


def test_thumbnail_shrinks_and_takes_any_number_of_frames():
    frames = torch.zeros(1, 720, 1280, 3, dtype=torch.uint8).numpy()
    data = make_thumbnail(frames).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (192, 108)


def test_video_that_does_not_decode_any_more_costs_its_picture(make_details, caplog):
    row = make_details()[0]["tested"][1]["mistakes"][0]["row"]
    found, _, _ = make_details(dataset=Videos(gone=row))
    assert str(row) not in found["pictures"] and len(found["pictures"]) > 1
    assert found["tested"][1]["mistakes"][0]["row"] == row
    assert "no picture of 1 of" in caplog.text and "cannot decode this any more" in caplog.text


def test_long_list_of_failures_is_bounded(make_details):
    found, _, _ = make_details(videos=900, failed=range(500))
    assert found["failed"]["count"] == 500 and len(found["failed"]["shown"]) == 200


def test_several_labels_give_average_precision_alone():
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    scores = make_scores(torch.tensor([0, 1, 0]), 3, 0.5)
    done = torch.ones(3, dtype=torch.bool)
    mean = compute_mean_average_precision(scores, targets)
    results = {"videos": 3, "failed": [],
               "results": [{"patching_ratio": None, "map_decoded": mean}]}
    found = build_details(results, ["a", "b", "c"], targets, [(scores, done)], Videos())
    (row,) = found["tested"]
    assert row["precision"][2] is None
    assert sum(row["precision"][:2]) / 2 == pytest.approx(mean)
    assert found["totals"] == [2, 2, 0] and found["pictures"] == {} and "mistakes" not in row
    format_html(found)


def test_nothing_evaluated_still_makes_a_page(make_details):
    found, _, _ = make_details(videos=6, failed=range(6))
    assert found["tested"][0]["confusion"] == [] and found["tested"][0]["top1"] == 0
    format_html(found)


def test_largest_dataset_of_the_papers_stays_small(make_details, tmp_path):
    noise = torch.randint(0, 255, (8, 108, 192, 3), dtype=torch.uint8).numpy()  # the worst of JPEGs
    videos = Videos()
    videos.frames = lambda row: noise
    classes = [f"class number {i} of many" for i in range(101)]
    found, _, _ = make_details(classes, 13_320, [i / 10 for i in range(11)], videos)
    write_html(tmp_path / "report.html", found)
    assert 100_000 < (tmp_path / "report.html").stat().st_size < 15 * 2**20


def test_page_is_installed_with_the_package(repo, tmp_path):
    pytest.importorskip("setuptools", "77")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=repo, check=True, capture_output=True,
    )
    for name in ("report.html", "report.css", "report.js", "classes.html", "matrix.js",
                 "classes.js", "retrieval.html", "retrieval.js"):
        assert (tmp_path / "openvclip" / "report" / "run" / "page_files" / name).is_file()
