"""What a forward pass sees does not depend on how a list was shared and loaded."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from openvclip.data.collate import collate
from openvclip.data.loader import EvalSampler
from openvclip.evaluation.runner import ViewEnsemble, predict
from openvclip.interpolation import Weights
from openvclip.utils.errors import CheckpointError


class Recorder(nn.Module):
    """Linear scores; keeps the shape of every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 2 * 4 * 4, 5)
        self.sizes: list[int] = []

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(video))
        return self.linear(video.flatten(1))


def item(row: int, bad: bool = False) -> dict:
    rng = torch.Generator().manual_seed(row)
    return {
        "video": None if bad else torch.randn(3, 3, 2, 4, 4, generator=rng),
        "label": torch.tensor(0), "index": row, "clip": torch.arange(3),
        "bad": [(row, "broken")] if bad else [],
    }


def batches(sampler: EvalSampler, bad: set[int]):
    for rows in sampler:
        yield collate([item(row, row in bad) for _, row in rows], empty=(3, 2, 4, 4),
                      group=sampler.group)


def run(model, sampler, bad=frozenset(), **options):
    return predict(model, batches(sampler, bad), partial(ViewEnsemble, sampler.rows, 5, 3),
                   own_videos=sampler.rows, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_shares_add_up_to_the_same_floats(world, batch):
    bad = {4, 10, 11}
    alone = Recorder()
    (whole,) = run(alone, EvalSampler(23, 2), bad).values()
    model, scores, complete, failures = Recorder(), torch.zeros(23, 5), torch.zeros(23).bool(), {}
    for rank in range(world):
        sampler = EvalSampler(23, 2, batch, rank=rank, world_size=world)
        (part,) = run(model, sampler, bad).values()
        assert not (complete & part.complete).any()
        scores[part.complete] = part.scores[part.complete]
        complete |= part.complete
        failures |= part.failures
    assert torch.equal(scores, whole.scores) and torch.equal(complete, whole.complete)
    assert sorted(failures) == sorted(bad) == list(whole.failures)
    # 23 rows in pairs: one pair is all bad, one half bad, and the last row is alone.
    assert sorted(model.sizes) == sorted(alone.sizes) == [3, 3] + [6] * 9


class Shifted(Weights):
    """Adds to the bias of a model in proportion to the ratio."""

    def __init__(self, model: Recorder, step: float) -> None:
        super().__init__({"bias": model.linear.bias})
        self.step = step

    def _mix(self, ratio: float) -> list[torch.Tensor]:
        return [p.data + self.step * ratio if ratio else p.data for p in self._parameters]


def test_each_group_is_seen_at_every_ratio():
    model = Recorder()
    start = model.linear.bias.detach().clone()
    found = run(model, EvalSampler(5, 2, 2), weights=Shifted(model, 2.0), ratios=[0.0, 0.5])
    assert torch.equal(model.linear.bias, start)
    torch.testing.assert_close(found[0.5].scores, found[0.0].scores + 3.0)
    assert model.sizes == [6, 6, 6, 6, 3, 3]


def test_batches_without_groups_are_one_forward_pass():
    model = Recorder()
    whole = collate([item(row) for row in range(4)], empty=(3, 2, 4, 4))
    (found,) = predict(model, [whole], partial(ViewEnsemble, 4, 5, 3), own_videos=4,
                       device=torch.device("cpu")).values()
    assert model.sizes == [12] and bool(found.complete.all())
    nothing = collate([item(0, bad=True)], empty=(3, 2, 4, 4))
    (found,) = predict(model, [nothing], partial(ViewEnsemble, 1, 5, 3), own_videos=1,
                       device=torch.device("cpu")).values()
    assert found.failures == {0: "broken"} and not found.complete.any()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_groups_that_are_done_are_left_out(world):
    done = {0, 6, 8, 20}
    samplers = [EvalSampler(23, 2, rank=rank, world_size=world) for rank in range(world)]
    rows = []
    for sampler in samplers:
        sampler.skip(done)
        own = [row for batch in sampler for _, row in batch]
        assert len(own) == sampler.count_rows()
        rows += own
    assert sorted(rows) == [row for row in range(23) if row - row % 2 not in done]
    shares = [sampler.count_rows() for sampler in samplers]
    assert max(shares) - min(shares) <= 2


def test_scores_that_are_not_finite_are_an_error_that_names_row_and_ratio():
    model = Recorder()
    sampler = EvalSampler(6, 2)
    with pytest.raises(CheckpointError, match="^evaluating, patching ratio 0.5: .* row 0 of"):
        run(model, sampler, weights=Shifted(model, torch.inf), ratios=[0.0, 0.5])
    model = Recorder()
    model.register_forward_hook(lambda m, given, out: out / (len(m.sizes) < 3))
    with pytest.raises(CheckpointError, match="^evaluating: .* row 4 of the list, the model gives"):
        run(model, sampler)
