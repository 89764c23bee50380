"""The ensemble of a video's views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openvclip.utils.errors import ConfigError


class ViewEnsemble:
    """Combines the logits of a video's clips into one prediction.

    Every clip counts once; a repeated clip is an error, since it would count double.

    Args:
        num_videos: number of videos N.
        num_classes: number of classes C.
        num_clips: clips per video (views x crops).
        method: ``sum`` adds logits; ``max`` takes their maximum.
    """

    def __init__(
        self, num_videos: int, num_classes: int, num_clips: int = 1, method: str = "sum"
    ) -> None:
        if method not in ("sum", "max"):
            raise ConfigError(f"DATA.ENSEMBLE_METHOD is {method!r}; it must be sum or max")
        self.method = method
        start = 0.0 if method == "sum" else -torch.inf
        self.scores = torch.full((num_videos, num_classes), start, dtype=torch.float32)
        self.seen = torch.zeros(num_videos, num_clips, dtype=torch.bool)

    def add(self, logits: Tensor, videos: Tensor, clips: Tensor) -> None:
        """Add logits (M, C) of clips (M,) of videos (M,), all by index.

        Clips of a video are added in the order of their index, so that the sum does not depend on
        how they were batched.
        """
        logits = logits.detach().float().cpu()
        order = sorted(range(len(videos)), key=lambda i: (int(videos[i]), int(clips[i])))
        for i in order:
            video, clip = int(videos[i]), int(clips[i])
            if self.seen[video, clip]:
                raise ValueError(f"clip {clip} of video {video} was evaluated twice")
            self.seen[video, clip] = True
            if self.method == "sum":
                self.scores[video] += logits[i]
            else:
                torch.maximum(self.scores[video], logits[i], out=self.scores[video])

    def restore(self, videos: Sequence[int], scores: Tensor) -> None:
        """Add finished scores (M, C) of videos (M,), all of whose clips were added elsewhere."""
        rows = torch.tensor(videos, dtype=torch.int64)
        if self.seen[rows].any():
            raise ValueError(f"one of the videos {list(videos)} was evaluated twice")
        self.seen[rows] = True
        self.scores[rows] = scores

    @property
    def complete(self) -> Tensor:
        """bool (N,): videos of which every clip was added."""
        return self.seen.all(dim=1)
