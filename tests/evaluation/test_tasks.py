"""A task of one's own: one class is a whole test."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from openvclip.config import load_cfg
from openvclip.config.doors import TASKS
from openvclip.data.collate import collate
from openvclip.data.samplers import EvalSampler
from openvclip.evaluation.runner import Runner, run_tests
from openvclip.evaluation.tasks.task import Setup, Task
from openvclip.interpolation import WeightPatcher
from openvclip.utils.errors import ConfigError


class Confidence(Task):
    """How sure the model is of its first class."""

    class_names = ["red", "green", "blue"]
    doing = "asking"

    def score_videos(self, setup, predictions):
        best = predictions.scores[predictions.complete].softmax(dim=1).amax(dim=1)
        return {"confidence": float(best.mean()), "videos": int(predictions.complete.sum())}

    def write(self, setup, results, predictions):
        (setup.output_dir / "further.txt").write_text(f"{len(predictions)} ratios")


class Dataset:
    videos = SimpleNamespace(paths=[f"{row}.mp4" for row in range(5)])

    def __len__(self) -> int:
        return 5


class Loader:
    """Five videos of two clips, the fourth of which cannot be decoded."""

    def __init__(self) -> None:
        self.sampler, self.dataset = EvalSampler(5, 1), Dataset()

    def skip(self, done) -> None:
        self.sampler.skip(done)

    def count_rows(self) -> int:
        return 5

    def __iter__(self):
        for rows in self.sampler:
            items = [{"video": None if row == 3 else torch.full((2, 3, 1, 1, 1), row / 10),
                      "label": torch.tensor(0), "index": row, "clip": torch.arange(2),
                      "bad": [(row, "broken")] if row == 3 else []} for _, row in rows]
            yield collate(items, empty=(3, 1, 1, 1), group=self.sampler.group)


def test_a_task_needs_scores_and_has_the_rest_from_the_runner(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    clip = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    setup = Setup(model=model, loader=Loader(), device=torch.device("cpu"), output_dir=tmp_path,
                  num_clips=2, weights=WeightPatcher(dict(model.named_parameters()), clip),
                  ratios=[0.0, 1.0])
    (results,) = run_tests([Runner(Confidence(), setup, {"arch": "none"}, {"key": 1})])
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "further.txt").read_text() == "2 ratios"
    assert results["arch"] == "none" and results["videos"] == 5
    assert results["failed"] == [{"row": 3, "path": "3.mp4", "reason": "broken"}]
    own, at_clip = results["results"]
    assert (own["patching_ratio"], at_clip["patching_ratio"]) == (0.0, 1.0)
    assert own["videos"] == 4 and own["confidence"] > at_clip["confidence"]
    assert at_clip["confidence"] == pytest.approx(1 / 3)  # weights of zeros tell nothing apart
    assert not (tmp_path / "resume").exists()


def test_a_task_is_named_in_the_config(monkeypatch):
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    TASKS.register("confidence")(Confidence)
    assert load_cfg(None, ["TEST.TASK", "confidence"]).TEST.TASK == "confidence"
    with pytest.raises(ConfigError, match="'confidense'.*nearest: confidence"):
        load_cfg(None, ["TEST.TASK", "confidense"])
