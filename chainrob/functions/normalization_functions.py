"""Layer and group normalization whose gamma and beta have robust gradients.

Both normalize within a sample, so each sample has its own gradient. Batch normalization mixes the
samples and has no robust form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.normalization import group_normalization as stock_group
from chainer.functions.normalization import layer_normalization as stock_layer
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import normalization_pullback, normalization_rows
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


class LayerNormalizationFunction(RobustFunction, stock_layer.LayerNormalization):
    """Chainer's layer normalization, with robust gradients of gamma and beta."""

    parameters: ClassVar[Mapping[int, str]] = {1: "gamma", 2: "beta"}

    def __init__(self, aggregation: Aggregation, eps: float) -> None:
        super().__init__(eps)
        self.aggregation = aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return normalization_rows(arrays, wanted, 1, self.eps)

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return normalization_pullback(arrays, cotangents, 1, self.eps)


class GroupNormalizationFunction(RobustFunction, stock_group.GroupNormalization):
    """Chainer's group normalization, with robust gradients of gamma and beta."""

    parameters: ClassVar[Mapping[int, str]] = {1: "gamma", 2: "beta"}

    def __init__(self, aggregation: Aggregation, groups: int, eps: float) -> None:
        super().__init__(groups, eps)
        self.aggregation = aggregation

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        if not chainer.config.enable_backprop:
            return super().input_gradient(gy)
        # The stock node computes and differentiates gx and ggamma only together. If gx is to be
        # differentiated, it is written out here.
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
    ) -> Mapping[int, SampleGradients]:
        return normalization_rows(arrays, wanted, self.groups, self.eps)

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return normalization_pullback(arrays, cotangents, self.groups, self.eps)


def layer_normalization(
    x: Any,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.layer_normalization(x, gamma, beta, eps)
    return LayerNormalizationFunction(plan, eps).apply((x, gamma, beta))[0]


def group_normalization(
    x: Any,
    groups: int,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    """Group normalization, with robust gradients of gamma and beta.

    Like ``layer_normalization``, but over each group of channels and all its positions. A sample's
    gradient is the sum over the positions.

    Args:
        x: input, (N, C, ...).
        groups: number of groups of channels.
        gamma, beta: scale and shift, (C,).
        eps: added to the variance.
        robustifier, loss_reduction, scope: as in ``layer_normalization``.

    Returns:
        chainer.Variable: y, of the shape of x.

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: ``groups`` does not divide the channels; unknown ``loss_reduction`` or
            ``scope``.

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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.group_normalization(x, groups, gamma, beta, eps)
    return GroupNormalizationFunction(plan, groups, eps).apply((x, gamma, beta))[0]
