"""Layer and group normalization whose gamma and beta have robust gradients.

Both normalise within a sample, so each sample has a gradient of its own; batch normalization does
not, and has no robust form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import chainer
from chainer.functions.normalization import group_normalization as stock_group
from chainer.functions.normalization import layer_normalization as stock_layer
from chainrob.functions.estimate import Reduction, Scope
from chainrob.functions.gradient_node import Aggregation, RobustFunction, position_sums, spread
from chainrob.kernels import array_module
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.base import Array


class LayerNormalizationFunction(RobustFunction, stock_layer.LayerNormalization):
    """Chainer's layer normalization, with robust gradients of gamma and beta."""

    parameters: ClassVar[Mapping[int, str]] = {1: "gamma", 2: "beta"}

    def __init__(self, aggregation: Aggregation, eps: float) -> None:
        super().__init__(eps)
        self.aggregation = aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> dict[int, SampleGradients]:
        return affine_gradients(arrays, wanted, 1, self.eps)

    def row_products(
        self, index: int, rows: Array, variables: tuple[chainer.Variable, ...]
    ) -> chainer.Variable:
        return affine_products(index, rows, variables, 1, self.eps)


class GroupNormalizationFunction(RobustFunction, stock_group.GroupNormalization):
    """Chainer's group normalization, with robust gradients of gamma and beta."""

    parameters: ClassVar[Mapping[int, str]] = {1: "gamma", 2: "beta"}

    def __init__(self, aggregation: Aggregation, groups: int, eps: float) -> None:
        super().__init__(groups, eps)
        self.aggregation = aggregation

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        if not chainer.config.enable_backprop:
            return super().input_gradient(gy)
        # The stock node makes gx and ggamma at once and differentiates only both at once, so where
        # gx is to be differentiated it is written out.
        x, gamma = self.get_retained_inputs()
        functions = chainer.functions
        rows = (x.shape[0] * self.groups, -1)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        scaled = gy * functions.broadcast_to(functions.reshape(gamma, shape), gy.shape)
        scaled, flat = functions.reshape(scaled, rows), functions.reshape(x, rows)

        def mean(values: chainer.Variable) -> chainer.Variable:
            average = functions.mean(values, axis=1, keepdims=True)
            return functions.broadcast_to(average, values.shape)

        centered = flat - mean(flat)
        deviation = functions.sqrt(mean(centered * centered) + self.eps)
        unit = centered / deviation
        gx = (scaled - mean(scaled) - unit * mean(scaled * unit)) / deviation
        return functions.reshape(gx, x.shape)

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> dict[int, SampleGradients]:
        return affine_gradients(arrays, wanted, self.groups, self.eps)

    def row_products(
        self, index: int, rows: Array, variables: tuple[chainer.Variable, ...]
    ) -> chainer.Variable:
        return affine_products(index, rows, variables, self.groups, self.eps)


def affine_gradients(
    arrays: tuple[Array, ...], wanted: Sequence[int], groups: int, eps: float
) -> dict[int, SampleGradients]:
    """The operators of gamma (key 1) and beta (key 2): sums over the positions of a channel."""
    x, gy = arrays
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        operators[1] = position_sums(standardised(x, groups, eps) * gy, keep=(1,))
    if 2 in wanted:
        operators[2] = position_sums(gy, keep=(1,))
    return operators


def affine_products(
    index: int, rows: Array, variables: tuple[chainer.Variable, ...], groups: int, eps: float
) -> chainer.Variable:
    """sum_n <rows_n, g_n> of gamma (index 1) or beta (index 2)."""
    x, gy = variables
    functions = chainer.functions
    along = gy * spread(rows, 1, gy)
    if index == 2:
        return functions.sum(along)
    flat = functions.reshape(x, (len(x) * groups, -1))
    centered = flat - functions.broadcast_to(functions.mean(flat, 1, keepdims=True), flat.shape)
    variance = functions.mean(centered * centered, 1, keepdims=True)
    unit = centered / functions.broadcast_to(functions.sqrt(variance + eps), flat.shape)
    return functions.sum(functions.reshape(unit, x.shape) * along)


