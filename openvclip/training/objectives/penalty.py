"""Penalties on how far weights are from where they should be, with their gradient in closed form.

``1/2 sum_k c_k (theta_k - a_k)^2``: c is how much a weight matters, a is its anchor. The gradient
is ``c (theta - a)``: it is added to what the processes share, without a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openvclip.training.objectives.objective import Objective


class Quadratic(NamedTuple):
    """One penalty.

    Attributes:
        parameters: the weights, theta.
        anchors: a, one tensor for each of them; None: 0.
        curvature: c, one tensor for each of them, or one number for all.
    """

    parameters: Sequence[nn.Parameter]
    anchors: Sequence[Tensor] | None
    curvature: Sequence[Tensor] | float


@torch.no_grad()
def add_quadratic(penalty: Quadratic, factor: Tensor) -> Tensor:
    """Add ``factor`` times a penalty's gradient to the parameters' ``grad``; return the penalty.

    Args:
        penalty: of at least one parameter.
        factor: a scalar.
    """
    weights = [p.detach() for p in penalty.parameters]
    away = weights if penalty.anchors is None else torch._foreach_sub(weights, penalty.anchors)
    gradients = torch._foreach_mul(away, penalty.curvature)
    products = [torch.dot(a.flatten(), g.flatten())
                for a, g in zip(away, gradients, strict=True)]
    torch._foreach_mul_(gradients, factor)
    shared = []
    for parameter in penalty.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        shared.append(parameter.grad)
    torch._foreach_add_(shared, gradients)
    return torch.stack(products).sum() / 2


class WeightPenalty(Objective):
    """Adds penalties on the weights once per step, at the weights that are updated.

    Their sum does not depend on the batch, so that every process adds the same.
    """

    def quadratics(self) -> Iterator[Quadratic]:
        """Yield the penalties of this step; none: there is no such term."""
        raise NotImplementedError

    def add_gradients(self, scale: Tensor) -> None:
        """Add the gradients of all penalties."""
        values = [add_quadratic(penalty, scale * self.weight) for penalty in self.quadratics()]
        self._seen = torch.stack(values).sum() if values else None
