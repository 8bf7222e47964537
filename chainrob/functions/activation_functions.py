"""Activations with parameters, PReLU and Swish, whose gradients are estimated robustly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.activation import prelu as stock_prelu
from chainer.functions.activation import swish as stock_swish
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import prelu_pullback, prelu_rows, swish_pullback, swish_rows
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


class _Activation(RobustFunction):
    """Base of the activations of (x, parameter). Derive from it and a stock node, in this order."""

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__()
        self.aggregation = aggregation


class PReLUFunction(_Activation, stock_prelu.PReLUFunction):
    """Chainer's PReLU, with a robust gradient of W."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W"}

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        # The stock node computes and differentiates gx and gW only together, so gx is written
        # out here.
        x, W = self.get_retained_inputs()
        slope = _broadcast(W, x.shape)
        return chainer.functions.where(x.array >= 0, gy, gy * slope)

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return prelu_rows(arrays, wanted, len(self.inputs[1].shape))

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return prelu_pullback(arrays, cotangents)


class SwishFunction(_Activation, stock_swish.Swish):
    """Chainer's Swish, with a robust gradient of beta."""

    parameters: ClassVar[Mapping[int, str]] = {1: "beta"}

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        x, beta = self.get_retained_inputs()
        scaled = _broadcast(beta, x.shape) * x
        gate = chainer.functions.sigmoid(scaled)
        return gy * gate * (1.0 + scaled * (1.0 - gate))

    def sources(self) -> tuple[chainer.Variable, ...]:
        return tuple(self.get_retained_inputs())

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return swish_rows(arrays, wanted)

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return swish_pullback(arrays, cotangents)


def _broadcast(parameter: chainer.Variable, shape: tuple[int, ...]) -> chainer.Variable:
    """The parameter, broadcast to the shape of x; its axes are axes 1, 2, ... of x."""
    after = len(shape) - 1 - parameter.ndim
    parameter = chainer.functions.reshape(parameter, (1, *parameter.shape, *(1,) * after))
    return chainer.functions.broadcast_to(parameter, shape)


def prelu(
    x: Any,
    W: Any,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Parametric ReLU, with a robust gradient of its slopes W.

    .. math::
        y = \max(x, 0) + W \min(x, 0), \qquad
        g_W = R\Big(\Big\{N \sum_s g_{y_{n,\cdot,s}} \min(x_{n,\cdot,s}, 0)\Big\}_n\Big)

    where s runs over the axes of x that W does not have.

    Args:
        x: input, (N, ...).
        W: slopes below zero. Its shape is that of the first axes of x after the sample axis.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.prelu``.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'`` (one entry of W's first axis), ``'parameter'`` or ``'layer'``.

    Returns:
        chainer.Variable: y, of the shape of x.

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> x, W = np.array([[-2.0, 3.0]], np.float32), np.array([0.5, 0.5], np.float32)
        >>> chainrob.functions.prelu(x, W, robustifier=chainrob.Mean()).array
        array([[-1.,  3.]], dtype=float32)

    References:
        K. He, X. Zhang, S. Ren and J. Sun, Delving deep into rectifiers, 2015.
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.prelu(x, W)
    return PReLUFunction(plan).apply((x, W))[0]


def swish(
    x: Any,
    beta: Any,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Swish, with a robust gradient of its parameter beta.

    .. math::
        y = x\, \sigma(\beta x), \qquad
        g_\beta = R\Big(\Big\{N \sum_s g_{y_{n,\cdot,s}}\, x_{n,\cdot,s}^2\,
        \sigma (1 - \sigma)\Big\}_n\Big), \quad \sigma = \sigma(\beta x_{n,\cdot,s})

    Args:
        x: input, (N, ...).
        beta: parameter. Its shape is that of the first axes of x after the sample axis.
        robustifier, loss_reduction, scope: as in ``prelu``.

    Returns:
        chainer.Variable: y, of the shape of x.

    Example:
        >>> import numpy as np, chainrob
        >>> x, beta = np.array([[0.0, 50.0]], np.float32), np.ones(2, np.float32)
        >>> chainrob.functions.swish(x, beta, robustifier=chainrob.Mean()).array
        array([[ 0., 50.]], dtype=float32)

    References:
        P. Ramachandran, B. Zoph and Q. V. Le, Searching for activation functions, 2017.
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.swish(x, beta)
    return SwishFunction(plan).apply((x, beta))[0]
