"""Confidence intervals of means over trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_interval"]


def bootstrap_interval(
    values: ArrayLike,
    *,
    level: float = 0.95,
    size: int | None = None,
    resamples: int = 4000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile bootstrap interval of a mean over trials, for every column at once.

    Trials are drawn with replacement, whole rows together; the interval runs between the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled means. No normal distribution is
    assumed: the trials of a network that either learns or does not are bimodal. With few trials
    (20 or less) percentile intervals are a little narrow.

    Args:
        values (array): Shape (trials, ...), finite.
        level (float): Nominal coverage, in (0, 1).
        size (int or None): Trials in each mean. None is as many as there are: the interval of the
            mean. Another number tells how the mean of that many trials scatters.
        resamples (int): How many means are drawn.
        seed (int): Of the resampling.

    Returns:
        array: Shape (2, ...), the lower and the upper end.

    Raises:
        ValueError: If there is no trial, or level or size is out of range.

    Example:
        >>> import numpy as np
        >>> from chainrob.statistics import bootstrap_interval
        >>> low, high = bootstrap_interval(np.repeat([0.0, 1.0], 50))
        >>> bool(0.38 < low < 0.44 and 0.56 < high < 0.62)
        True

    References:
        B. Efron and R. J. Tibshirani (1993). An Introduction to the Bootstrap, chapter 13.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim < 1 or len(sample) < 1:
        raise ValueError(f"values must hold at least one trial, found shape {sample.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, found {level}")
    n = len(sample)
    size = n if size is None else size
    if size < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    rng = np.random.default_rng(seed)
    # How often each trial is drawn says everything, so one matrix product gives all means.
    counts = rng.multinomial(size, np.full(n, 1 / n), size=resamples)
    means = counts @ sample.reshape(n, -1) / size
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends.reshape(2, *sample.shape[1:])
