"""Ranks against a whole matrix, ties and failed videos included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.metrics.retrieval import TIE, compute_ranks, compute_retrieval_scores, find_worst
from openvclip.utils.errors import DataError


def rank(wanted: float, others: torch.Tensor) -> float:
    """Rank by its definition: better ones, and half of those that tie."""
    better = int((others > wanted + TIE).sum())
    tied = int((others > wanted - TIE).sum()) - better
    return 1 + better + tied / 2


def naive(videos, texts, owner, done):
    """Each query on its own, on the whole matrix in float64."""
    cosines = videos.double() @ texts.double().T
    cosines[~done] = -9.0
    of_texts, of_videos = [], []
    for t, v in enumerate(owner.tolist()):
        others = torch.cat([cosines[:v, t], cosines[v + 1:, t]])
        of_texts.append(rank(cosines[v, t], others) if done[v] else len(videos))
    for v in range(len(videos)):
        mine = owner == v
        of_videos.append(rank(cosines[v, mine].max(), cosines[v, ~mine]) if done[v]
                         else len(texts))
    return torch.tensor(of_texts).double(), torch.tensor(of_videos).double()


def unit(rows: int, seed: int, levels: int = 0) -> torch.Tensor:
    """Random unit vectors; of few levels an entry, so that many cosines tie."""
    rng = torch.Generator().manual_seed(seed)
    if levels:
        return F.normalize(torch.randint(1, levels + 1, (rows, 3), generator=rng).float())
    return F.normalize(torch.randn(rows, 16, generator=rng))


def lists(seed: int, levels: int):
    videos, texts = unit(23, seed, levels), unit(97, seed + 100, levels)
    rng = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(23), torch.randint(23, (74,), generator=rng)])
    return videos, texts, owner[torch.randperm(97, generator=rng)]


@pytest.mark.parametrize("chunk_bytes", [1, 23 * 8 * 10, 2**20])
@pytest.mark.parametrize("levels", [0, 2, 3])
@pytest.mark.parametrize("bad", [(), (0, 7, 22)])
def test_chunks_give_what_the_whole_matrix_gives(chunk_bytes, levels, bad):
    for seed in range(4):
        videos, texts, owner = lists(seed, levels)
        done = torch.ones(23, dtype=torch.bool)
        done[list(bad)] = False
        videos[~done] = torch.nan  # undefined
        found = compute_ranks(videos, texts, owner, done, chunk_bytes)
        of_texts, of_videos = naive(videos.nan_to_num(), texts, owner, done)
        assert torch.equal(found.text_to_video, of_texts)
        assert torch.equal(found.video_to_text, of_videos)
        if levels:
            assert (found.text_to_video % 1 == 0.5).any() and (found.video_to_text % 1 == 0.5).any()


def test_ranks_by_hand():
    videos = torch.eye(3)
    texts = F.normalize(torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [1, 3, 2]]))
    found = compute_ranks(videos, texts, torch.tensor([0, 1, 2, 2]))
    assert found.text_to_video.tolist() == [1, 2, 1, 2]
    # Text 1 says of video 1 what text 0 says of video 0; video 2 has its best of two texts.
    assert found.video_to_text.tolist() == [1.5, 3, 1]
    scores = compute_retrieval_scores(found.text_to_video, torch.ones(4, dtype=torch.bool))
    assert scores == {"r1": 50.0, "r5": 100.0, "r10": 100.0, "median_rank": 1.5, "mean_rank": 1.5}


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_model_that_says_the_same_of_all_finds_nothing(noise):
    rng = torch.Generator().manual_seed(0)
    one = F.normalize(torch.ones(1, 64)).repeat(50, 1)
    videos = one + noise * torch.randn(50, 64, generator=rng)
    texts = one + noise * torch.randn(50, 64, generator=rng)
    found = compute_ranks(videos, texts, torch.arange(50))
    assert found.text_to_video.tolist() == found.video_to_text.tolist() == [25.5] * 50
    done = torch.ones(50, dtype=torch.bool)
    assert compute_retrieval_scores(found.text_to_video, done)["r10"] == 0.0


def test_a_perfect_model_finds_all():
    videos = unit(40, 1)
    found = compute_ranks(videos, videos.repeat_interleave(2, 0),
                          torch.arange(40).repeat_interleave(2))
    assert found.text_to_video.tolist() == [1.0] * 80 and found.video_to_text.tolist() == [1.0] * 40


def test_failed_videos_are_wrong_even_in_a_short_list():
    found = compute_ranks(torch.eye(3), torch.eye(3), torch.arange(3),
                          torch.tensor([True, False, True]))
    assert found.text_to_video.tolist() == found.video_to_text.tolist() == [1, 3, 1]
    scores = compute_retrieval_scores(found.text_to_video, torch.tensor([True, False, True]))
    assert scores["r10"] == pytest.approx(200 / 3) and scores["mean_rank"] == pytest.approx(5 / 3)
    none = compute_ranks(torch.eye(3), torch.eye(3), torch.arange(3), torch.zeros(3).bool())
    assert none.text_to_video.tolist() == none.video_to_text.tolist() == [3, 3, 3]


@pytest.mark.parametrize("where", ["videos", "texts"])
def test_nan_is_no_hit(where):
    given = {"videos": torch.eye(3), "texts": torch.eye(3)}
    given[where] = given[where].clone()
    given[where][1, 1] = torch.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        compute_ranks(**given, owner=torch.arange(3))


def test_the_worst_come_with_what_came_first():
    videos = torch.eye(3)
    texts = F.normalize(torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]]))
    ranks = compute_ranks(videos, texts, torch.arange(3)).text_to_video
    assert find_worst(ranks, texts, videos, 5) == [(2, 0), (1, 0)]
    assert find_worst(ranks, texts, videos, 1) == [(2, 0)]
    assert find_worst(torch.ones(3), texts, videos, 5) == []


def test_no_query_went_worst_where_every_video_failed():
    videos, texts, owner = torch.zeros(2, 4), torch.eye(4)[:3], torch.tensor([0, 1, 1])
    done = torch.zeros(2, dtype=torch.bool)
    ranks = compute_ranks(videos, texts, owner, done)
    assert ranks.text_to_video.tolist() == [2] * 3 and ranks.video_to_text.tolist() == [3] * 2
    unknown = ranks.text_to_video.where(done[owner], 0)
    assert find_worst(unknown, texts, videos[done], 5) == []
