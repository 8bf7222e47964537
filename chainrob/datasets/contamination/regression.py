"""Outliers of regression: leverage points (wrong in x) and vertical outliers (wrong in y)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.result import (
    Contaminated,
    ContaminatedRegression,
    Seed,
    draws_apart,
    floating,
    positive,
)

__all__ = ["add_leverage_points", "shift_responses"]

Direction = Literal["random", "up", "down"]


def shift_responses(
    y: ArrayLike,
    share: float,
    *,
    shift: float = 10.0,
    direction: Direction = "up",
    seed: Seed,
) -> Contaminated:
    r"""Vertical outliers: shift some responses, leave the inputs.

    .. math:: \tilde y_i = y_i \pm k\, \sigma

    sigma is the standard deviation of all responses before the shift (set to 1 if it is 0).

    Args:
        y: Responses, shape (n,) or (n, k); not changed.
        share: Share of the rows to corrupt, 0 to 1.
        shift: k, positive.
        direction: ``'up'`` and ``'down'`` bias the fit. ``'random'`` draws a sign for each row.
        seed: The same seed gives the same outliers.

    Returns:
        Contaminated: ``data`` as y, floating point, and ``rows``.

    Raises:
        ValueError: If the shift is not positive, the direction is unknown, the share is outside
            [0, 1], or y is empty or not finite.
        TypeError: If y does not hold real numbers.

    Example:
        >>> from chainrob.datasets.contamination import shift_responses
        >>> sorted(shift_responses([0.0, 0.0], 0.5, shift=9, seed=0).data.tolist())
        [0.0, 9.0]

    References:
        P. J. Rousseeuw and A. M. Leroy (1987). Robust Regression and Outlier Detection. Wiley,
        chapter 1.
    """
    if direction not in ("random", "up", "down"):
        raise ValueError(f"direction must be 'random', 'up' or 'down', found {direction!r}")
    k = positive("shift", shift)
    data = floating("y", y)
    sequence, rng = draws_apart(seed)
    rows = choose_rows(len(data), share, sequence)
    signs = {
        "up": np.ones(len(rows)),
        "down": -np.ones(len(rows)),
        "random": rng.choice([-1.0, 1.0], len(rows)),
    }[direction]
    deviation = data.std(axis=0, dtype=np.float64)
    step = k * np.where(deviation > 0, deviation, 1.0)
    data[rows] += (signs.reshape(-1, *[1] * (data.ndim - 1)) * step).astype(data.dtype)
    return Contaminated(data, rows)


def add_leverage_points(
    x: ArrayLike, y: ArrayLike, share: float, *, distance: float = 10.0, seed: Seed
) -> ContaminatedRegression:
    r"""Bad leverage points: move some inputs far out and keep their responses.

    .. math:: \tilde x_i = c + k\, \sigma \odot u

    c and sigma are the mean and the standard deviation of the original features (sigma is set to 1
    if it is 0). u is one random direction of length 1 for all corrupted rows, so that they pull
    together. The leverage is bad because the response fits x_i and not the new point.

    Args:
        x: Inputs, shape (n, d); not changed.
        y: Responses, shape (n,) or (n, k); copied as they are.
        share: Share of the rows to corrupt, 0 to 1.
        distance: k, positive.
        seed: The same seed gives the same points.

    Returns:
        ContaminatedRegression: ``x``, ``y`` and ``rows``.

    Raises:
        ValueError: If the distance is not positive, the share is outside [0, 1], x is not (n, d), y
            has another length, or one of them is empty or not finite.
        TypeError: If x or y does not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from chainrob.datasets.contamination import add_leverage_points
        >>> x = np.random.default_rng(0).normal(size=(50, 2))
        >>> bad = add_leverage_points(x, x.sum(axis=1), 0.1, distance=20, seed=1)
        >>> len(bad.rows), bool(np.linalg.norm(bad.x[bad.rows], axis=1).min() > 10)
        (5, True)

    References:
        P. J. Rousseeuw and A. M. Leroy (1987). Robust Regression and Outlier Detection. Wiley,
        chapter 1.
    """
    k = positive("distance", distance)
    inputs, responses = floating("x", x, ndim=2), floating("y", y)
    if len(inputs) != len(responses):
        raise ValueError(
            f"x and y must have the same number of rows, found {len(inputs)} and {len(responses)}"
        )
    sequence, rng = draws_apart(seed)
    rows = choose_rows(len(inputs), share, sequence)
    direction = np.asarray(rng.normal(size=inputs.shape[1]))
    direction = direction / np.linalg.norm(direction)
    deviation = inputs.std(axis=0, dtype=np.float64)
    spread = np.where(deviation > 0, deviation, 1.0)
    far = np.asarray(inputs.mean(axis=0) + k * spread * direction)
    inputs[rows] = far.astype(inputs.dtype)
    return ContaminatedRegression(inputs, responses, rows)
