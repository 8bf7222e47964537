"""Confidence intervals of means over trials."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["bootstrap_interval"]


def bootstrap_interval(
    values: ArrayLike,
    *,
    level: float = 0.95,
    size: int | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> NDArray[np.float64]:
    r"""Bootstrap interval of a mean over n trials, for all columns together.

    Trials (whole rows) are drawn with replacement. The interval lies between the
    :math:`\alpha / 2` and :math:`1 - \alpha / 2` quantiles of the resampled means, with

    .. math:: \alpha / 2 = \Phi\Big(-\sqrt{\tfrac{n}{n - 1}}\, t_{n-1,\,(1 + level) / 2}\Big)

    (Hesterberg's expanded percentiles). With many trials this is (1 - level) / 2. With few trials
    it is smaller, because Student's t is wider than the normal distribution and because the sample
    variance is biased downward. No normal distribution is assumed: the trials of a network that
    either learns or fails are bimodal. No interval can include outcomes that no trial has shown.
    Below ten trials, read it as the observed scatter.

    Args:
        values: Shape (trials, ...), finite.
        level: Nominal coverage, in (0, 1).
        size: None gives the interval of the mean. With a number, the result is the range of the
            means of that many trials: the quantiles (1 - level) / 2 and (1 + level) / 2, without
            the expansion.
        resamples: Number of resampled means.
        seed: Seed of the resampling.

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
        T. C. Hesterberg (2015). What teachers should know about the bootstrap. The American
        Statistician 69(4).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim < 1 or len(sample) < 1:
        raise ValueError(f"values must hold at least one trial, found shape {sample.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, found {level}")
    n = len(sample)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    tail = (1 - level) / 2
    if size is None and n > 1:
        tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(1 - tail, n - 1))
    drawn = n if size is None else size
    # Only the counts of the trials matter, so one matrix product gives all means.
    means = _draws(n, drawn, resamples, seed) @ sample.reshape(n, -1) / drawn
    ends = np.quantile(means, [tail, 1 - tail], axis=0)
    return ends.reshape(2, *sample.shape[1:])


@lru_cache(maxsize=4)
def _draws(n: int, size: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each of n trials is drawn, (resamples, n); cached, because a report reuses them.

    float32 holds counts exactly, in half the memory.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, np.full(n, 1 / n), size=resamples).astype(np.float32)
    counts.flags.writeable = False
    return counts
