"""The batches of training: their captions, their mixing, and rows that cannot be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openvclip.clip.text_tokens import ClipTokenizer, TextTokenizer
from openvclip.data.augment.mixup import Mixup
from openvclip.data.captions.index import CaptionFile, draw_caption
from openvclip.report.writers import write_csv
from openvclip.training.objectives.objective import Captions
from openvclip.utils import distributed
from openvclip.utils.errors import DataError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


@dataclass
class CaptionSampler:
    """Chooses a caption for each video of a batch that has any.

    The choice depends only on (seed, epoch, row), so not on processes or on a run being resumed.

    Args:
        file: the captions.
        paths: the training videos' paths, by row.
        sample: ``random`` draws one of several for each epoch, ``first`` takes the first.
        context_length: most tokens of a caption; the rest is cut off.
        tokenizer: of the text tower, which is built after the lists have been checked.

    Raises:
        DataError: no video has a caption.
    """

    file: CaptionFile
    paths: Sequence[str]
    _: KW_ONLY
    seed: int
    sample: str = "random"
    context_length: int = 77
    tokenizer: TextTokenizer = field(default_factory=ClipTokenizer)

    def __post_init__(self) -> None:
        paths = self.paths
        lacking = self.file.match(paths).unmatched
        if len(lacking) == len(paths):
            raise DataError(
                f"none of the {len(paths)} training videos (the first: {paths[0]}) has a caption "
                f"in {self.file.path}; check TRAIN.CAPTION.FILE with tools/prepare_captions.py "
                "--list"
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


@dataclass(frozen=True)
class Batches:
    """Where the batches come from, and how they are changed.

    Attributes:
        loader: batches of ``video``, ``label``, ``index`` and ``bad``; None to only validate.
        multi_label: labels are 0/1 vectors (B, C).
        max_bad_fraction: share of the rows that may fail to decode before the run stops.
    """

    loader: Any
    mixup: Mixup | None = None
    captions: CaptionSampler | None = None
    multi_label: bool = False
    max_bad_fraction: float = 0.01
    seed: int = 0

    def load(
        self, batch: dict, device: torch.device, epoch: int, step: int
    ) -> tuple[Tensor, Tensor, Captions | None]:
        """Move a batch's videos, labels and captions to the device, and mix them."""
        video = batch["video"].to(device, non_blocking=True)
        label = batch["label"].to(device, non_blocking=True)
        if self.mixup is not None:
            # The same in every process, so that their number does not matter.
            rng = np.random.default_rng((self.seed % 2**64, step))
            video, label = self.mixup(video, label, rng)
        if self.captions is None:
            return video, label, None
        texts = self.captions(batch["index"], epoch)
        return video, label, Captions(*(part.to(device) for part in texts))


@dataclass
class BadRows:
    """Counts the rows that cannot be decoded, names each once, and stops the run at too many.

    Args:
        dataset: the training list; None if there is none.
        most: share of its rows that may be bad.
        reasons: row -> why it is bad.
    """

    dataset: Any
    most: float
    reasons: dict[int, str] = field(default_factory=dict)

    def note(self, bad: list[tuple[int, str]]) -> None:
        """Add the bad rows of a batch, each with its reason.

        Raises:
            DataError: there are more than ``most`` allows.
        """
        for row, reason in bad:
            if row not in self.reasons:
                self.reasons[row] = reason
                logger.warning("bad video (row %d): %s", row, reason)
        rows = len(self.dataset)
        if bad and len(self.reasons) > self.most * rows:
            raise DataError(
                f"{len(self.reasons)} of {rows} training videos could not be decoded, more than "
                f"DATA.MAX_BAD_FRACTION ({self.most:g}) allows; the last: {bad[-1][1]}. Repair or "
                "leave out these files, or raise the fraction"
            )

    def gather(self) -> dict[int, str]:
        """Share them among all processes, all of which must call this, and return them."""
        for part in distributed.all_gather_object(self.reasons):
            self.reasons.update(part)
        return self.reasons

    def write(self, output_dir: Path) -> None:
        """Write ``bad_videos.csv`` for all processes, all of which must call this."""
        rows = sorted(self.gather().items())
        if rows and distributed.is_main():
            paths = self.dataset.describe([row for row, _ in rows])
            write_csv(
                output_dir / "bad_videos.csv",
                ["row", "path", "reason"],
                ([row, path, reason] for (row, reason), path in zip(rows, paths, strict=True)),
            )
