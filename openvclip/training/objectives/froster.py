"""FROSTER (Huang et al., ICLR 2024, arXiv 2402.03241): projected embeddings stay near CLIP's."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.data.lists.labels import build_label_space
from openvclip.models.text import FROSTER_TEMPLATES, class_texts, embed_tokens
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.live_classifier import (
    ClassTexts,
    LiveClassifier,
    tokenize_classes,
)
from openvclip.training.objectives.objective import Objective, Part
from openvclip.training.objectives.raw_features import RawFeatures, build_raw_features
from openvclip.utils import distributed
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

SHARE = 0.1  # of what a projector adds, as in FROSTER's code
DRAWN = len(FROSTER_TEMPLATES) - 1  # the last is the bare name, which each step uses


class Projectors(nn.Module):
    """One for frames and one for classes: Linear, GELU, Linear, without bias, (D, D) each.

    The first layers are drawn as Kaiming's normal distribution, std sqrt(2 / D); the second ones
    are 0, so that embeddings are unchanged at first.

    Args:
        width: D.
        seed: the run's seed.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.projector_v = _make_projector(width, generator)
        self.projector_t = _make_projector(width, generator)

    def project_frames(self, frames: Tensor) -> Tensor:
        """(N, D) -> (N, D), not normalised."""
        return frames + SHARE * self.projector_v(frames)

    def project_classes(self, classes: Tensor) -> Tensor:
        """(C, D) -> (C, D), not normalised."""
        return classes + SHARE * self.projector_t(classes)


def _make_projector(width: int, generator: torch.Generator) -> nn.Sequential:
    first, second = (nn.Linear(width, width, bias=False) for _ in range(2))
    nn.init.kaiming_normal_(first.weight, generator=generator)
    nn.init.zeros_(second.weight)
    return nn.Sequential(first, nn.GELU(), second)


def build_projectors(cfg: Any, model: VideoCLIP) -> Projectors:
    """Build the projectors of a model's embeddings, in the precision of its weights."""
    return Projectors(model.model.embed_dim, cfg.RNG_SEED).to(model.model.logit_scale.dtype)


def compute_distance(ours: Tensor, raw: Tensor) -> Tensor:
    """1 minus the mean cosine of the rows of two (N, D)."""
    return 1 - F.cosine_similarity(ours, raw, dim=-1).mean()


def draw_template(seed: int, step: int) -> int:
    """Return which of the 28 templates step ``step`` uses, the same in all processes."""
    return random.Random(f"froster/{seed}/{step}").randrange(DRAWN)


class Froster(Objective):
    """Trains both towers by classification, with distances from CLIP's frames and classes.

    A class is encoded in two texts at each step: in a template that is drawn, and bare. The
    distances are those of the projected embeddings of frames and of classes from the raw model's,
    by frame and by class; projections take part in no logits.

    Args:
        live: makes the class embeddings; its texts are in the order of ``raw_texts``.
        projectors: what trains beside the model.
        raw: what the raw model makes of a batch.
        raw_texts: (C, 29, D) embeddings by CLIP's text tower of each class's texts.
        weight: factor of the distances.
        draw: step -> number of the template.
    """

    name = "froster"

    def __init__(
        self, live: LiveClassifier, projectors: Projectors, raw: RawFeatures, raw_texts: Tensor,
        weight: float = 2.0, draw: Callable[[int], int] | None = None,
    ) -> None:
        self.live, self.projectors, self.raw, self.raw_texts = live, projectors, raw, raw_texts
        self.weight, self.draw = weight, draw or (lambda step: draw_template(0, step))

    @classmethod
    def extend_model(cls, cfg: Any, model: VideoCLIP) -> None:
        """Add the projectors, and ask for the embeddings of the frames."""
        model.extras[cls.name] = build_projectors(cfg, model)
        model.keep_frames = model.embeds_classes = True

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> Froster:
        """Build what ``TRAIN.OBJECTIVES [froster]`` asks for."""
        names, seed = build_label_space(cfg).names, cfg.RNG_SEED
        texts = tokenize_classes(
            model.model, class_texts(names, FROSTER_TEMPLATES), cfg.MODEL.CONTEXT_LENGTH)
        logger.info("FROSTER: 2 of %d texts for each of %d classes a step", DRAWN + 1, len(names))
        raw = build_raw_features(cfg, model)
        live = LiveClassifier(model, texts, cfg.MODEL.TEXT_CHUNK, raw.autocast)
        # CLIP's own text tower, which the model still has, is not needed after this.
        embedded = embed_all(model.model, texts).unflatten(0, (len(names), -1))
        scale = model.model.logit_scale
        return cls(live, cast(Projectors, model.extras[cls.name]), raw,
                   embedded.to(scale.device, scale.dtype), cfg.TRAIN.FROSTER.RATIO,
                   lambda step: draw_template(seed, step))

    def begin_step(self, step: int) -> None:
        """Draw the template of the step, the same for all of its passes."""
        count = self.raw_texts.shape[1]
        places = torch.tensor([self.draw(step), count - 1])
        classes = torch.arange(len(self.raw_texts))[:, None]
        self._rows = (classes * count + places).flatten()
        self._raw_classes = F.normalize(self.raw_texts[:, places].mean(dim=1), dim=-1)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Let the raw model look at a new batch; embed the classes at the weights of this pass."""
        super().begin(parts, forward)
        self.raw.look(parts)
        self.live.start(self._rows)

    def term(self, output: Any, logits: Tensor, part: Part) -> Tensor:
        """Return the part's share of both distances; that of classes counts once in a batch."""
        classes = self.live.model.live_classifier
        assert classes is not None  # the pass has begun
        with torch.autocast(output.frames.device.type, enabled=False):
            frames = self.projectors.project_frames(output.frames)
            distances = (compute_distance(frames, self.raw.frames(part)) + compute_distance(
                self.projectors.project_classes(classes), self._raw_classes))
        return self.add_up(distances, part)

    def complete(self, total: Tensor) -> Tensor:
        """Carry the gradient at the class embeddings into the text tower."""
        return self.live.finish(total)

    def after_update(self, step: int) -> None:
        """Let go of the batch."""
        self.raw.release()

    def state_dict(self) -> dict[str, Any]:
        """The projectors' weights."""
        return dict(self.projectors.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the projectors' weights."""
        self.projectors.load_state_dict(state)


def embed_all(clip: Any, texts: ClassTexts) -> Tensor:
    """Encode texts, shared by the processes: fp32 (N, D) on the CPU, each of length 1."""
    share = (distributed.rank(), distributed.world_size())
    features = torch.empty(len(texts.tokens), clip.embed_dim)
    part = embed_tokens(clip, texts.tokens, share=share, what="embedding classes by CLIP")
    for rows, encoded in distributed.all_gather_object(part):
        features[rows] = encoded
    return features
