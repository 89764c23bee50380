"""The plain mean (SWA), in fp32, of one state dict at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from openvclip.interpolation.merging.method import MergeMethod, Sources
from openvclip.interpolation.mixing import StateDict
from openvclip.utils.errors import CheckpointError


def average_state_dicts(
    states: Iterable[Mapping[str, Tensor]], names: Callable[[int], str] = str,
    *, clip_first: bool = False,
) -> StateDict:
    """Average weights: the plain mean in fp32 over ``states``, which are consumed one at a time.

    The mean of equal tensors equals them bit for bit, and a value that is not finite in one state
    is not finite in the mean.

    Args:
        states: state dicts with the same tensors.
        names: returns what to call the i-th state in an error.
        clip_first: the first state is the original CLIP, which may lack tensors (adapters): their
            mean is over the states that have them.

    Returns:
        The mean of every floating-point tensor in fp32; other tensors from the last state.

    Raises:
        CheckpointError: there are no states, or one has tensors or shapes unlike those before it.
    """
    mean: StateDict = {}
    counts: dict[str, int] = {}
    for i, state in enumerate(states):
        if i > 0:
            _check_same_tensors(mean, state, names(i - 1), names(i),
                                may_add=clip_first and i == 1)
        for name, tensor in state.items():
            counts[name] = counts.get(name, 0) + 1
            if not tensor.is_floating_point():
                mean[name] = tensor.clone()
            elif name not in mean:
                mean[name] = tensor.to(torch.float32, copy=True)
            elif mean[name].shape != tensor.shape:
                raise CheckpointError(
                    f"cannot average {name}: shape {tuple(tensor.shape)} in {names(i)}, "
                    f"{tuple(mean[name].shape)} before it"
                )
            else:
                # mean + (tensor - mean) / count. A sum that is divided at the end rounds even
                # if all are equal, and has larger errors.
                mean[name].lerp_(tensor.float(), 1.0 / counts[name])
    if not mean:
        raise CheckpointError("there are no checkpoints to average")
    return mean


def _check_same_tensors(
    before: Mapping[str, Tensor], state: Mapping[str, Tensor], name_before: str, name: str,
    *, may_add: bool,
) -> None:
    """Raise unless a state has the same tensors as those before it."""
    lacks = [key for key in before if key not in state]
    adds = [] if may_add else [key for key in state if key not in before]
    for keys, verb in ((lacks, "lacks"), (adds, "has")):
        if keys:
            raise CheckpointError(
                f"cannot average: {name} {verb} {', '.join(keys[:3])}"
                f"{f' and {len(keys) - 3} more tensors' if len(keys) > 3 else ''}, which "
                f"{name_before} {'has' if verb == 'lacks' else 'lacks'}; average the checkpoints "
                "of one training run"
            )


class PlainMean(MergeMethod):
    """The mean of every tensor, see :func:`average_state_dicts`."""

    result = "mean"

    def merge(self, sources: Sources) -> StateDict:
        """Return the mean; one state dict is in memory besides it."""
        return average_state_dicts(
            sources, names=sources.names.__getitem__, clip_first=sources.clip_first)
