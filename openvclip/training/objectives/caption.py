"""Caption training (Open-VCLIP++): a contrastive loss between videos and their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.models.video_clip import VideoAndText
from openvclip.training.objectives.contrastive import contrastive_loss
from openvclip.training.objectives.objective import Objective, Part


class CachedGradients:
    """The contrastive loss of a batch in parts, and its gradient at their embeddings.

    The loss needs all embeddings together, so they are computed once without a gradient, and once
    more part by part with one (Gao et al. 2021, arXiv 2101.06983).
    """

    def __init__(self, outputs: Sequence[VideoAndText]) -> None:
        with torch.enable_grad():
            video = torch.cat([part.video for part in outputs]).requires_grad_()
            text = torch.cat([part.text for part in outputs]).requires_grad_()
            scale = outputs[0].scale.detach().clone().requires_grad_()
            loss = contrastive_loss(video, text, scale)
        of_video, of_text, of_scale = torch.autograd.grad(loss, (video, text, scale))
        sizes = [len(part.video) for part in outputs]
        # All parts share the scale, so its gradient belongs to one of them.
        of_scales = [of_scale, *[torch.zeros_like(of_scale)] * (len(outputs) - 1)]
        self.loss = loss.detach()
        self._gradients = list(
            zip(of_video.split(sizes), of_text.split(sizes), of_scales, strict=True))

    def surrogate(self, output: VideoAndText, index: int) -> Tensor:
        """Return a scalar whose gradient at the outputs of part ``index`` is the loss's."""
        ours = (output.video, output.text, output.scale)
        return sum((x * gradient).sum()
                   for x, gradient in zip(ours, self._gradients[index], strict=True))


class CaptionContrast(Objective):
    """CLIP's loss over the videos that have a caption, in all processes.

    A batch in parts runs forward twice, see :class:`CachedGradients`.
    """

    name = "caption"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self._cached: CachedGradients | None = None

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> CaptionContrast:
        """Build what ``TRAIN.CAPTION`` asks for."""
        return cls(cfg.TRAIN.CAPTION.LOSS_RATIO)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Compute the gradients of a batch that comes in parts."""
        self._seen = self._cached = None
        if len(parts) > 1 and parts[0].captions is not None:
            self._cached = CachedGradients([forward(part) for part in parts])

    def term(self, output: Any, logits: Tensor, part: Part) -> Tensor | None:
        """Return the loss, or a scalar with its gradient at the outputs of this part."""
        if part.captions is None:
            return None
        if self._cached is not None:
            self._seen = self._cached.loss
            return self._cached.surrogate(output, part.index)
        loss = contrastive_loss(output.video, output.text, output.scale)
        self._seen = loss.detach()
        return loss
