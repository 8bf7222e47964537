"""How many bad samples an estimate can stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.characteristics.sample import as_sample

__all__ = ["breakdown"]

DISTANCES = tuple(10.0**k for k in range(7))


def breakdown(
    robustifier: Callable[[Any], Any],
    counts: ArrayLike,
    *,
    distances: ArrayLike = DISTANCES,
    sample: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Largest displacement of the estimate by f bad rows, for each f.

    .. math:: b(f) = \max_{M} \big\| T(M e_1, \dots, M e_1, x_{f+1}, \dots, x_n)
        - T(x_1, \dots, x_n) \big\|

    The replaced rows are distributed evenly over the sample. All bad rows lie in one place, at the
    worst of the given distances. For most estimates this is the hardest attack, but not for all, so
    b is a lower bound of the maximal bias. If b grows with the largest distance, the estimate has
    broken down.

    Args:
        robustifier: ``(n, d) -> (d,)``.
        counts: The numbers f of bad rows, 0 to n.
        distances: The distances M, in units of the sample.
        sample: The rows, (n, d); None is ``normal_scores()``.

    Returns:
        array: One displacement per count; NaN if the robustifier refuses so few rows or
        returns NaN.

    Raises:
        ValueError: If a count lies outside [0, n], or the sample is not (n, d) and finite.

    Example:
        >>> import chainrob
        >>> from chainrob.characteristics import breakdown
        >>> breakdown(chainrob.Mean(), [0, 1, 5]).round().tolist()
        [0.0, 20000.0, 100000.0]
        >>> bool(breakdown(chainrob.CoordinateMedian(), [15])[0] < 1)
        True

    References:
        D. L. Donoho and P. J. Huber (1983). The notion of breakdown point.
    """
    rows = as_sample(sample)
    n = len(rows)
    numbers = np.asarray(counts)
    if numbers.size and (numbers.min() < 0 or numbers.max() > n or (numbers % 1).any()):
        raise ValueError(f"counts must be whole numbers from 0 to {n}, found {numbers.tolist()}")
    before = np.asarray(robustifier(rows))
    result = np.zeros(numbers.shape)
    for index, f in np.ndenumerate(numbers):
        bad = (np.arange(int(f)) * n) // max(int(f), 1)
        for distance in np.asarray(distances, np.float64) if f else []:
            attacked = rows.copy()
            attacked[bad] = 0
            attacked[bad, 0] = distance
            moved = float(np.linalg.norm(np.asarray(robustifier(attacked)) - before))
            result[index] = np.maximum(result[index], moved)
    return result
