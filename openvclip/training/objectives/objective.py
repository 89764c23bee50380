"""The interface of objectives: a term of the loss, other passes, or work around steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from openvclip.interpolation import Weights
from openvclip.models.video_clip import VideoCLIP


class Captions(NamedTuple):
    """Captions of a batch.

    Attributes:
        tokens: int64 (n, columns) token ids; n may be 0.
        videos: int64 (n,), the video of the batch to which each belongs.
    """

    tokens: Tensor
    videos: Tensor


@dataclass(frozen=True)
class Part:
    """What goes through the model together: a batch, or a part of it, to save memory.

    Attributes:
        index: number of the part in the batch.
        video: (b, 3, T, H, W), normalised.
        label: (b,) class indices or (b, classes) soft targets.
        captions: of these videos, or None.
        share: b divided by the size of the batch.
    """

    index: int
    video: Tensor
    label: Tensor
    captions: Captions | None
    share: float


@dataclass(frozen=True)
class Pass:
    """Another forward and backward pass of a step over the batch, at other weights.

    Attributes:
        name: put before the names of its losses in the log.
        weight: factor of its gradients.
        weights: context in which the model holds those weights; left before the update.
        ratio: share of CLIP in them, for the log, or None.
    """

    name: str
    weight: float
    weights: AbstractContextManager
    ratio: float | None = None


class Objective:
    """One objective of training; each hook does nothing unless it is overridden.

    A loss that is a mean over videos overrides only :meth:`loss`. Processes exchange gradients as
    means, so it needs no exchange of its own. The step adds it up over the parts of a batch.

    Attributes:
        name: name of its loss in the log, ``<name>_loss``; set from the registry.
        weight: factor of its loss.
        rate: factor of the learning rate, which may change from epoch to epoch.
    """

    name = ""
    weight = rate = 1.0
    _seen: Tensor | None = None

    @classmethod
    def extend_model(cls, cfg: Any, model: VideoCLIP) -> None:
        """Add to ``model.extras`` what trains beside it, or choose what trains.

        It is called before the model is wrapped and before the optimizer is made.

        Args:
            cfg: the resolved config.
            model: the :class:`VideoCLIP`, on the CPU.
        """

    @classmethod
    def build(cls, cfg: Any, model: VideoCLIP) -> Objective:
        """Make it from the config.

        Args:
            cfg: the resolved config.
            model: the :class:`VideoCLIP` that trains, on its device; it still holds the original
                CLIP.
        """
        return cls()

    def loss(self, logits: Tensor, part: Part) -> Tensor | None:
        """Return a scalar, the mean over the part's videos; None: there is none, in any process.

        Args:
            logits: (b, classes) of the part's videos, with gradients.
            part: the videos and their labels.
        """
        return None

    def begin(self, parts: Sequence[Part], forward: Callable[[Part], Any]) -> None:
        """Look at all parts of a batch before their backward passes, without gradients.

        Args:
            parts: the whole batch.
            forward: runs the model on a part.
        """
        self._seen = None

    def term(self, output: Any, logits: Tensor, part: Part) -> Tensor | None:
        """Return what a part adds to the batch's loss, before ``weight``; None: nothing.

        Args:
            output: what the model returned: the logits, or
                :class:`openvclip.models.video_clip.Outputs`.
            logits: (b, classes).
            part: the videos and their labels.
        """
        loss = self.loss(logits, part)
        return None if loss is None else self.add_up(loss, part)

    def add_up(self, loss: Tensor, part: Part) -> Tensor:
        """Return what a part's mean adds to the batch's, which :meth:`value` then counts."""
        loss = loss * part.share
        self._seen = loss.detach() if self._seen is None else self._seen + loss.detach()
        return loss

    def complete(self, total: Tensor) -> Tensor | None:
        """Return what the last part of a batch adds to ``total``, before its backward pass.

        For an objective that needs all parts' gradients at some leaf: those of the earlier parts
        are in the leaf's ``grad``, and that of this part is
        ``torch.autograd.grad(total, leaf, retain_graph=True)``.

        Args:
            total: the scalar of which this part's backward pass is about to be taken, with all
                weights in it.
        """
        return None

    def add_gradients(self, scale: Tensor) -> None:
        """Add to the parameters' gradients, which all processes share by now.

        For a penalty that depends on the weights only, whose gradient is known in closed form. It
        is called once per step, after all passes, at the weights that are updated.

        Args:
            scale: the loss scale, a scalar; what is added must carry it, and ``weight``.
        """

    def value(self) -> Tensor | None:
        """Return the batch's loss, detached, once all parts are through; None: there is none."""
        return self._seen

    def trains_only(self) -> Sequence[nn.Parameter] | None:
        """Return the only parameters that train in this epoch; None: all that may.

        The step drops the gradients of all others, and exchanges none of theirs.
        """
        return None

    def begin_step(self, step: int) -> None:
        """Prepare for optimizer step ``step``, before its first pass."""

    def facts(self) -> dict[str, Tensor]:
        """Return other numbers of the batch for the log, scalars by name, the same ones always."""
        return {}

    def passes(self, step: int) -> Iterable[Pass]:
        """Return the passes that optimizer step ``step`` takes before that at its own weights."""
        return ()

    def prepare(self) -> None:
        """Do what takes long, once weights and states are loaded and before the first epoch."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, counted from 0, or for the rest of a resumed one."""

    def update_skipped(self, step: int) -> None:
        """Note that fp16's gradient scaler left step ``step`` out; ``after_update`` follows."""

    def after_update(self, step: int) -> None:
        """Act on the weights after the optimizer step ``step``."""

    def end_epoch(self, epoch: int) -> None:
        """Act after an epoch, before it is saved and validated."""

    def validated_weights(self) -> Mapping[str, Weights]:
        """Return further weights to validate, by what is put after the names of their numbers.

        They are the same at every ratio; where validation is patched, they are mixed, too.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must store: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
