"""Results of a made-up test, for the report's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from openvclip.metrics.classification import compute_scores
from openvclip.metrics.retrieval import compute_retrieval_scores, count_ranks
from openvclip.report.run.details import build_details

sys.path.insert(0, str(Path(__file__).parent))

from conftest_html import HOSTILE, NASTY, Videos, make_scores


@pytest.fixture
def make_details():
    """Make the details of a report and what they were made from."""

    def make(classes=NASTY, videos=60, ratios=(0.0, 0.5, 1.0), dataset=None, failed=(5,), clips=1):
        labels = torch.arange(videos) % len(classes)
        done = torch.ones(videos, dtype=torch.bool)
        done[list(failed)] = False
        columns = [(make_scores(labels, len(classes), 2.5 - 2 * abs((ratio or 0) - 0.5)), done)
                   for ratio in ratios]
        dataset = dataset or Videos()
        results = {
            "list": "lists/test.csv", "videos": videos, "checkpoint": None,
            "frames": 8, "sampling_rate": 16, "views": 3, "crops": 1, "ensemble": "sum",
            "prompts": {"count": 28, "sha256": "ab" * 32},
            "failed": [{"row": row, "path": dataset.describe([row])[0], "reason": "it is damaged"}
                       for row in failed],
            "results": [{"patching_ratio": ratio, **compute_scores(scores, labels, done)}
                        for ratio, (scores, done) in zip(ratios, columns, strict=True)],
        }
        return build_details(results, classes, labels, columns, dataset, clips), labels, columns

    return make


@pytest.fixture
def make_retrieval():
    """Make the results of a retrieval test of 60 videos with a caption each, and their paths."""

    def make(ratios=(0.0, 0.5, 1.0)):
        paths = [f"videos/<i>{row}.mp4" for row in range(60)]
        captions = [HOSTILE if row == 59 else f"caption {row}" for row in range(60)]
        done = torch.arange(60) != 5

        def score(ratio):
            step = 2 if ratio in (None, 0.5) else 1  # ranks 1, 1, 2, 2, ... or 1, 2, 3, ...
            ranks = (torch.arange(60) // step + 1).double()
            worst = range(59, 39, -1)
            row = {"patching_ratio": ratio}
            for way in ("t2v", "v2t"):
                row |= {f"{way}_{k}": v for k, v in compute_retrieval_scores(ranks, done).items()}
                row[f"{way}_ranks"] = count_ranks(ranks, done)
            return {**row, "examples": {
                "text_to_video": [
                    {"caption": captions[t], "rank": float(ranks[t]), "video": paths[t],
                     "first": paths[t - 30]} for t in worst],
                "video_to_text": [
                    {"video": paths[v], "rank": float(ranks[v]), "caption": captions[v],
                     "first": captions[v - 20]} for v in worst],
            }}

        return {
            "task": "retrieval", "list": "lists/pairs.json", "videos": 60, "checkpoint": None,
            "captions": {"count": 60, "sha256": "cd" * 32, "split": "", "repeated": 0, "shared": 2,
                         "truncated": 3},
            "frames": 8, "sampling_rate": 16, "views": 3, "crops": 1, "ensemble": "sum",
            "failed": [{"row": 5, "path": paths[5], "reason": "it is damaged"}],
            "results": [score(ratio) for ratio in ratios],
        }, paths

    return make
