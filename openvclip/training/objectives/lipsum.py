"""Lipsum-FT (Nam et al., ICLR 2024, arXiv 2404.00860): scores of random texts stay CLIP's."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from openvclip.clip.text_tokens import ClipTokenizer
from openvclip.models.backbone import Backbone
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.objective import Objective, Part
from openvclip.training.objectives.raw_features import RawFeatures, build_raw_features
from openvclip.utils.errors import ConfigError


def compute_energy_gap(pooled: Tensor, raw_pooled: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean over videos and texts of half the squared difference of a video's and text's logit.

    Args:
        pooled: (b, D), with gradients.
        raw_pooled: (b, D), the raw model's.
        texts: (M, D) of length 1.
        scale: the factor of the cosines, the same for both.
    """
    gaps = scale * (pooled - raw_pooled) @ texts.T
    return gaps.square().mean() / 2


class RandomTexts:
    """Draws texts of random tokens; they depend on seed and step only, so all processes agree.

    Args:
        clip: towers with CLIP's own tokenizer.
        count: M, number of texts.
        length: tokens of each, without the start and the end token.
        seed: the run's seed.

    Raises:
        ConfigError: the tokenizer is another one, or a text would be too long.
    """

    def __init__(self, clip: Backbone, count: int, length: int, seed: int) -> None:
        if not isinstance(clip.tokenizer, ClipTokenizer):
            raise ConfigError("TRAIN.OBJECTIVES has 'lipsum', which draws tokens of CLIP's own "
                              "tokenizer, but this CLIP has another: leave it out")
        if length + 2 > clip.context_length:
            raise ConfigError(
                f"TRAIN.LIPSUM.LENGTH is {length}, but with a start and an end token the text "
                f"tower takes {clip.context_length}; set it to {clip.context_length - 2} or less")
        # The end token is the largest id, the start token comes before it; all others are words.
        self.empty = clip.tokenizer.tokenize([""], clip.context_length)[0]
        self.words = int(self.empty[0])
        self.count, self.length, self.seed = count, length, seed

    def __call__(self, step: int) -> Tensor:
        """Return the token ids of optimizer step ``step``, int64 (M, context length)."""
        draw = random.Random(f"lipsum/{self.seed}/{step}")
        tokens = self.empty.repeat(self.count, 1)
        tokens[:, self.length + 1] = tokens[:, 1]  # the end
        tokens[:, 1:self.length + 1] = torch.tensor(
            [draw.choices(range(self.words), k=self.length) for _ in range(self.count)])
        return tokens


class EnergyGap(Objective):
    """Adds :func:`compute_energy_gap` from the raw model over random texts of the step.

    A video's embedding is the mean of its frames', as for its logits; the scale is the original
    CLIP's. The texts are encoded without gradients by the text tower that ``encode`` stands for.

    Args:
        raw: what the raw model makes of a batch.
        draw: step -> token ids.
        encode: (M, columns) -> (M, D) embeddings of length 1.
        weight: factor of the gap.
    """

    name = "lipsum"

    def __init__(
        self, raw: RawFeatures, draw: Callable[[int], Tensor],
        encode: Callable[[Tensor], Tensor], weight: float = 1.0,
    ) -> None:
        self.raw, self.draw, self.encode, self.weight = raw, draw, encode, weight
        self._texts: Tensor | None = None

    @classmethod
    def extend_model(cls, cfg: Any, model: VideoCLIP) -> None:
        """Ask for the embeddings of the frames."""
        model.keep_frames = True

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> EnergyGap:
        """Build what ``TRAIN.LIPSUM`` asks for."""
        options = cfg.TRAIN.LIPSUM
        draw = RandomTexts(model.model, options.TEXTS, options.LENGTH, cfg.RNG_SEED)
        # A text tower that does not train is the frozen one: no second one is kept then.
        raw = build_raw_features(cfg, model, text=model.train_text)
        encoder = raw.raw if model.train_text else model
        return cls(raw, draw, encoder.encode_text, options.RATIO)

    @torch.no_grad()
    def begin_step(self, step: int) -> None:
        """Draw and encode the texts of the step, the same for all of its passes."""
        tokens = self.draw(step).to(self.raw.raw.model.logit_scale.device)
        with self.raw.autocast():
            self._texts = self.encode(tokens)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Let the raw model look at a new batch."""
        super().begin(parts, forward)
        self.raw.look(parts)

    def term(self, output: Any, logits: Tensor, part: Part) -> Tensor:
        """Return the part's share of the gap."""
        assert self._texts is not None  # the step has begun
        raw = self.raw
        pooled = output.frames.unflatten(0, (-1, raw.raw.num_frames)).mean(dim=1)
        scale = raw.raw.model.logit_scale.exp()
        return self.add_up(compute_energy_gap(pooled, raw.pooled(part), self._texts, scale), part)

    def after_update(self, step: int) -> None:
        """Let go of the batch and its texts."""
        self._texts = None
        self.raw.release()
