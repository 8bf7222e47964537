"""Test whether a published mean curve agrees with the mean curves of our trials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CurveTest", "mean_curve_test"]

Array = NDArray[np.float64]


class CurveTest(NamedTuple):
    """The result of ``mean_curve_test``."""

    inside: float
    """Share of the curve's points within the pointwise band, widened by the reading error."""
    p_value: float
    """p-value of the whole curve: how often a mean curve strays as far at any point. The curve lies
    in the simultaneous band of a level if the p-value is at least 1 - level."""
    worst: int
    """Index of the point that strays farthest."""


def mean_curve_test(
    x: ArrayLike,
    trials: ArrayLike,
    curve_x: ArrayLike,
    curve_y: ArrayLike,
    *,
    size: int,
    x_error: float = 0.0,
    y_error: float = 0.0,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> CurveTest:
    r"""Compare one mean curve over ``size`` trials with many trials of your own.

    Means of ``size`` trials are drawn from the trials with replacement. A curve strays at point j
    by

    .. math:: t_j = \frac{\max(|y_j - \bar y_j| - e_j, 0)}{s_j}

    Here s_j is the standard deviation of the resampled means. e_j is the part that reading errors
    can explain: the error in y, and the range of the average curve within the error in x. The test
    statistic is max_j t_j. The p-value is (1 + number of means that stray as far) / (1 +
    resamples). It belongs to the whole curve, so the many dependent points do not count several
    times. The resampled curves have no reading error. So the allowance for errors makes the test
    milder, never stricter.

    Args:
        x: Times at which the trials are recorded, (times,), increasing.
        trials: Our trials, (trials, times).
        curve_x, curve_y: The curve, (points,); points outside the range of x are left out.
        size: Number of trials behind the curve.
        x_error, y_error: Reading errors of the curve.
        level: Level of the pointwise band.
        resamples: Number of resampled means.
        seed: Seed of the draws.

    Returns:
        CurveTest: Share inside, p-value, the worst point.

    Raises:
        ValueError: If no point of the curve lies in the range of x.

    Example:
        >>> import numpy as np
        >>> from chainrob.statistics import mean_curve_test
        >>> rng = np.random.default_rng(0)
        >>> time = np.arange(50)
        >>> ours, theirs = rng.normal(size=(200, 50)), rng.normal(size=(20, 50)).mean(axis=0)
        >>> mean_curve_test(time, ours, time, theirs, size=20).p_value > 0.05
        True
        >>> mean_curve_test(time, ours, time, theirs + 1, size=20).p_value < 0.001
        True
    """
    times, values = np.asarray(x, np.float64), np.asarray(trials, np.float64)
    at, y = np.asarray(curve_x, np.float64), np.asarray(curve_y, np.float64)
    kept = (at >= times[0] - x_error) & (at <= times[-1] + x_error)
    if not kept.any():
        raise ValueError(f"curve_x must have points between {times[0]:g} and {times[-1]:g}")
    at, y = np.clip(at[kept], times[0], times[-1]), y[kept]
    rng = np.random.default_rng(seed)
    n = len(values)
    counts = rng.multinomial(size, np.full(n, 1 / n), size=resamples)
    center = values.mean(axis=0)
    # Interpolation is linear: interpolating the means or the trials gives the same.
    means = counts @ np.array([np.interp(at, times, row) for row in values]) / size
    spread = np.maximum(means.std(axis=0), 1e-12)
    middle, low, high = _range_within(times, center, at, x_error)
    excess = np.maximum(np.maximum(y - high, low - y) - y_error, 0) / spread
    strays = (np.abs(means - middle) / spread).max(axis=1)
    quantiles = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    inside = (y >= quantiles[0] - (middle - low) - y_error) & (
        y <= quantiles[1] + (high - middle) + y_error
    )
    return CurveTest(
        float(inside.mean()),
        float((1 + (strays >= excess.max()).sum()) / (1 + resamples)),
        int(np.flatnonzero(kept)[excess.argmax()]),
    )


def _range_within(x: Array, y: Array, at: Array, error: float) -> tuple[Array, Array, Array]:
    """The curve (x, y) at some points, and its least and largest value within the error in x."""
    middle = np.interp(at, x, y)
    low, high = middle.copy(), middle.copy()
    for shift in np.linspace(-error, error, 9) if error else ():
        near = np.interp(at + shift, x, y)
        low, high = np.minimum(low, near), np.maximum(high, near)
    return middle, low, high
