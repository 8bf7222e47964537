"""Mean squared error, sample by sample."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.sample_loss import Reduce, Reduction, SampleLoss
from chainrob.sample_gradients.operator_base import Array


class MeanSquaredError(SampleLoss):
    """l = |y - t|^2, with the error vector 2 (y - t)."""

    def losses(self, y: Array, t: Array) -> Array:
        return ((y - t) ** 2).sum(axis=1)

    def error_vectors(
        self, indexes: tuple[int, ...], y: chainer.Variable, t: chainer.Variable
    ) -> tuple[chainer.Variable, ...]:
        error = (y - t) * 2
        return tuple(-error if index else error for index in indexes)


def mean_squared_error(
    y: Any, t: Any, reduce: Reduce = "mean", *, reduction: Reduction = "mean"
) -> chainer.Variable:
    r"""Mean squared error of outputs and targets.

    .. math::
        l_n = \frac{1}{D} \sum_{d=1}^{D} (y_{nd} - t_{nd})^2, \qquad
        \varepsilon_n = \frac{\partial l_n}{\partial y_n} = \frac{2}{D} (y_n - t_n)

    The error vector grows with the error without bound, so one outlier can outweigh all others.

    Args:
        y: outputs, (N, ...), D numbers per sample.
        t: targets, in the shape and dtype of y.
        reduce: ``'mean'`` over the samples (zero for none), or ``'no'``.
        reduction: over the D numbers of a sample: ``'mean'`` as above, or ``'sum'`` without 1 / D.
            Chainer's function of this name has the mean; textbooks often have the sum.

    Returns:
        chainer.Variable: the mean, a scalar, or the loss of every sample, (N,).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``reduce`` or ``reduction``.

    Example:
        >>> import numpy as np, chainrob
        >>> y, t = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 10.0]])
        >>> chainrob.functions.mean_squared_error(y, t, reduce="no").array
        array([ 2., 50.])
        >>> loss = chainrob.functions.mean_squared_error(y, t, reduce="no", reduction="sum")
        >>> loss.array
        array([  4., 100.])

    References:
        C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 5.2.
    """
    return MeanSquaredError(reduce, reduction).apply((y, t))[0]
