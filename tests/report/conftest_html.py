"""Names, videos and scores of a made-up test, for the report's tests."""

from __future__ import annotations

import numpy as np
import torch

NASTY = ('</script><script>alert(1)</script>', 'quo"te \'s & <b>bold</b>', "Ünïcødé 打籃球 🏀",
         "line\u2028separator", "no text \udcff", "a" * 60)


HOSTILE = 'a "caption" with </script><script>alert(1)</script> & <b>more</b>'


class Videos:
    """Stands for a dataset: grey frames, and one video that does not decode any more."""

    def __init__(self, gone: int | None = None) -> None:
        self.gone, self.read = gone, []

    def describe(self, rows):
        return [f"videos/<i>\udcff{row}.mp4" for row in rows]

    def frames(self, row):
        self.read.append(row)
        if row == self.gone:
            raise OSError("cannot decode this any more")
        return np.full((4, 90, 160, 3), 40 + row % 200, np.uint8)


def make_scores(labels, classes, skill, seed=0):
    """Random scores (N, C) in which the label has ``skill`` more."""
    scores = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(seed))
    scores[torch.arange(len(labels)), labels] += skill
    return scores
