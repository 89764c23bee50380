"""The text tower trained by classification: class sentences are encoded with gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from openvclip.checkpoints.loading import build_autocast, unwrap
from openvclip.data.lists.labels import build_label_space
from openvclip.models.text import class_texts
from openvclip.models.text_choices import build_text_choice
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.live_classifier import LiveClassifier, tokenize_classes
from openvclip.training.objectives.objective import Objective, Part
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)


class TextDraw:
    """Draws the texts of a step; it depends on seed and step only, so all processes agree.

    Args:
        counts: number of texts of each class, which lie class after class.
        sample: most texts of a class in a step.
        shared: texts of all classes have the same places, and a draw takes the same of each.
        seed: the run's seed.
    """

    def __init__(self, counts: Sequence[int], sample: int, shared: bool, seed: int) -> None:
        self.counts, self.sample, self.shared, self.seed = counts, sample, shared, seed

    def __call__(self, step: int) -> Tensor:
        """Return the rows of the texts of optimizer step ``step``, int64."""
        draw = random.Random(f"class texts/{self.seed}/{step}")
        rows: list[int] = []
        first, places = 0, None
        for count in self.counts:
            if places is None or not self.shared:
                places = sorted(draw.sample(range(count), min(self.sample, count)))
            rows += [first + place for place in places]
            first += count
        return torch.tensor(rows)


class ClassTextTraining(Objective):
    """Lets the text tower train by the losses that the class embeddings take part in.

    It adds no loss of its own; see :class:`LiveClassifier`.

    Args:
        live: makes the class embeddings.
        draw: step -> the texts to use; None: all.
    """

    def __init__(self, live: LiveClassifier, draw: TextDraw | None = None) -> None:
        self.live, self.draw = live, draw
        self._rows: Tensor | None = None

    @classmethod
    def extend_model(cls, cfg: Any, model: VideoCLIP) -> None:
        """Say that class embeddings are made at each step."""
        unwrap(model).embeds_classes = True

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> ClassTextTraining:
        """Build what ``MODEL.TEXT_TOWER trainable`` or ``MODEL.TEXT_PROMPT`` asks for."""
        names, sample = build_label_space(cfg).names, cfg.MODEL.TEXT_SAMPLE
        choice = build_text_choice(cfg, names)
        texts = class_texts(names, choice.templates, choice.descriptions)
        counts, shared = [len(own) for own in texts], choice.descriptions is None
        if sample > max(counts):
            raise ConfigError(
                f"MODEL.TEXT_SAMPLE is {sample}, but a class has at most {max(counts)} texts "
                f"({choice.file or choice.name}); lower it, or set 0 for all"
            )
        video_clip = unwrap(model)
        clip = video_clip.model
        tokens = tokenize_classes(clip, texts, cfg.MODEL.CONTEXT_LENGTH, not shared)
        autocast = build_autocast(cfg, clip.logit_scale.device, "TRAIN")
        live = LiveClassifier(video_clip, tokens, cfg.MODEL.TEXT_CHUNK, autocast)
        drawn = sum(min(count, sample or count) for count in counts)
        logger.info("class sentences are encoded with gradients (%s): %d of %d classes a step",
                    choice.file or choice.name, drawn, len(names))
        return cls(live, TextDraw(counts, sample, shared, cfg.RNG_SEED) if sample else None)

    def begin_step(self, step: int) -> None:
        """Draw the texts of the step, the same for all of its passes."""
        self._rows = None if self.draw is None else self.draw(step)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Make the class embeddings at the weights of this pass."""
        super().begin(parts, forward)
        self.live.start(self._rows)

    def complete(self, total: Tensor) -> Tensor:
        """Carry the gradient at the class embeddings into the text tower."""
        return self.live.finish(total)
