"""Exponential moving average (EMA) of weights while they train.

After every update ``average = decay * average + (1 - decay) * weights``. Averages of this kind are
older than deep networks (Polyak and Juditsky, 1992); the form here, with its warm-up, is
TensorFlow's ``ExponentialMovingAverage``, with which EfficientNet was trained (arXiv 1905.11946),
and, without the warm-up, timm's ``ModelEmaV3``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.interpolation.mixing import Weights
from openvclip.utils.errors import CheckpointError
from openvclip.utils.shards import local, shard_like


class MovingAverage:
    """The average of parameters, one tensor for each, in at least fp32.

    The tensors stay the same objects, so that others may hold them. Of sharded parameters each
    process averages its own part.

    Args:
        parameters: what is averaged, by name.
        decay: share of the average that stays at an update, 0 to 1.
        warmup: let the decay of update ``n``, from 0, be ``(1 + n) / (10 + n)`` at most, so that
            the beginning is forgotten in a short training, too.

    Attributes:
        tensors: the average, by name.
        updates: how many there were.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float, warmup: bool = True
    ) -> None:
        self.parameters, self.decay, self.warmup = dict(parameters), decay, warmup
        self.tensors: dict[str, Tensor] = {
            name: p.detach().to(_wide(p.dtype), copy=True) for name, p in self.parameters.items()}
        self.updates = 0

    def compute_decay(self) -> float:
        """Return the decay of the next update."""
        least = (1 + self.updates) / (10 + self.updates) if self.warmup else 1.0
        return min(self.decay, least)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the parameters."""
        torch._foreach_lerp_(self._own(), self._current(), 1.0 - self.compute_decay())
        self.updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again at the parameters."""
        torch._foreach_copy_(self._own(), self._current())
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates."""
        return {"weights": dict(self.tensors), "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, with whole tensors of sharded ones.

        Raises:
            CheckpointError: it is of other parameters.
        """
        weights, updates = state.get("weights"), state.get("updates")
        if not isinstance(weights, Mapping) or not isinstance(updates, int):
            raise CheckpointError("the moving average of the weights (EMA) in the checkpoint is "
                                  "damaged; resume from another checkpoint")
        shapes = {name: getattr(tensor, "shape", None) for name, tensor in weights.items()}
        own = {name: tensor.shape for name, tensor in self.tensors.items()}
        if shapes != own:
            differ = sorted(name for name in shapes.keys() | own.keys()
                            if shapes.get(name) != own.get(name))
            raise CheckpointError(
                f"the moving average of the weights (EMA) in the checkpoint does not fit what "
                f"trains here: {len(differ)} tensors differ, the first {differ[0]}; resume with "
                "the settings of that run, or take the weights only, with "
                "TRAIN.CHECKPOINT_EPOCH_RESET True"
            )
        for name, tensor in self.tensors.items():
            local(tensor).copy_(local(shard_like(weights[name], tensor)))
        self.updates = updates

    def _own(self) -> list[Tensor]:
        return [local(tensor) for tensor in self.tensors.values()]

    def _current(self) -> list[Tensor]:
        return [local(p.detach()).to(_wide(p.dtype)) for p in self.parameters.values()]


class AverageWeights(Weights):
    """The model's weights replaced by their moving average, whatever the ratio.

    No memory but the average's own is needed (of sharded parameters: a copy of this process's
    part, while the average is held).
    """

    def __init__(self, average: MovingAverage) -> None:
        super().__init__(average.parameters)
        self._average = average

    def _mix(self, ratio: float) -> list[Tensor]:
        return [local(tensor).to(p.dtype)
                for tensor, p in zip(self._average.tensors.values(), self._parameters, strict=True)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
