"""Elementwise scale and bias along some axes, with robust gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer import function_node
from chainer.utils import type_check
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import bias_pullback, bias_rows, scale_pullback, scale_rows
from chainrob.builders.positions import along
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


class _Along(RobustFunction, function_node.FunctionNode):
    """A parameter that is broadcast over x; its axes are those of x from ``axis`` on."""

    def __init__(self, aggregation: Aggregation, axis: int) -> None:
        super().__init__()
        if axis < 1:
            raise ValueError(
                f"axis must be at least 1, because axis 0 counts the samples, which share the "
                f"parameter; found {axis}"
            )
        self.aggregation = aggregation
        self.axis = axis

    def check_type_forward(self, in_types: Any) -> None:
        type_check.expect(in_types.size() == 2)
        x_type, y_type = in_types
        type_check._argname(in_types, ("x", "y"))
        ndim = type_check.eval(y_type.ndim)
        type_check.expect(
            x_type.dtype.kind == "f",
            y_type.dtype == x_type.dtype,
            x_type.ndim >= y_type.ndim + self.axis,
            x_type.shape[self.axis : self.axis + ndim] == y_type.shape,
        )

    def extended(self, parameter: Any, ndim: int) -> Any:
        """The parameter with axes of length 1 around its own."""
        return along(parameter, self.axis, ndim)


class ScaleFunction(_Along):
    """x * y; robust gradient of y."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W"}

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs((0, 1))
        x, y = inputs
        return (x * self.extended(y, x.ndim),)

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        _, y = self.get_retained_inputs()
        return gy * chainer.functions.broadcast_to(self.extended(y, gy.ndim), gy.shape)

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return scale_rows(arrays, wanted, self.axis, len(self.inputs[1].shape))

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return scale_pullback(arrays, cotangents, self.axis)


class BiasFunction(_Along):
    """x + y; robust gradient of y."""

    parameters: ClassVar[Mapping[int, str]] = {1: "b"}

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        x, y = inputs
        return (x + self.extended(y, x.ndim),)

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        return gy

    def sources(self) -> tuple[chainer.Variable, ...]:
        return ()

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return bias_rows(arrays, wanted, self.axis, len(self.inputs[1].shape))

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return bias_pullback(arrays, cotangents, self.axis)


def scale(
    x: Any,
    y: Any,
    axis: int = 1,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Product x * y along some axes of x, with a robust gradient of y.

    .. math:: g_y = R\Big(\Big\{N \sum_s g_{z_{n,\cdot,s}}\, x_{n,\cdot,s}\Big\}_n\Big)

    Here z is the output, and s runs over the axes of x that y lacks.

    Args:
        x: input, (N, ...).
        y: factors; their axes are those of x from ``axis`` on.
        axis: the first axis of x that belongs to y, at least 1.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.scale``.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'`` (one entry of y's first axis), ``'parameter'`` or ``'layer'``.

    Returns:
        chainer.Variable: of the shape of x.

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: an axis below 1; unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> x, y = np.ones((2, 3), np.float32), np.array([1, 2, 3], np.float32)
        >>> chainrob.functions.scale(x, y, robustifier=chainrob.Mean()).array
        array([[1., 2., 3.],
               [1., 2., 3.]], dtype=float32)
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.scale(x, y, axis)
    return ScaleFunction(plan, axis).apply((x, y))[0]


def bias(
    x: Any,
    y: Any,
    axis: int = 1,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Sum x + y along some axes of x, with a robust gradient of y.

    .. math:: g_y = R\Big(\Big\{N \sum_s g_{z_{n,\cdot,s}}\Big\}_n\Big)

    Args:
        x: input, (N, ...).
        y: summands; their axes are those of x from ``axis`` on.
        axis, robustifier, loss_reduction, scope: as in ``scale``.

    Returns:
        chainer.Variable: of the shape of x.

    Example:
        >>> import numpy as np, chainrob
        >>> x, y = np.ones((2, 3), np.float32), np.array([1, 2, 3], np.float32)
        >>> chainrob.functions.bias(x, y, robustifier=chainrob.Mean()).array
        array([[2., 3., 4.],
               [2., 3., 4.]], dtype=float32)
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.bias(x, y, axis)
    return BiasFunction(plan, axis).apply((x, y))[0]
