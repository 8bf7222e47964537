"""The derivative of the robust gradient itself: how gW and gb move with x and gy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chainer import function_node
from chainrob.functions.estimate import pullback
from chainrob.robustifiers import CoordinateWise, Mean
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.sample_gradients import Dense, SampleGradients, Tiled
from chainrob.sample_gradients.base import Array

if TYPE_CHECKING:
    from chainrob.functions.gradient_node import GradientNode

Pull = Callable[[tuple[Array, ...], Mapping[int, tuple[Array, ...]]], tuple[Array, ...]]
"""(inputs and gy, cotangents of the operators' ingredients) to cotangents of inputs and gy."""


class GradientPullback(function_node.FunctionNode):
    """(*inputs, gy, *cotangents of the estimates) to the cotangents of (*inputs, gy).

    An estimate is differentiated as what it is: truncations and order statistics in closed form
    (almost everywhere), minimisers by the implicit function theorem, never with frozen weights.
    A third derivative is refused.

    Args:
        node: the gradient node whose backward pass this is.
        pull: takes the cotangents of the operators' ingredients to those of inputs and gy.
        present: which of the node's outputs have a cotangent; the others have none, or zero.
    """

    def __init__(self, node: GradientNode, pull: Pull, present: Sequence[bool]) -> None:
        super().__init__()
        self.node = node
        self.pull = pull
        self.present = tuple(present)

    def forward(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        plan = self.node.aggregation
        n_cotangents = sum(self.present)
        given = iter(arrays[len(arrays) - n_cotangents :])
        inputs, n_samples = self.node.scaled(arrays[: len(arrays) - n_cotangents])
        operators = self.node.build(inputs, self.node.wanted)
        rows = [self._explicit(operators[index]) for index in self.node.wanted]
        cotangents = []
        for row, present in zip(rows, self.present, strict=True):
            if present:
                cotangent = next(given).astype(row.compute_dtype, copy=False)
            else:
                cotangent = row.xp.zeros((*row.replicas, *row.shape), row.compute_dtype)
            cotangents.append(cotangent)
        assert plan.robustifier is not None
        pulled = pullback(plan.robustifier, rows, cotangents, plan.scope)
        *of_inputs, of_gy = self.pull(inputs, dict(zip(self.node.wanted, pulled, strict=True)))
        # With 'mean' the rows are N times the raw ones, with 'sum' the estimate is: either way N.
        of_gy = of_gy * n_samples
        if plan.loss_reduction == "sum":
            of_inputs = [one * n_samples for one in of_inputs]
        return tuple(
            one.astype(array.dtype, copy=False)
            for one, array in zip((*of_inputs, of_gy), arrays, strict=False)
        )

    def _explicit(self, gradients: SampleGradients) -> SampleGradients:
        """The operator itself, or its rows as an array where it can only give tiles."""
        if not isinstance(gradients, Tiled):
            return gradients
        plan = self.node.aggregation
        by_unit = plan.scope == "unit" and not isinstance(plan.robustifier, CoordinateWise | Mean)
        if by_unit and not getattr(gradients, "units_in_plain", False):
            raise NotDifferentiableError(
                f"double backward with scope='unit' is not available for "
                f"{type(self.node.origin).__name__}; use another scope"
            )
        rows = gradients.materialize()
        return Dense(rows.reshape((gradients.n_samples, *gradients.shape)))

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> Any:
        raise NotDifferentiableError(
            f"the robust gradient with {self.node.aggregation.robustifier!r} can be differentiated "
            f"twice, not three times"
        )