def standardised(x: Array, groups: int, eps: float) -> Array:
    """x with mean 0 and variance 1 over each group of each sample's channels, float32 at least."""
    x = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    if not x.size:
        return x
    rows = x.reshape((len(x) * groups, -1))
    rows = rows - rows.mean(axis=1, keepdims=True)
    variance = (rows * rows).mean(axis=1, keepdims=True)
    return (rows / array_module(x).sqrt(variance + eps)).reshape(x.shape)


def layer_normalization(
    x: Any,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    *,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Layer normalization, with robust gradients of gamma and beta.

    .. math::
        y_n = \gamma \hat x_n + \beta, \qquad
        \hat x_n = \frac{x_n - \bar x_n}{\sqrt{\mathrm{var}\, x_n + \epsilon}}, \qquad
        g_\gamma = R(\{N g_{y_n} \hat x_n\}_n), \quad g_\beta = R(\{N g_{y_n}\}_n)

    Args:
        x: input, (N, C).
        gamma, beta: scale and shift, (C,).
        eps: added to the variance.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.layer_normalization``.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'`` (one channel), ``'parameter'`` or ``'layer'`` (gamma and beta together).

    Returns:
        chainer.Variable: y, (N, C).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> x = np.array([[1.0, 3.0], [5.0, 1.0]], np.float32)
        >>> gamma, beta = np.ones(2, np.float32), np.zeros(2, np.float32)
        >>> y = chainrob.functions.layer_normalization(
        ...     x, gamma, beta, robustifier=chainrob.Mean())
        >>> y.array.round(3)
        array([[-1.,  1.],
               [ 1., -1.]], dtype=float32)

    References:
        J. L. Ba, J. R. Kiros and G. E. Hinton, Layer normalization, 2016.
    """
    return normalize_layer(x, gamma, beta, eps, Aggregation(robustifier, loss_reduction, scope))


def group_normalization(
    x: Any,
    groups: int,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    *,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    """Group normalization, with robust gradients of gamma and beta.

    As ``layer_normalization``, over each group of channels and all their positions; a sample's
    gradient is the sum over the positions.

    Args:
        x: input, (N, C, ...).
        groups: how many groups the channels make.
        gamma, beta: scale and shift, (C,).
        eps: added to the variance.
        robustifier, loss_reduction, scope: as in ``layer_normalization``.

    Returns:
        chainer.Variable: y, of the shape of x.

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: channels that groups do not divide; unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> x = np.arange(16, dtype=np.float32).reshape(2, 4, 2)
        >>> gamma, beta = np.ones(4, np.float32), np.zeros(4, np.float32)
        >>> chainrob.functions.group_normalization(
        ...     x, 2, gamma, beta, robustifier=chainrob.Mean()).shape
        (2, 4, 2)

    References:
        Y. Wu and K. He, Group normalization, 2018.
    """
    plan = Aggregation(robustifier, loss_reduction, scope)
    return normalize_groups(x, groups, gamma, beta, eps, plan)


def normalize_layer(
    x: Any, gamma: Any, beta: Any, eps: float, aggregation: Aggregation
) -> chainer.Variable:
    """``layer_normalization`` with its options as one object: what the link calls."""
    if aggregation.robustifier is None:
        return chainer.functions.layer_normalization(x, gamma, beta, eps)
    return LayerNormalizationFunction(aggregation, eps).apply((x, gamma, beta))[0]


def normalize_groups(
    x: Any, groups: int, gamma: Any, beta: Any, eps: float, aggregation: Aggregation
) -> chainer.Variable:
    """``group_normalization`` with its options as one object: what the link calls."""
    if aggregation.robustifier is None:
        return chainer.functions.group_normalization(x, groups, gamma, beta, eps)
    return GroupNormalizationFunction(aggregation, groups, eps).apply((x, gamma, beta))[0]
