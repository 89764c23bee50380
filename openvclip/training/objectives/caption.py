"""Caption training (Open-VCLIP++): a loss that brings videos and their captions together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.models.video_clip import Captioned, Outputs
from openvclip.training.objectives.contrastive import contrastive_loss, sigmoid_pair_loss
from openvclip.training.objectives.objective import Objective, Part

PairLoss = Callable[..., Tensor]


def _inputs(output: Captioned, loss: PairLoss) -> tuple[Tensor, ...]:
    """Return what a loss is computed from: embeddings of a part, and the scalars of the logits."""
    if loss is contrastive_loss:
        return output.video, output.text, output.scale
    assert output.bias is not None  # models without one are refused
    return output.video, output.text, output.scale, output.bias


class CachedGradients:
    """The loss of a batch in parts, and its gradient at their embeddings.

    The loss needs all embeddings together, so they are computed once without a gradient, and once
    more part by part with one (Gao et al. 2021, arXiv 2101.06983).
    """

    def __init__(
        self, outputs: Sequence[Captioned], compute: PairLoss = contrastive_loss
    ) -> None:
        self.compute = compute
        with torch.enable_grad():
            video = torch.cat([part.video for part in outputs]).requires_grad_()
            text = torch.cat([part.text for part in outputs]).requires_grad_()
            scalars = [x.detach().clone().requires_grad_()
                       for x in _inputs(outputs[0], compute)[2:]]
            loss = compute(video, text, *scalars)
        of_video, of_text, *rest = torch.autograd.grad(loss, (video, text, *scalars))
        sizes = [len(part.video) for part in outputs]
        # All parts share the scalars, so their gradients belong to one of them.
        shared = [rest, *[[torch.zeros_like(x) for x in rest]] * (len(outputs) - 1)]
        self.loss = loss.detach()
        self._gradients = [
            (video, text, *own) for video, text, own in
            zip(of_video.split(sizes), of_text.split(sizes), shared, strict=True)]

    def surrogate(self, output: Captioned, index: int) -> Tensor:
        """Return a scalar whose gradient at the outputs of part ``index`` is the loss's."""
        ours = _inputs(output, self.compute)
        return sum((x * gradient).sum()
                   for x, gradient in zip(ours, self._gradients[index], strict=True))


class CaptionContrast(Objective):
    """CLIP's loss, or SigLIP's, over the videos that have a caption, in all processes.

    A batch in parts runs forward twice, see :class:`CachedGradients`.

    The loss is ``contrastive``, or ``sigmoid`` for models that have a ``logit_bias``.
    """

    name = "caption"

    def __init__(self, weight: float = 1.0, loss: str = "contrastive") -> None:
        self.weight = weight
        self.compute: PairLoss = sigmoid_pair_loss if loss == "sigmoid" else contrastive_loss
        self._cached: CachedGradients | None = None

    @classmethod
    def build(cls, cfg: Any, model: nn.Module) -> CaptionContrast:
        """Build what ``TRAIN.CAPTION`` asks for."""
        return cls(cfg.TRAIN.CAPTION.LOSS_RATIO, cfg.TRAIN.CAPTION.LOSS)

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Compute the gradients of a batch that comes in parts."""
        self._seen = self._cached = None
        if len(parts) > 1 and parts[0].captions is not None:
            outputs = [forward(part).captioned for part in parts]
            self._cached = CachedGradients(outputs, self.compute)

    def term(self, output: Any, logits: Tensor, part: Part) -> Tensor | None:
        """Return the loss, or a scalar with its gradient at the outputs of this part."""
        if part.captions is None:
            return None
        assert isinstance(output, Outputs) and output.captioned is not None  # for there are some
        if self._cached is not None:
            self._seen = self._cached.loss
            return self._cached.surrogate(output.captioned, part.index)
        loss = self.compute(*_inputs(output.captioned, self.compute))
        self._seen = loss.detach()
        return loss
