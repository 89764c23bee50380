"""Captions of training videos: choosing one, and its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openvclip.clip.text_tokens import ClipTokenizer, TextTokenizer
from openvclip.data.captions.index import CaptionFile, draw_caption
from openvclip.training.objectives.objective import Captions
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class CaptionSampler:
    """Chooses a caption for each video of a batch that has any.

    The choice depends only on (seed, epoch, row), so not on processes or on a run being resumed.

    Args:
        file: the captions.
        paths: the training videos' paths, by row.
        seed: the run's seed.
        sample: ``random`` draws one of several for each epoch, ``first`` takes the first.
        context_length: most tokens of a caption; the rest is cut off.

    Attributes:
        tokenizer: of the text tower; CLIP's own unless it is set.

    Raises:
        DataError: no video has a caption.
    """

    def __init__(
        self,
        file: CaptionFile,
        paths: Sequence[str],
        *,
        seed: int,
        sample: str = "random",
        context_length: int = 77,
    ) -> None:
        self.file, self.paths = file, paths
        self.seed, self.sample, self.context_length = seed, sample, context_length
        self.tokenizer: TextTokenizer = ClipTokenizer()
        lacking = file.match(paths).unmatched
        if len(lacking) == len(paths):
            raise DataError(
                f"none of the {len(paths)} training videos (the first: {paths[0]}) has a caption "
                f"in {file.path}; check TRAIN.CAPTION.FILE with tools/prepare_captions.py --list"
            )
        logger.info(
            "captions: %d of %d training videos have one%s", len(paths) - len(lacking), len(paths),
            f"; the others, such as {lacking[0]}, are only classified" if lacking else "",
        )

    def __call__(self, rows: Tensor, epoch: int) -> Captions:
        """Return the captions of the videos ``rows`` (B,), on the CPU."""
        texts, videos = [], []
        for place, row in enumerate(rows.tolist()):
            sentences = self.file.get(self.paths[row])
            if sentences:
                drawn = draw_caption(sentences, seed=self.seed, epoch=epoch, index=row)
                texts.append(drawn if self.sample == "random" else sentences[0])
                videos.append(place)
        tokens = self.tokenizer.tokenize(texts, self.context_length, truncate=True)
        return Captions(tokens, torch.tensor(videos, dtype=torch.int64))


def build_captions(cfg, paths: Sequence[str]) -> CaptionSampler | None:
    """Build what ``TRAIN.CAPTION`` asks for, or return None."""
    caption = cfg.TRAIN.CAPTION
    if not caption.ENABLE:
        return None
    return CaptionSampler(
        CaptionFile(caption.FILE), paths, seed=cfg.RNG_SEED, sample=caption.SAMPLE,
        context_length=cfg.MODEL.CONTEXT_LENGTH,
    )
