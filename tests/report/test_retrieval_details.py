"""``report.html`` of a retrieval test: its numbers, hostile captions, and its pictures."""

from __future__ import annotations

import json
import re

import pytest
import torch
from conftest_html import HOSTILE, Videos

from openvclip.metrics.retrieval import count_ranks
from openvclip.report.run import details as details_module
from openvclip.report.run.details import MAX_DECODED, MISTAKES
from openvclip.report.run.page import format_html, write_report
from openvclip.report.run.retrieval_details import build_retrieval_details


def test_ranks_are_counted_in_bins():
    ranks = torch.tensor([1, 1.5, 5, 5.5, 10, 10.5, 50, 100, 100.5, 4000, 2])
    done = torch.ones(11, dtype=torch.bool)
    done[-1] = False  # fails, and a short list's last rank may be among the first
    assert count_ranks(ranks.double(), done) == {
        "1": 1, "2-5": 2, "6-10": 2, "11-50": 2, "51-100": 1, "over 100": 2, "failed": 1}
    assert sum(count_ranks(ranks[:0], done[:0]).values()) == 0


def test_numbers_are_those_of_the_results(make_retrieval):
    results, paths = make_retrieval()
    found = build_retrieval_details(results, paths, Videos())
    for shown, row in zip(found["tested"], results["results"], strict=True):
        assert {key: shown[key] for key in row if key != "examples"} == {
            key: value for key, value in row.items() if key != "examples"}
        for way, examples in row["examples"].items():
            assert shown["examples"][way] == examples[:MISTAKES] and len(examples) > MISTAKES
    assert found["captions"] == 60 and ["captions cut off", "3"] in found["protocol"]
    assert found["short"].endswith("views x crops (sum), 60 captions")


def test_ratio_with_the_best_mean_of_both_directions_is_shown(make_retrieval):
    results, paths = make_retrieval()
    for row, (t2v, v2t) in zip(results["results"], ((30, 10), (21, 20), (20, 21)), strict=True):
        row.update(t2v_r1=t2v, v2t_r1=v2t)
    found = build_retrieval_details(results, paths)
    assert found["best"] == 1 and "patching ratio 0.5" in found["headline"]
    assert found["pictures"] == {}


def test_pictures_are_bounded_and_of_the_best_ratio_first(make_retrieval, monkeypatch):
    results, paths = make_retrieval()
    videos = Videos()
    found = build_retrieval_details(results, paths, videos)
    shown = found["tested"][found["best"]]["examples"]
    wanted = [e[key] for e in shown["text_to_video"] for key in ("video", "first")]
    wanted += [e["video"] for e in shown["video_to_text"]]
    assert all(str(found["rows"][path]) in found["pictures"] for path in wanted)
    assert all(paths[row] == path for path, row in found["rows"].items())
    assert len(videos.read) == len(set(videos.read)) <= MAX_DECODED
    monkeypatch.setattr(details_module, "MAX_DECODED", 2)
    worst = shown["text_to_video"][0]
    found = build_retrieval_details(results, paths, Videos())
    assert set(found["pictures"]) == {str(paths.index(worst[key])) for key in ("video", "first")}


def test_hostile_captions_stay_text(make_retrieval):
    results, paths = make_retrieval()
    text = format_html(build_retrieval_details(results, paths), "retrieval")
    assert text.count("<script") == text.count("</script>") == 2 and "alert(1)<" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["tested"][0]["examples"]["text_to_video"][0]["caption"] == HOSTILE


def test_report_that_cannot_be_made_is_a_warning(tmp_path, caplog):
    write_report(tmp_path / "report.html", lambda: {}["nothing"], "retrieval")
    assert "could not write" in caplog.text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ratios", [(None,), (0.5,)])
def test_one_result_alone_makes_a_page(make_retrieval, ratios):
    results, paths = make_retrieval(ratios)
    results["results"][0]["examples"] = {"text_to_video": [], "video_to_text": []}
    found = build_retrieval_details(results, paths, Videos())
    assert found["rows"] == {} and "R@1" in format_html(found, "retrieval")
