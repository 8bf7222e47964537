"""The input push of section 5 of the tutorial: points are moved far across the center."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.result import Contaminated, Seed

__all__ = ["push_inputs", "push_random_inputs"]


def push_inputs(x: ArrayLike, rows: ArrayLike, k: float) -> NDArray[np.float64]:
    r"""Push some points through the center to the other side, k standard deviations out.

    .. math:: \tilde x = (1 + r)\, c - r\, x, \qquad r = k \sigma / \lVert c - x \rVert

    c is the mean of all rows of ``x`` before the push. sigma is the standard deviation of their
    distances to c (divisor n). A pushed point keeps its label. It lies opposite to its old place,
    at the distance k sigma from c.

    Args:
        x: Points, shape (n, d); not changed.
        rows: Numbers of the rows to push, each at most once.
        k: How far, in standard deviations; not negative.

    Returns:
        array: A copy of ``x`` in float64 with those rows pushed.

    Raises:
        ValueError: If x is not of shape (n, d), a row does not exist or is named twice, k is
            negative or not finite, or a point to push lies at the center itself.

    Example:
        >>> from chainrob.datasets.contamination import push_inputs
        >>> push_inputs([[0.0], [1.0], [5.0]], [0], k=10).round(3).tolist()
        [[10.165], [1.0], [5.0]]

    References:
        M. J. Holland. Robust gradient descent via back-propagation: a Chainer-based tutorial,
        section 5.
    """
    points = np.array(x, dtype=np.float64)
    if points.ndim != 2 or points.size == 0:
        raise ValueError(f"x must have shape (n, d) and not be empty, found shape {points.shape}")
    if not np.isfinite(k) or k < 0:
        raise ValueError(f"k must be finite and not negative, found {k}")
    chosen = np.asarray(rows, dtype=np.int64).ravel()
    if chosen.size and (chosen.min() < 0 or chosen.max() >= len(points)):
        raise ValueError(
            f"rows must be between 0 and n - 1 = {len(points) - 1}, found {chosen.tolist()}"
        )
    if len(set(chosen.tolist())) != chosen.size:
        raise ValueError(f"rows must not name a row twice, found {chosen.tolist()}")
    center = points.mean(axis=0)
    distances = np.linalg.norm(points - center, axis=1)
    if (distances[chosen] == 0).any():
        at_center = chosen[distances[chosen] == 0].tolist()
        raise ValueError(f"rows {at_center} lie at the center, so there is no direction to push")
    r = (k * distances.std() / distances[chosen])[:, None]
    points[chosen] = (1 + r) * center - r * points[chosen]
    return points


def push_random_inputs(x: ArrayLike, share: float, k: float, *, seed: Seed) -> Contaminated:
    """Push a random share of the points, and return their row numbers.

    This is ``push_inputs`` with the rows of ``choose_rows``.

    Args:
        x: Points, shape (n, d); not changed.
        share: Share of the points to push, 0 to 1.
        k: How far, in standard deviations; not negative.
        seed: The same seed pushes the same points.

    Returns:
        Contaminated: ``data`` (n, d), float64, and ``rows``.

    Raises:
        ValueError: As ``push_inputs`` and ``choose_rows``.

    Example:
        >>> import numpy as np
        >>> from chainrob.datasets.contamination import push_random_inputs
        >>> pushed = push_random_inputs(np.arange(100.0)[:, None], 0.02, k=10, seed=0)
        >>> len(pushed.rows), bool((abs(pushed.data[pushed.rows] - 49.5) > 140).all())
        (2, True)
    """
    points = np.asarray(x)
    rows = choose_rows(len(points) if points.ndim else 0, share, seed)
    return Contaminated(push_inputs(points, rows, k), rows)
