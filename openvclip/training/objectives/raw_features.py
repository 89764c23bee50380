"""What the raw model makes of a batch, computed once per step for all objectives that ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from openvclip.checkpoints.loading import build_autocast
from openvclip.models.raw import build_raw_model
from openvclip.models.video_clip import VideoCLIP, share
from openvclip.training.objectives.objective import Part

_NAME = "raw_features"


class RawFeatures:
    """The raw model's embeddings of the frames of a batch, without gradients.

    Passes of a step at other weights, and other objectives, see the same ones.

    Args:
        raw: the raw model.
        autocast: makes the context of its forward pass.
    """

    def __init__(self, raw: VideoCLIP, autocast: Callable = nullcontext) -> None:
        self.raw, self.autocast = raw, autocast
        self._parts: Sequence[Part] = ()
        self._frames: list[Tensor] = []

    @torch.no_grad()
    def look(self, parts: Sequence[Part]) -> None:
        """Embed the frames of a batch, unless it is the one that was seen last."""
        if parts is not self._parts:
            self._parts = parts
            with self.autocast():
                self._frames = [self.raw.embed_frames(part.video) for part in parts]

    def frames(self, part: Part) -> Tensor:
        """(b·T, D) embeddings of a part's frames, each of length 1, a clip's adjacent."""
        return self._frames[part.index]

    def pooled(self, part: Part) -> Tensor:
        """(b, D), the means of each clip's."""
        return self.frames(part).unflatten(0, (-1, self.raw.num_frames)).mean(dim=1)

    def logits(self, part: Part) -> Tensor:
        """(b, classes) logits by the raw model's classifier and logit scale."""
        return self.raw.classify(self.pooled(part))

    def release(self) -> None:
        """Let go of the batch."""
        self._parts, self._frames = (), []


def build_raw_features(cfg: Any, model: VideoCLIP, *, text: bool = False) -> RawFeatures:
    """Return what objectives of ``model`` share; ``text`` as in :func:`build_raw_model`."""
    raw = build_raw_model(cfg, model, text=text)
    return share(model, _NAME, lambda: RawFeatures(
        raw, build_autocast(cfg, raw.model.logit_scale.device, "TRAIN")))
