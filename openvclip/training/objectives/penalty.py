"""Penalties on how far weights are from where they should be, with their gradient in closed form.

``1/2 sum_k c_k (theta_k - a_k)^2``: c is how much a weight matters, a is its anchor. The gradient
is ``c (theta - a)``: it is added to what the processes share, without a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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


# Elements that are worked on at once, so that they stay in a CPU's cache, and that little memory is
# needed beside the weights.
_AT_ONCE = {"cpu": 1 << 18}
_AT_ONCE_ELSEWHERE = 1 << 26


def _cut(columns: Sequence[Sequence[Tensor]], most: int) -> Iterator[list[list[Tensor]]]:
    """Yield pieces of tensors, at most ``most`` elements of a column together; they share memory.

    Args:
        columns: lists of tensors, of which those at one place have one shape.
        most: elements of a piece, unless a tensor's do not lie side by side.
    """
    group: list[Sequence[Tensor]] = []
    size = 0
    for row in zip(*columns, strict=True):
        whole = row[0].numel() <= most or not all(t.is_contiguous() for t in row)
        rows = [row] if whole else zip(*(t.view(-1).split(most) for t in row), strict=True)
        for pieces in rows:
            if group and size + pieces[0].numel() > most:
                yield [list(column) for column in zip(*group, strict=True)]
                group, size = [], 0
            group.append(pieces)
            size += pieces[0].numel()
    if group:
        yield [list(column) for column in zip(*group, strict=True)]


@torch.no_grad()
def add_quadratic(penalty: Quadratic, factor: Tensor) -> Tensor:
    """Add ``factor`` times a penalty's gradient to the parameters' ``grad``; return the penalty.

    Args:
        penalty: of at least one parameter.
        factor: a scalar.
    """
    weights, anchors, curvature = penalty
    for parameter in weights:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    columns: list[Sequence[Any]] = [[p.detach() for p in weights], [p.grad for p in weights]]
    columns += [] if anchors is None else [anchors]
    columns += [] if isinstance(curvature, float) else [curvature]
    most = _AT_ONCE.get(weights[0].device.type, _AT_ONCE_ELSEWHERE)
    products = []
    for theta, shared, *others in _cut(columns, most):
        away = theta if anchors is None else torch._foreach_sub(theta, others[0])
        own = torch._foreach_mul(away, curvature if isinstance(curvature, float) else others[-1])
        products += [torch.dot(a.flatten(), g.flatten()) for a, g in zip(away, own, strict=True)]
        torch._foreach_mul_(own, factor)
        torch._foreach_add_(shared, own)
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
