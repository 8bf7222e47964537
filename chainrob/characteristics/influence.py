"""How far one sample moves the estimate, as a function of its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.characteristics.sample import as_sample

__all__ = ["influence"]


def influence(
    robustifier: Callable[[Any], Any], at: ArrayLike, *, sample: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Sensitivity curve: the change of the estimate by one more row, times n + 1.

    .. math:: SC(z) = (n + 1)\,\big(T(x_1, \dots, x_n, z e_1) - T(x_1, \dots, x_n)\big)_1

    e_1 is the first unit vector. The curve is the influence function for finite samples. It is z
    itself for the mean, bounded for a robust estimate, and returns to 0 for an estimate that
    rejects outliers. If an estimate averages in blocks, the new row also changes the blocks, which
    shifts its curve.

    Args:
        robustifier: ``(n, d) -> (d,)``.
        at: The places z, any shape.
        sample: The other rows, (n, d); None is ``normal_scores()``.

    Returns:
        array: The curve, in the shape of ``at``.

    Raises:
        ValueError: If the sample is not (n, d) with n > 0, or not finite.

    Example:
        >>> import chainrob
        >>> from chainrob.characteristics import influence
        >>> influence(chainrob.Mean(), [1.0, 100.0]).round(6).tolist()
        [1.0, 100.0]
        >>> influence(chainrob.TrimmedMean(fraction=0.1), [100.0]).round(1).tolist()
        [1.7]

    References:
        J. W. Tukey (1977). Exploratory Data Analysis. F. R. Hampel (1974). The influence curve and
        its role in robust estimation.
    """
    rows = as_sample(sample)
    points = np.asarray(at, np.float64)
    before = np.asarray(robustifier(rows))[0]
    more = np.zeros((len(rows) + 1, rows.shape[1]))
    more[:-1] = rows
    result = np.empty(points.size)
    for index, z in enumerate(points.ravel()):
        more[-1, 0] = z
        result[index] = len(more) * (np.asarray(robustifier(more))[0] - before)
    return result.reshape(points.shape)
