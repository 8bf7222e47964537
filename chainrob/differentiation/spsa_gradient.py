"""Simultaneous perturbation: a gradient estimate from two evaluations in any dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.differentiation._directions import as_generator, check_directions, draw_direction
from chainrob.differentiation._evaluation import Evaluator, as_point, as_step

__all__ = ["spsa"]


def spsa(
    function: Callable[..., Any],
    x: Any,
    *,
    step: float | None = None,
    samples: int = 1,
    directions: str = "rademacher",
    robustifier: Callable[..., Any] | None = None,
    seed: int | np.random.Generator | None = None,
    vectorized: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient estimate by simultaneous perturbation of all coordinates.

    .. math:: \hat g_s = \frac{f(x + h u_s) - f(x - h u_s)}{2 h} \, u_s, \qquad
              \hat g = \frac{1}{S} \sum_{s=1}^{S} \hat g_s

    The estimate is unbiased up to O(h^2), because E[u u^T] = I. Its variance is about
    |grad f|^2 (D - 1) / S. With ``'rademacher'`` directions this is Spall's estimator (1 / u = u).
    With ``'gaussian'`` directions it is the gradient of f smoothed by N(0, h^2 I).

    With a ``robustifier`` the S estimates are rows that it aggregates. If the function sometimes
    returns an outlier, it then spoils only its own row. If f is linear, each coordinate of
    Rademacher rows is symmetric about the gradient. So medians and trimmed means of coordinates
    have no bias; the geometric median may have one. Gaussian rows are skewed, because u^2 is, and
    their median is too small.

    Args:
        function: Takes an array of the shape of ``x``, returns a number.
        x: Number, array or Variable; the point, D numbers.
        step: Positive h. Default: ``eps ** (1/3) * max(1, |x|)``; for a noisy function choose a
            step that changes f by much more than the noise.
        samples: S, number of directions; two evaluations each.
        directions: ``'rademacher'`` (entries -1 and 1) or ``'gaussian'``.
        robustifier: Any callable (S, D) -> (D,); None is the mean.
        seed: Seed or ``numpy.random.Generator``; None takes a random seed.
        vectorized: The function takes all 2 S points at once and returns 2 S values.
        return_info: Return ``(gradient, info)``.

    Returns:
        Array of the shape of ``x``.

    Raises:
        ValueError: If samples < 1, the directions are unknown, or f is not scalar or not finite.

    Example:
        >>> gradient, info = spsa(
        ...     lambda x: x @ x, [1.0, 2.0], samples=5000, seed=0, return_info=True
        ... )
        >>> print(gradient.round(0), info.evaluations)
        [2. 4.] 10000

    References:
        J. C. Spall, Multivariate stochastic approximation using a simultaneous perturbation
        gradient approximation, IEEE Trans. Automatic Control 37 (1992).
    """
    check_directions(directions)
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ValueError(f"samples must be a positive integer, found {samples!r}")
    xp, x = as_point(x)
    h = as_step(xp, x, step, 1 / 3, scalar=True)
    generator = as_generator(seed)
    evaluate = Evaluator(function, x, vectorized)
    drawn = [draw_direction(generator, directions, x.shape, x.dtype) for _ in range(samples)]
    rows = xp.asarray(np.stack(drawn))
    ahead, behind = x + h * rows, x - h * rows
    if bool((ahead == behind).all(axis=tuple(range(1, ahead.ndim))).any()):
        raise ValueError(f"step must be large enough to move x in {x.dtype}, found {h}")
    values = evaluate(point for pair in zip(ahead, behind, strict=True) for point in pair)
    if values.ndim != 1:
        raise ValueError(f"function must return a number, found an array of {values.shape[1:]}")
    slopes = (values[0::2] - values[1::2]) / (2 * h)
    estimates = slopes.reshape(-1, 1) * rows.reshape(samples, -1)
    estimates = estimates.astype(x.dtype, copy=False)
    reduced = estimates.mean(axis=0) if robustifier is None else robustifier(estimates)
    gradient = xp.asarray(reduced).reshape(x.shape).astype(x.dtype, copy=False)
    if xp is np:
        gradient = gradient[()]
    return (gradient, evaluate.info(h)) if return_info else gradient
