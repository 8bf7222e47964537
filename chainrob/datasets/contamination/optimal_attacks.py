"""Attacks that know the aggregator and choose their factor against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.datasets.contamination.attacks import (
    Rows,
    a_little_is_enough,
    inner_product_manipulation,
)

__all__ = ["optimal_a_little_is_enough", "optimal_inner_product_manipulation"]

SMALLEST = 0.01
"""The least factor tried. An attacker that sends nearly the honest mean has no effect."""

Aggregator = Callable[[NDArray[Any]], Any]


def optimal_a_little_is_enough(
    honest: ArrayLike,
    f: int,
    aggregator: Aggregator,
    *,
    largest: float = 100.0,
    evaluations: int = 40,
) -> Rows:
    r"""ALIE with the number of deviations that moves this aggregator most.

    .. math::
        a_j = \mu - z^* \sigma, \qquad
        z^* = \arg\max_z \big\lVert R(g_1, \dots, g_H, a, \dots, a) - \mu \big\rVert, \quad
        0.01 \le \lvert z \rvert \le z_{\max}

    mu and sigma are those of ``a_little_is_enough``; R is the attacked aggregator. The distance is
    not a unimodal function of z: it drops where R detects the attackers. So the search first tries
    a geometric grid of both signs, and then refines around the best value.

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        aggregator: R, (N, D) -> (D,): a robustifier, or any function.
        largest: The largest |z| tried, above 0.01.
        evaluations: Number of calls of R, at least 8.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty or not (H, D), or largest or evaluations is
            too small.
        TypeError: If honest is not floating point, f is not an integer, or the aggregator is not
            callable.

    Example:
        >>> import numpy as np, chainrob
        >>> from chainrob.datasets.contamination import optimal_a_little_is_enough
        >>> honest = np.random.default_rng(0).normal(1.0, 0.5, (9, 3))
        >>> bad = optimal_a_little_is_enough(honest, 2, chainrob.Mean(), largest=50.0)
        >>> bool(np.allclose(abs(bad[0] - honest.mean(axis=0)), 50.0 * honest.std(axis=0)))
        True

    References:
        V. Shejwalkar and A. Houmansadr (2021). Manipulating the Byzantine: optimizing model
        poisoning attacks and defenses for federated learning. NDSS. (The factor; the direction is
        that of G. Baruch, M. Baruch and Y. Goldberg, 2019.)
    """
    return _strongest(
        lambda z: a_little_is_enough(honest, f, z=z),
        honest,
        aggregator,
        largest,
        evaluations,
        (1, -1),
    )


def optimal_inner_product_manipulation(
    honest: ArrayLike,
    f: int,
    aggregator: Aggregator,
    *,
    largest: float = 100.0,
    evaluations: int = 40,
) -> Rows:
    r"""Inner product manipulation with the factor that moves this aggregator most.

    .. math::
        a_j = -\epsilon^*\, \mu, \qquad
        \epsilon^* = \arg\max_\epsilon \big\lVert R(g_1, \dots, g_H, a, \dots, a) - \mu
        \big\rVert, \quad 0.01 \le \epsilon \le \epsilon_{\max}

    mu is the honest mean. The search is that of ``optimal_a_little_is_enough``, over one sign.

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        aggregator: R, (N, D) -> (D,): a robustifier, or any function.
        largest: The largest epsilon tried, above 0.01.
        evaluations: Number of calls of R, at least 8.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty or not (H, D), or largest or evaluations is
            too small.
        TypeError: If honest is not floating point, f is not an integer, or the aggregator is not
            callable.

    Example:
        >>> import numpy as np, chainrob
        >>> from chainrob.datasets.contamination import optimal_inner_product_manipulation
        >>> honest = np.random.default_rng(0).normal(1.0, 0.5, (9, 3))
        >>> bad = optimal_inner_product_manipulation(honest, 2, chainrob.Mean(), largest=50.0)
        >>> bool(np.allclose(bad[0], -50.0 * honest.mean(axis=0)))
        True

    References:
        C. Xie, O. Koyejo and I. Gupta (2019). Fall of empires: breaking Byzantine-tolerant SGD by
        inner product manipulation. UAI. V. Shejwalkar and A. Houmansadr (2021), as above, for the
        factor.
    """
    return _strongest(
        lambda epsilon: inner_product_manipulation(honest, f, epsilon=epsilon),
        honest,
        aggregator,
        largest,
        evaluations,
        (1,),
    )


def _strongest(
    attack: Callable[[float], Rows],
    honest: ArrayLike,
    aggregator: Aggregator,
    largest: float,
    evaluations: int,
    signs: tuple[int, ...],
) -> Rows:
    """The attack with the factor that moves the aggregator farthest from the honest mean."""
    if not callable(aggregator):
        raise TypeError(f"aggregator must be callable, found {aggregator!r}")
    if not (np.isfinite(largest) and largest > SMALLEST):
        raise ValueError(f"largest must be finite and above {SMALLEST}, found {largest!r}")
    if evaluations < 8:
        raise ValueError(f"evaluations must be at least 8, found {evaluations!r}")
    rows = np.asarray(honest)
    bad = attack(largest)  # also checks the arguments
    if not len(bad):
        return bad
    mean = rows.mean(axis=0, dtype=np.float64)

    def moved(factor: float) -> float:
        with np.errstate(over="ignore"):
            estimate = aggregator(np.concatenate([rows, attack(factor)]))
            distance = float(np.linalg.norm(np.asarray(estimate, np.float64) - mean))
        return distance if np.isfinite(distance) else np.inf

    first = evaluations // 2 // len(signs)
    grid = np.geomspace(SMALLEST, largest, first)
    tried = {sign * factor: moved(sign * factor) for sign in signs for factor in grid}
    best = max(tried, key=tried.__getitem__)
    step = (largest / SMALLEST) ** (1.0 / (first - 1))
    for _ in range((evaluations - len(tried)) // 2):
        step **= 0.5
        for factor in (best / step, best * step):
            if SMALLEST <= abs(factor) <= largest and factor not in tried:
                tried[factor] = moved(factor)
        best = max(tried, key=tried.__getitem__)
    return attack(best)
