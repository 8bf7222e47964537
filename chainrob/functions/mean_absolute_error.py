"""Mean absolute error, sample by sample."""

from __future__ import annotations

from typing import Any

import chainer
import chainer.functions as F
from chainrob.functions.sample_loss import Reduce, Reduction, SampleLoss
from chainrob.sample_gradients.operator_base import Array


class MeanAbsoluteError(SampleLoss):
    """l = |y - t|_1, with the error vector sign(y - t)."""

    def losses(self, y: Array, t: Array) -> Array:
        return abs(y - t).sum(axis=1)

    def error_vectors(
        self, indexes: tuple[int, ...], y: chainer.Variable, t: chainer.Variable
    ) -> tuple[chainer.Variable, ...]:
        error = F.sign(y - t)
        return tuple(-error if index else error for index in indexes)


def mean_absolute_error(
    y: Any, t: Any, reduce: Reduce = "mean", *, reduction: Reduction = "mean"
) -> chainer.Variable:
    r"""Mean absolute error of outputs and targets.

    .. math::
        l_n = \frac{1}{D} \sum_{d=1}^{D} |y_{nd} - t_{nd}|, \qquad
        \varepsilon_n = \frac{1}{D} \operatorname{sign}(y_n - t_n)

    The gradient does not grow with the error. At an error of zero the subgradient is zero.

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
        >>> chainrob.functions.mean_absolute_error(y, t, reduce="no").array
        array([1., 5.])

    References:
        P. Bloomfield and W. L. Steiger, Least Absolute Deviations (1983).
    """
    return MeanAbsoluteError(reduce, reduction).apply((y, t))[0]
