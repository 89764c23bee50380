"""Retrieval ranks between videos and texts, and what is reported about them (pure functions)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openvclip.utils.errors import DataError

KS = (1, 5, 10)
# Cosines closer than this are ties: rounding in fp32 moves equal embeddings by less.
TIE = 1e-6
# Bins of ranks that a test's results count, with the highest rank in each.
BINS = {"1": 1, "2-5": 5, "6-10": 10, "11-50": 50, "51-100": 100, "over 100": float("inf")}
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Ranks:
    """The rank of each query's correct answer, from 1; half ranks if answers tie.

    Attributes:
        text_to_video: float64 (N,), of each text's video among all videos.
        video_to_text: float64 (V,), of the best of each video's texts among all texts.
    """

    text_to_video: Tensor
    video_to_text: Tensor


@torch.no_grad()
def compute_ranks(
    videos: Tensor,
    texts: Tensor,
    owner: Tensor,
    done: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Ranks:
    """Rank all videos for each text and all texts for each video, by the cosine.

    A rank is 1 + the number of better answers + half the number of other answers that are as good
    (closer than :data:`TIE`): the mean of the places that these share. So a model that gives the
    same answer to all gets the middle rank. If a video has several texts, the best one's rank
    counts, and its others do not compete. Cosines are computed in float64, some texts with
    all videos at a time.

    Args:
        videos: (V, D), each of length 1, unless ``done`` is False.
        texts: (N, D), each of length 1, on the same device.
        owner: int64 (N,), each text's video; every video has at least one.
        done: bool (V,), False for videos that could not be evaluated. They are not answers to
            others, and they and their texts get the last rank: V for texts, N for videos.
        chunk_bytes: most memory for one part of the matrix; what is computed from it takes
            about as much again.

    Raises:
        DataError: embeddings are not finite.
    """
    count, total = len(videos), len(texts)
    done = torch.ones(count, dtype=torch.bool, device=videos.device) if done is None else done
    if not (videos[done].isfinite().all() and texts.isfinite().all()):
        raise DataError("embeddings of videos or texts hold NaN or infinity, which have no ranks; "
                        "try TEST.MIXED_PRECISION False, or other weights")
    gallery = videos[done].double()  # (V', D)
    known = done[owner]  # (N,)
    place = (done.cumsum(0) - 1)[owner[known]]  # of these texts' videos in the gallery
    own = _cosines_of_pairs(gallery, texts, place, known, chunk_bytes)  # (N,)
    best = own.new_full((len(gallery),), -torch.inf)
    best.scatter_reduce_(0, place, own[known], "amax")
    above_own, above_best = torch.zeros_like(own), torch.zeros_like(best)
    step = max(1, chunk_bytes // (8 * max(1, len(gallery))))
    for start in range(0, total, step):
        part = slice(start, start + step)
        cosines = gallery @ texts[part].double().T  # (V', some texts)
        above_own[part] = _count_above(cosines, own[None, part], dim=0)
        above_best += _count_above(cosines, best[:, None], dim=1)
    # A query's own answers were counted too: its video as one tie, its texts where they tie.
    own_texts = _count_above(own[known][None], best[place][None], dim=0)
    above_best.scatter_add_(0, place, -own_texts)
    video_ranks = own.new_full((count,), float(total))
    video_ranks[done] = 1 + above_best
    return Ranks(torch.where(known, 0.5 + above_own, float(count)), video_ranks)


def _cosines_of_pairs(
    gallery: Tensor, texts: Tensor, place: Tensor, known: Tensor, chunk_bytes: int
) -> Tensor:
    """Cosine of each text with its own video; infinite if the video is not ``known``."""
    own = gallery.new_full((len(texts),), torch.inf)
    step = max(1, chunk_bytes // (24 * max(1, texts.shape[1])))
    for rows, places in zip(known.nonzero().flatten().split(step), place.split(step), strict=True):
        own[rows] = (gallery[places] * texts[rows].double()).sum(dim=1)
    return own


def _count_above(cosines: Tensor, bar: Tensor, dim: int) -> Tensor:
    """Count entries above the bar, and ties with it as half."""
    better = (cosines > bar + TIE).sum(dim, dtype=torch.int32)
    better_or_tied = (cosines > bar - TIE).sum(dim, dtype=torch.int32)
    return (better + better_or_tied).double() / 2


def compute_retrieval_scores(ranks: Tensor, done: Tensor) -> dict[str, float]:
    """Return R@1, R@5 and R@10 in per cent, and the median and mean rank.

    Args:
        ranks: (queries,), as :func:`compute_ranks` gives.
        done: bool (queries,), False for those that count as wrong whatever their rank is: in a
            short list even the last one may be among the first ten.

    Returns:
        ``r1``, ``r5``, ``r10``, ``median_rank`` (the mean of the middle two of an even
        number) and ``mean_rank``.
    """
    scores = {f"r{k}": float(((ranks <= k) & done).double().mean()) * 100 for k in KS}
    middle = ranks.double().sort().values[[(len(ranks) - 1) // 2, len(ranks) // 2]]
    return {**scores, "median_rank": float(middle.mean()), "mean_rank": float(ranks.mean())}


def count_ranks(ranks: Tensor, done: Tensor) -> dict[str, int]:
    """Count the queries whose rank is in each bin of :data:`BINS`; the last, ``failed``, has those
    that are not ``done``. Half ranks are of the bin above: 1.5 is of ``2-5``.

    Args:
        ranks: (queries,), as :func:`compute_ranks` gives.
        done: bool (queries,).
    """
    uppers = torch.tensor(list(BINS.values()), dtype=torch.float64)
    places = torch.bucketize(ranks[done].double(), uppers)
    counts = torch.bincount(places, minlength=len(BINS)).tolist()
    return {**dict(zip(BINS, counts, strict=True)), "failed": int((~done).sum())}


def find_worst(
    ranks: Tensor, queries: Tensor, answers: Tensor, count: int
) -> list[tuple[int, int]]:
    """Return the queries whose correct answer ranked lowest, worst first, and what came first.

    Args:
        ranks: (Q,) of the queries in question.
        queries: (Q, D).
        answers: (A, D).
        count: the most to return; queries with rank 1 are left out.
    """
    order = ranks.argsort(descending=True, stable=True)[:count]
    order = order[ranks[order] > 1]
    if not len(order):  # if every video failed there are no answers either
        return []
    first = (queries[order] @ answers.T).argmax(dim=1)
    return list(zip(order.tolist(), first.tolist(), strict=True))
