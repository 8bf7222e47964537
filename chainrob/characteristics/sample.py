"""The default sample for measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

__all__ = ["as_sample", "normal_scores"]


def normal_scores(n: int = 50) -> NDArray[np.float64]:
    r"""Normal scores: n numbers at the quantiles of the normal distribution.

    .. math:: x_i = \Phi^{-1}\Big(\frac{i - 1/2}{n}\Big), \qquad i = 1, \dots, n

    The rows are shuffled, always in the same way, because sorted rows would mislead estimators that
    average in blocks.

    Args:
        n: Number of rows.

    Returns:
        array: Shape (n, 1).

    Raises:
        ValueError: If n is not a positive integer.

    Example:
        >>> from chainrob.characteristics import normal_scores
        >>> sorted(normal_scores(3).ravel().round(3).tolist())
        [-0.967, 0.0, 0.967]
    """
    if isinstance(n, bool) or n != int(n) or n < 1:
        raise ValueError(f"n must be a positive integer, found {n!r}")
    order = np.random.default_rng(0).permutation(n)
    scores: NDArray[np.float64] = ndtri((order + 0.5) / n)[:, None]
    return scores


def as_sample(sample: ArrayLike | None) -> NDArray[np.float64]:
    """The rows to start from, (n, d) and finite."""
    rows: NDArray[Any] = normal_scores() if sample is None else np.asarray(sample, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"sample must have shape (n, d), found {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("sample must be finite, found NaN or infinity")
    return rows
