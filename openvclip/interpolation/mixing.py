"""Interpolated weight optimization: mix while training, average epochs, patch for testing.

The three places where Open-VCLIP (arXiv 2302.00624, section 3.3) combines two sets of weights:

* training: ``r * clip + (1 - r) * theta`` with ``r ~ U(low, high)`` (:class:`WeightInterpolator`);
* averaging: the plain mean of epoch checkpoints (:func:`average_state_dicts`);
* testing: ``ratio * clip + (1 - ratio) * averaged`` (:func:`patch_state_dict`).

Weights change hands in one way: ``with weights.at(ratio):`` (:class:`Weights`). All arithmetic is
in fp32: archives hold fp16, in which mixing loses bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from openvclip.utils.errors import CheckpointError
from openvclip.utils.shards import cut_like, is_sharded, local

StateDict = dict[str, Tensor]


def draw_ratio(low: float, high: float, *, seed: int, step: int, rank: int | None = None) -> float:
    """Draw the share of CLIP's weights in one training step, ``r ~ U(low, high)``.

    The draw depends only on its arguments, so a resumed run draws what an undisturbed one
    would have drawn, and every process of a step draws the same.

    Args:
        low: lower end of the range, in [0, 1].
        high: upper end of the range, in [low, 1].
        seed: the run's seed.
        step: number of the optimizer step since the beginning of training.
        rank: give it to let every process draw for itself, as the published code did.
    """
    name = f"interpolation/{seed}/{step}" + ("" if rank is None else f"/{rank}")
    return random.Random(name).uniform(low, high)


def check_shape(
    name: str, parameter: Tensor, anchor: Tensor, source: str, key: str = ""
) -> None:
    """Raise a CheckpointError unless CLIP's tensor has the shape of the model's parameter.

    ``source`` is where CLIP's is from, and ``key`` the setting that names it, for the error.
    """
    if parameter.shape != anchor.shape:
        raise CheckpointError(
            f"{name} has shape {tuple(parameter.shape)} in the model and {tuple(anchor.shape)} in "
            f"{source}; use the CLIP that the model was made from{key}"
        )


def compact(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor: in fp16 if that is exact, as for OpenAI's archives."""
    half = tensor.half()
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor.clone()


class Weights:
    """Parameters of a model that temporarily hold a mixture with the original CLIP.

    This base class mixes nothing: the model is the same at every ratio. The parameters' own values
    are set aside, so they are restored bit for bit. Of sharded parameters (TRAIN.SHARDING fsdp)
    each process mixes its own part, so all must use the same ratio.

    Attributes:
        names: parameters that change with the ratio.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter] | None = None) -> None:
        self.names = list(parameters or {})
        self._parameters = list((parameters or {}).values())

    @contextmanager
    def at(self, ratio: float) -> Iterator[None]:
        """Let the model hold its weights at a share of CLIP, 0 to 1, inside the block.

        Both ends are exact. Memory: the mixture, while it is held.
        """
        # What is gathered from the parts is read where they lie: those must be written to.
        own = [local(p.data).clone() if is_sharded(p) else p.data for p in self._parameters]
        mixture = self._mix(ratio)
        try:
            for parameter in self._parameters:
                _put(parameter, mixture.pop(0))  # so that nothing else keeps its memory
            yield
        finally:
            for parameter, tensor in zip(self._parameters, own, strict=True):
                _put(parameter, tensor)

    @torch.no_grad()
    def set_ratio(self, ratio: float) -> None:
        """Let the model hold its weights at a share of CLIP from here on."""
        for parameter, tensor in zip(self._parameters, self._mix(ratio), strict=True):
            local(parameter.data).copy_(tensor)

    def _mix(self, ratio: float) -> list[Tensor]:
        """Return the tensors of the parameters at a ratio, of sharded ones this process's parts."""
        return [local(p.data) for p in self._parameters]


def _put(parameter: torch.nn.Parameter, tensor: Tensor) -> None:
    """Let a parameter hold a tensor, or this process's part of it."""
    if is_sharded(parameter):
        local(parameter.data).copy_(tensor)
    else:
        parameter.data = tensor


