"""Multicategory cross entropy, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainer.utils import type_check
from chainrob.functions.sample_loss import Reduce, Reduction, SampleLoss
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array


class CrossEntropy(SampleLoss):
    """l = -sum_k t_k log y_k, with the error vector -t / y."""

    def check_type_forward(self, in_types: Any) -> None:
        super().check_type_forward(in_types)
        type_check.expect(in_types[0].ndim == 2)

    def losses(self, y: Array, t: Array) -> Array:
        _check_not_negative("y", y)
        _check_not_negative("t", t)
        xp = array_module(y)
        used = t != 0  # 0 log 0 = 0
        with np.errstate(divide="ignore"):  # probability 0 for the true class: infinite loss
            logarithm = xp.log(xp.where(used, y, 1))
        return -(t * logarithm).sum(axis=1)

    def error_vectors(
        self, indexes: tuple[int, ...], y: chainer.Variable, t: chainer.Variable
    ) -> tuple[chainer.Variable, ...]:
        xp = y.xp
        errors = []
        with np.errstate(divide="ignore"):
            for index in indexes:
                if index:
                    errors.append(-F.log(y))
                else:
                    unused = (t.array == 0) & (y.array == 0)
                    errors.append(-t / F.where(unused, xp.ones_like(y.array), y))
        return tuple(errors)


def cross_entropy(
    y: Any, t: Any, reduce: Reduce = "mean", *, reduction: Reduction = "sum"
) -> chainer.Variable:
    r"""Cross entropy of predicted probabilities y relative to targets t.

    .. math::
        l_n = -\sum_{k=1}^{K} t_{nk} \log y_{nk}, \qquad
        \varepsilon_{nk} = -\frac{t_{nk}}{y_{nk}}

    The formula only requires y >= 0. Under this condition alone it has no minimum: the loss falls
    forever as y grows, so y = 2 costs less than y = 1. On the simplex, where y_n sums to 1, the
    minimum is at y_n = t_n / sum(t_n). The gradient in y_n is not zero there. It is -sum(t_n) in
    every coordinate with positive t, so it is perpendicular to the simplex. The gradient vanishes
    at the minimum only in the scores of a softmax, which keeps y_n on the simplex: there the error
    vector is sum(t_n) softmax - t_n. For scores use ``chainer.functions.softmax_cross_entropy``,
    which is exact even if probabilities underflow.

    Args:
        y: predictions, (N, K), not negative; rows are used as they are and need not sum to 1.
        t: targets in the shape and dtype of y, not negative. Rows need not sum to 1: they
            may be counts or carry sample weights. Or classes (N,) of an integer dtype.
        reduce: ``'mean'`` over the samples (zero for none), or ``'no'``.
        reduction: over the K numbers of a sample: ``'sum'`` as above, which is Chainer's form too,
            or ``'mean'`` with 1 / K.

    Returns:
        chainer.Variable: the mean, a scalar, or the loss of every sample, (N,); infinite where
        a class of positive t has y = 0.

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``reduce`` or ``reduction``, a negative number in y or t, classes
            outside 0, ..., K - 1. On a GPU these are checked only in Chainer's debug mode, because
            the check waits for the GPU. Without the check such a class has a loss of 0.

    Example:
        >>> import numpy as np, chainrob
        >>> y = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
        >>> chainrob.functions.cross_entropy(y, np.array([0, 1]), reduce="no").array.round(4)
        array([0.6931, 0.2231])
        >>> chainrob.functions.cross_entropy(4 * y, np.array([0, 1]), reduce="no").array.round(4)
        array([-0.6931, -1.1632])

    References:
        C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4.
    """
    y = chainer.as_variable(y)
    t = chainer.as_variable(t)
    if t.dtype.kind in "iu":
        t = _one_hot(t.array, y)
    return CrossEntropy(reduce, reduction).apply((y, t))[0]


def _one_hot(t: Array, y: chainer.Variable) -> chainer.Variable:
    if y.ndim != 2 or t.shape != y.shape[:1]:
        raise ValueError(
            f"classes t must have shape (N,) if y is (N, K), found {t.shape} and {y.shape}"
        )
    n_classes = y.shape[1]
    if _is_looked_at(t) and not bool(((t >= 0) & (t < n_classes)).all()):
        raise ValueError(
            f"classes t must be from 0 to {n_classes - 1}, found {t.min()} to {t.max()}"
        )
    return chainer.Variable((t[:, None] == y.xp.arange(n_classes)).astype(y.dtype))


def _is_looked_at(array: Array) -> bool:
    """Whether to check the numbers. On a GPU only in debug mode, because a check waits for it."""
    on_host = array_module(array) is np
    return bool(array.size) and (on_host or chainer.is_debug())


def _check_not_negative(name: str, rows: Array) -> None:
    """Refuse negative numbers, such as scores in place of probabilities. NaN stays NaN."""
    if _is_looked_at(rows) and float(rows.min()) < 0:
        raise ValueError(
            f"{name} must not be negative, found {float(rows.min()):g}; scores go through "
            "chainer.functions.softmax first"
        )
