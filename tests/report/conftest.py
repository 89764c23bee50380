"""Results of a made-up test, for the report's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from openvclip.report.details import build_details
from openvclip.report.metrics import compute_scores

sys.path.insert(0, str(Path(__file__).parent))

from conftest_html import NASTY, Videos, make_scores


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
