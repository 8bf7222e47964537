"""The affine map y = x W^T + b, with robust gradients of W and b."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import chainer
from chainer import function_node
from chainer.utils import type_check
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import linear_pullback, linear_rows
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


class LinearFunction(RobustFunction, function_node.FunctionNode):
    """y = x W^T + b. The backward pass hands the sample gradients of W and b to a robustifier; gx
    is the stock gradient.

    Written for the tutorial's Listings 2 to 4. Shapes: x (*R, N, P), W (*R, Q, P), b (*R, Q), y
    (*R, N, Q). R are the replica axes, the axes of W before the last two. If all replicas share x,
    x may lack them.

    Args:
        aggregation: robustifier, scope and scale of the parameters' gradients.
        n_positions: number of consecutive rows of x that belong to one sample (1 without further
            batch axes).
    """

    parameters: ClassVar[Mapping[int, str]] = {1: "W", 2: "b"}

    def __init__(self, aggregation: Aggregation, n_positions: int = 1) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.n_positions = n_positions

    def check_type_forward(self, in_types: Any) -> None:
        n_in = in_types.size()
        type_check.expect(n_in >= 2, n_in <= 3)
        x_type, w_type = in_types[:2]
        replicas = w_type.ndim - 2
        type_check._argname((x_type, w_type), ("x", "W"))
        type_check.expect(
            x_type.dtype.kind == "f",
            w_type.dtype.kind == "f",
            w_type.ndim >= 2,
            x_type.ndim >= 2,
            x_type.shape[-1] == w_type.shape[-1],
        )
        if type_check.eval(x_type.ndim) > 2:
            n = type_check.eval(replicas)
            type_check.expect(x_type.ndim == w_type.ndim)
            for axis in range(n):
                type_check.expect(x_type.shape[axis] == w_type.shape[axis])
        if type_check.eval(n_in) == 3:
            b_type = in_types[2]
            type_check._argname((b_type,), ("b",))
            type_check.expect(b_type.dtype == x_type.dtype, b_type.ndim == w_type.ndim - 1)
            for axis in range(type_check.eval(b_type.ndim)):
                type_check.expect(b_type.shape[axis] == w_type.shape[axis])

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        x, W = inputs[:2]
        self.retain_inputs((0, 1))
        y = (x @ W.swapaxes(-1, -2)).astype(x.dtype, copy=False)
        if len(inputs) == 3:
            y += inputs[2][..., None, :]
        return (y,)

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        x, W = self.get_retained_inputs()
        gx = chainer.functions.matmul(gy, W)
        if x.ndim < gx.ndim:
            gx = chainer.functions.sum(gx, axis=tuple(range(gx.ndim - x.ndim)))
        return gx if gx.dtype == x.dtype else chainer.functions.cast(gx, x.dtype)

    def sample_axis(self, gy: chainer.Variable) -> int:
        return int(gy.ndim) - 2

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return linear_rows(arrays, wanted, self.n_positions)

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return linear_pullback(arrays, cotangents, self.n_positions)


def linear(
    x: Any,
    W: Any,
    b: Any = None,
    n_batch_axes: int = 1,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Affine map y = x W^T + b, with robust gradients of W and b.

    .. math::
        y_n = W x_n + b, \qquad
        g_W = R\big(\{N\, g_{y_n} x_n^\top\}_n\big), \quad g_b = R\big(\{N\,
        g_{y_n}\}_n\big), \quad g_{x_n} = W^\top g_{y_n}

    R is the robustifier; the stock gradient has R = mean. The factor N belongs to
    ``loss_reduction='mean'``.

    Args:
        x: input, (N, ..., P); with replicas (T, N, P), or (N, P) shared by all of them.
        W: weights, (Q, P), or (T, Q, P) for T replicas of the layer in one graph.
        b: biases, (Q,) or (T, Q), or None.
        n_batch_axes: number of batch axes of x. The first is the sample axis (``chainrob.samples``
            can name another); a sample's gradient is the sum over the others.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.linear``.
        loss_reduction: the loss's reduction over the samples. With ``'mean'`` (the default of
            Chainer's losses) row n is the gradient of sample n's own loss, and the estimate is
            returned as it is. With ``'sum'`` the rows are the raw contributions, and N times the
            estimate is returned.
        scope: which gradients form one row for a weighting robustifier: ``'unit'`` (the weights
            of one output unit; its bias is another row), ``'parameter'`` or ``'layer'`` (W and b
            together).

    Returns:
        chainer.Variable: y, (N, ..., Q) or (T, N, Q).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``, or a bad ``n_batch_axes``.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> x = np.ones((5, 2), np.float32)
        >>> x[4] = 1e6
        >>> W = chainer.Parameter(np.zeros((1, 2), np.float32))
        >>> y = chainrob.functions.linear(x, W, robustifier=chainrob.CoordinateMedian())
        >>> chainer.functions.mean(y).backward()
        >>> W.grad
        array([[1., 1.]], dtype=float32)

    References:
        M. J. Holland, Robust gradient descent via back-propagation: a Chainer-based tutorial,
        Listings 2 to 4.
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    x = chainer.as_variable(x)
    W = chainer.as_variable(W)
    replicas = W.ndim - 2
    if replicas <= 0:
        if runs_plainly(plan):
            return chainer.functions.linear(x, W, b, n_batch_axes)
        if n_batch_axes < 1:
            raise ValueError(f"n_batch_axes must be at least 1, found {n_batch_axes}")
    elif n_batch_axes != 1:
        raise ValueError(f"n_batch_axes must be 1 if W has replica axes, found {n_batch_axes}")
    axis = plan.axis_of(n_batch_axes)
    if axis:
        x = chainer.functions.moveaxis(x, axis, 0)
    batch_shape = x.shape[: replicas + n_batch_axes]
    positions = 1
    if replicas <= 0 and (n_batch_axes > 1 or x.ndim > 2):
        # Samples without positions have zero gradients, like an empty batch.
        positions = max(prod(x.shape[1:n_batch_axes]), 1)
        n_inputs = prod(x.shape[n_batch_axes:])
        x = chainer.functions.reshape(x, (prod(batch_shape), n_inputs))
    node = LinearFunction(plan, positions)
    (y,) = node.apply((x, W) if b is None else (x, W, b))
    if n_batch_axes > 1:
        y = chainer.functions.reshape(y, (*batch_shape, W.shape[-2]))
    return chainer.functions.moveaxis(y, 0, axis) if axis else y