class WeightInterpolator(Weights):
    """Weights that train, mixed with an anchor: ``ratio * anchor + (1 - ratio) * current``.

    Memory: the anchor (the original CLIP; in fp16 if that is exact, as for OpenAI's archives),
    and the mixture while it is held.

    Args:
        parameters: the parameters that train, by name. Those that the anchor lacks (adapters)
            are unchanged in the mixture.
        anchor: tensors of the original CLIP under the same names.
        live: mix with the tensors of ``anchor`` themselves, as they are at that time, rather than
            with copies: an anchor that moves. They are on the parameters' devices, cut as these.
        additions: by name, what returns the tensor that the model adds to a parameter where it
            computes (LoRA). The mixture is of the sum; while it is held, the parameter holds it
            less the addition, so that the addition's gradient is that of the mixture itself.

    Raises:
        CheckpointError: the anchor shares no name with the parameters, or a shape differs.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], anchor: Mapping[str, Tensor],
        live: bool = False,
        additions: Mapping[str, Callable[[], Tensor]] | None = None,
    ) -> None:
        shared = {name: p for name, p in parameters.items() if name in anchor}
        if not shared:
            raise CheckpointError(
                "the original CLIP has none of the parameters that train, so there is nothing to "
                f"interpolate with (first of ours: {next(iter(parameters), 'none')}; first of "
                f"CLIP's: {next(iter(anchor), 'none')})"
            )
        for name, parameter in shared.items():
            check_shape(name, parameter, anchor[name], "the original CLIP",
                        key=" (TRAIN.CLIP_ORI_PATH)")
        super().__init__(shared)
        self._additions = [(self.names.index(name), addition)
                           for name, addition in (additions or {}).items() if name in shared]
        if live:
            self._anchor = [local(anchor[name]) for name in shared]
            return
        anchors = (cut_like(anchor[name].detach().to(p.device, p.dtype), p)
                   for name, p in shared.items())
        self._anchor = [compact(tensor) for tensor in anchors]

    def _mix(self, ratio: float) -> list[Tensor]:
        current = [local(p.data) for p in self._parameters]
        mixture = [torch.empty_like(tensor) for tensor in current]
        torch._foreach_copy_(mixture, self._anchor)
        # r·anchor + (1 - r)·(current + added) - added is current mixed with anchor - added.
        for place, addition in self._additions:
            mixture[place] -= addition()
        torch._foreach_lerp_(mixture, current, 1.0 - ratio)
        return mixture

    mixed = Weights.at  # the name under which notebooks may use it


def patch_state_dict(
    checkpoint: Mapping[str, Tensor], clip: Mapping[str, Tensor], ratio: float
) -> StateDict:
    """Patch fine-tuned weights with CLIP's: ``ratio * clip + (1 - ratio) * checkpoint`` in fp32.

    Args:
        checkpoint: fine-tuned weights; tensors that CLIP lacks are taken from here unchanged.
        clip: weights of the original CLIP, under the same names.
        ratio: share of CLIP, 0 (the unpatched checkpoint) to 1 (CLIP).

    Returns:
        The patched weights, under the checkpoint's names and in its order.

    Raises:
        CheckpointError: a tensor's shape differs between the two, or they share no name.
    """
    patched: StateDict = {}
    for name, tensor in checkpoint.items():
        if name not in clip or not tensor.is_floating_point():
            patched[name] = tensor
            continue
        if clip[name].shape != tensor.shape:
            raise CheckpointError(
                f"cannot patch {name}: shape {tuple(tensor.shape)} in the checkpoint, "
                f"{tuple(clip[name].shape)} in CLIP; patch with the CLIP it was fine-tuned from"
            )
        original = clip[name].to(device=tensor.device, dtype=torch.float32)
        # checkpoint + ratio * (clip - checkpoint): values equal in both are unchanged.
        patched[name] = torch.lerp(tensor.float(), original, ratio)
    if not any(name in clip for name in checkpoint):
        raise CheckpointError("cannot patch: the checkpoint and CLIP share no parameter name")
    return patched


class WeightPatcher(Weights):
    """Weights of a checkpoint, patched with CLIP's; only tensors that differ from CLIP are touched.

    Args:
        parameters: the model's parameters by name, holding the checkpoint's weights, which are
            copied here.
        clip: weights of the original CLIP under the same names.

    Raises:
        CheckpointError: as :func:`patch_state_dict`.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], clip: Mapping[str, Tensor]
    ) -> None:
        anchors = {name: cut_like(clip[name].to(device=p.device, dtype=torch.float32), p)
                   for name, p in parameters.items() if name in clip}
        own = {name: local(p.detach()) for name, p in parameters.items()}
        patch_state_dict(own, anchors, 0.0)  # refuses mismatches, before any work
        super().__init__({name: parameters[name] for name, tensor in anchors.items()
                          if not torch.equal(own[name].float(), tensor)})
        self._clip = {name: anchors[name] for name in self.names}
        self._checkpoint = {name: own[name].clone() for name in self.names}

    def _mix(self, ratio: float) -> list[Tensor]:
        if not self.names:  # the checkpoint is CLIP
            return []
        patched = patch_state_dict(self._checkpoint, self._clip, ratio)
        return [patched[name].to(p.dtype)
                for name, p in zip(self.names, self._parameters, strict=True)]


class MixedWeights(Weights):
    """Other weights than the model's own, mixed with the original CLIP.

    Args:
        weights: hold them, at any ratio.
        mixer: mixes with CLIP what the model holds.
    """

    def __init__(self, weights: Weights, mixer: Weights) -> None:
        super().__init__()
        self.names = weights.names
        self._weights, self._mixer = weights, mixer

    @contextmanager
    def at(self, ratio: float) -> Iterator[None]:
        """See :meth:`Weights.at`."""
        with self._weights.at(ratio), self._mixer.at(ratio):
            yield


class WeightsAndClassifier(Weights):
    """Weights, and the class embeddings that belong to them, if the text tower changes too.

    Args:
        weights: the weights.
        model: a :class:`openvclip.models.video_clip.VideoCLIP` that holds them.
        embeddings_at: ratio -> (C, D) class embeddings.
    """

    def __init__(
        self, weights: Weights, model: Any, embeddings_at: Callable[[float], Tensor]
    ) -> None:
        super().__init__()
        self.names = weights.names
        self._weights, self._model, self._embeddings_at = weights, model, embeddings_at

    @classmethod
    def embedded(
        cls, weights: Weights, model: Any, embed: Callable[[Any], Tensor], ratios: Iterable[float]
    ) -> WeightsAndClassifier:
        """Embed the classes at each of ``ratios`` now, with the CLIP that the model has there."""
        embeddings = {}
        for ratio in ratios:
            with weights.at(ratio):
                embeddings[ratio] = embed(model.model)
        return cls(weights, model, embeddings.__getitem__)

    @contextmanager
    def at(self, ratio: float) -> Iterator[None]:
        """See :meth:`Weights.at`."""
        own = self._model.classifier
        embeddings = self._embeddings_at(ratio)
        with self._weights.at(ratio):
            self._model.set_classifier(embeddings)
            try:
                yield
            finally:
                self._model.set_classifier(own)
