"""Huber's loss, sample by sample."""

from __future__ import annotations

from math import isfinite
from typing import Any

import chainer
import chainer.functions as F
from chainrob.functions.sample_loss import Reduce, Reduction, SampleLoss
from chainrob.sample_gradients.operator_base import Array


class Huber(SampleLoss):
    """l = sum_d rho(y_d - t_d), with the error vector clip(y - t, -delta, delta).

    Args:
        delta: where the square turns into a line, in units of y.
        reduce: ``'mean'`` or ``'no'``.
        reduction: ``'mean'`` or ``'sum'``.
    """

    def __init__(self, delta: float, reduce: Reduce, reduction: Reduction = "mean") -> None:
        super().__init__(reduce, reduction)
        if not (isfinite(delta) and delta > 0):
            raise ValueError(f"delta must be positive and finite, found {delta!r}")
        self.delta = float(delta)

    def losses(self, y: Array, t: Array) -> Array:
        error = abs(y - t)
        inner = error.clip(None, self.delta)
        # inner^2 / 2 + delta (error - inner), without a branch
        return (inner * (error - 0.5 * inner)).sum(axis=1)

    def error_vectors(
        self, indexes: tuple[int, ...], y: chainer.Variable, t: chainer.Variable
    ) -> tuple[chainer.Variable, ...]:
        error = F.clip(y - t, -self.delta, self.delta)
        return tuple(-error if index else error for index in indexes)


def huber(
    y: Any,
    t: Any,
    delta: float = 1.0,
    reduce: Reduce = "mean",
    *,
    reduction: Reduction = "mean",
) -> chainer.Variable:
    r"""Huber's loss of outputs and targets: quadratic near zero, linear further out.

    .. math::
        l_n = \frac{1}{D} \sum_{d=1}^{D} \rho(y_{nd} - t_{nd}), \quad
        \rho(e) = \begin{cases} e^2 / 2 & |e| \le \delta \\
        \delta (|e| - \delta / 2) & |e| > \delta \end{cases}, \qquad
        \varepsilon_n = \frac{1}{D} \operatorname{clip}(y_n - t_n, -\delta, \delta)

    For a large delta this is half the squared error, for a small delta it is delta times the
    absolute error.

    Args:
        y: outputs, (N, ...), D numbers per sample.
        t: targets, in the shape and dtype of y.
        delta: where the square turns into a line, in units of y; positive.
        reduce: ``'mean'`` over the samples (zero for none), or ``'no'``.
        reduction: over the D numbers of a sample: ``'mean'`` as above, or ``'sum'`` without 1 / D.
            ``chainer.functions.huber_loss`` has the sum.

    Returns:
        chainer.Variable: the mean, a scalar, or the loss of every sample, (N,).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``reduce`` or ``reduction``, or a delta that is not positive and finite.

    Example:
        >>> import numpy as np, chainrob
        >>> y, t = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 10.0]])
        >>> chainrob.functions.huber(y, t, reduce="no").array
        array([0.25, 4.75])

    References:
        P. J. Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics
        35 (1964).
    """
    return Huber(delta, reduce, reduction).apply((y, t))[0]
