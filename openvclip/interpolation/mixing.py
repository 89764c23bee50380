"""Interpolated weight optimization: mix while training, average epochs, patch for testing.

The three places where Open-VCLIP (arXiv 2302.00624, section 3.3) combines two sets of weights:

* training: ``r * clip + (1 - r) * theta`` with ``r ~ U(low, high)`` (:class:`WeightInterpolator`);
* averaging: the plain mean of epoch checkpoints (:func:`average_state_dicts`);
* testing: ``ratio * clip + (1 - ratio) * averaged`` (:func:`patch_state_dict`).

All arithmetic is in fp32: archives hold fp16, in which mixing loses bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from openvclip.utils.errors import CheckpointError

StateDict = dict[str, Tensor]


def draw_ratio(low: float, high: float, *, seed: int, step: int, rank: int | None = None) -> float:
    """Draw the share of CLIP's weights in one training step, ``r ~ U(low, high)``.

    The draw depends on nothing but its arguments, so a resumed run draws what an undisturbed one
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


class WeightInterpolator:
    """Lets parameters hold a mixture with an anchor for a while.

    The parameters' own tensors are put aside, not written to, so they come back bit for bit.
    Memory: the anchor (the original CLIP; in fp16 where that is exact, as OpenAI's archives are),
    and the mixture while it is held.

    Args:
        parameters: the parameters that train, by name. Those that the anchor lacks (adapters)
            stay as they are in the mixture.
        anchor: tensors of the original CLIP under the same names.

    Raises:
        CheckpointError: the anchor shares no name with the parameters, or a shape differs.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], anchor: Mapping[str, Tensor]
    ) -> None:
        shared = [name for name in parameters if name in anchor]
        if not shared:
            raise CheckpointError(
                "the original CLIP has none of the parameters that train, so there is nothing to "
                f"interpolate with (first of ours: {next(iter(parameters), 'none')}; first of "
                f"CLIP's: {next(iter(anchor), 'none')})"
            )
        for name in shared:
            if parameters[name].shape != anchor[name].shape:
                raise CheckpointError(
                    f"{name} has shape {tuple(parameters[name].shape)} in the model and "
                    f"{tuple(anchor[name].shape)} in the original CLIP; use the CLIP that the "
                    "model was made from (TRAIN.CLIP_ORI_PATH)"
                )
        self.names = shared
        self._parameters = [parameters[name] for name in shared]
        anchors = (anchor[name].detach().to(p.device, p.dtype) for name, p in self._pairs())
        halves = ((tensor, tensor.half()) for tensor in anchors)
        self._anchor = [
            half if torch.equal(half.to(tensor.dtype), tensor) else tensor.clone()
            for tensor, half in halves
        ]

    def _pairs(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        return zip(self.names, self._parameters, strict=True)

    @contextmanager
    def mixed(self, ratio: float) -> Iterator[None]:
        """Hold the parameters at ``ratio * anchor + (1 - ratio) * current`` inside the block."""
        current = [p.data for p in self._parameters]
        mixture = self._mix(ratio)
        try:
            for parameter in self._parameters:
                parameter.data = mixture.pop(0)  # so that nothing else keeps its memory
            yield
        finally:
            self._put(current)

    @contextmanager
    def switching(self, ratio: float) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """Give what puts the current weights in and what puts their mixture in, for the block.

        Both are held meanwhile, so that to switch costs nothing; the current ones are in at the
        beginning and at the end.
        """
        current, mixture = [p.data for p in self._parameters], self._mix(ratio)
        try:
            yield partial(self._put, current), partial(self._put, mixture)
        finally:
            self._put(current)

    def _mix(self, ratio: float) -> list[Tensor]:
        current = [p.data for p in self._parameters]
        mixture = [torch.empty_like(tensor) for tensor in current]
        torch._foreach_copy_(mixture, self._anchor)
        torch._foreach_lerp_(mixture, current, 1.0 - ratio)
        return mixture

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.data = tensor


def patch_state_dict(
    checkpoint: Mapping[str, Tensor], clip: Mapping[str, Tensor], ratio: float
) -> StateDict:
    """Patch fine-tuned weights with CLIP's: ``ratio * clip + (1 - ratio) * checkpoint`` in fp32.

    Args:
        checkpoint: fine-tuned weights; tensors that CLIP lacks are taken from here unchanged.
        clip: weights of the original CLIP, under the same names.
        ratio: share of CLIP, 0 (the checkpoint as it is) to 1 (CLIP).

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
        # checkpoint + ratio * (clip - checkpoint): what is equal in both stays as it is.
        patched[name] = torch.lerp(tensor.float(), original, ratio)
    if not any(name in clip for name in checkpoint):
        raise CheckpointError("cannot patch: the checkpoint and CLIP share no parameter name")
    return patched


class WeightPatcher:
    """Puts patched weights of any ratio into a model, touching only what differs from CLIP.

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
        patch_state_dict(parameters, clip, 0.0)  # refuses what does not fit, before any work
        self._parameters = dict(parameters)
        self._clip = {
            name: clip[name].to(device=p.device, dtype=torch.float32)
            for name, p in parameters.items()
            if name in clip
        }
        self._checkpoint = {
            name: parameters[name].detach().clone()
            for name, tensor in self._clip.items()
            if not torch.equal(parameters[name].float(), tensor)
        }

    @property
    def names(self) -> list[str]:
        """Parameters that differ from CLIP's."""
        return list(self._checkpoint)

    @torch.no_grad()
    def set_ratio(self, ratio: float) -> None:
        """Let the model hold ``ratio * clip + (1 - ratio) * checkpoint``."""
        if not self._checkpoint:
            return
        for name, tensor in patch_state_dict(self._checkpoint, self._clip, ratio).items():
            self._parameters[name].copy_(tensor)
