"""The gradient as the slope of a regression over random perturbations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.differentiation._directions import as_generator, check_directions, draw_direction
from chainrob.differentiation._evaluation import Evaluator, as_point, as_step
from chainrob.differentiation.gradient_fit import check_fit, fit_slopes

__all__ = ["regression_gradient"]

Array = Any


def regression_gradient(
    function: Callable[..., Any],
    x: Any,
    *,
    samples: int | None = None,
    step: float | None = None,
    directions: str = "gaussian",
    antithetic: bool = True,
    intercept: bool = True,
    loss: str = "squared",
    robustifier: Callable[..., Any] | None = None,
    seed: int | np.random.Generator | None = None,
    vectorized: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient by linear regression of f on random perturbations around x.

    .. math:: (\hat c, \hat g) = \arg\min_{c, g} \sum_k \rho(f(x + h u_k) - c - h u_k \cdot g)

    With ``intercept=False`` the plane goes through f(x), c = f(x), and with the squared loss
    this is the pseudo-inverse of the perturbations applied to the differences f(x + h u_k) - f(x).
    ``fit_gradient`` does the same with given points and values.

    If the function is noisy, the fit averages the noise. If it has outliers, use
    ``loss='huber'`` (reweighted least squares, scale by the median absolute deviation) or a
    ``robustifier``. The robustifier aggregates the perturbations' gradients of the squared loss, in
    coordinates with an orthonormal design. The estimate moves along this aggregate until it
    vanishes. With the mean as the robustifier this is least squares, after one iteration.

    Args:
        function: Takes an array of the shape of ``x``, returns a number.
        x: Number, array or Variable; the point, D numbers.
        samples: Number of perturbations. Default: 2 D (and one more for an intercept unless
            antithetic). Fewer than D give the solution of minimum norm: the part of the
            gradient in the span of the perturbations.
        step: Positive h, the standard deviation of the perturbations. Default:
            ``eps ** (1/3) * max(1, |x|)`` (``sqrt(eps)`` unless antithetic). For a noisy function
            choose a step that changes f by more than the noise.
        directions: ``'gaussian'`` or ``'rademacher'``.
        antithetic: Use each perturbation with both signs: twice the evaluations, and the
            curvature of f cancels, so the error is O(h^2) instead of O(h).
        intercept: Fit the height of the plane. False takes f(x) as the height, with one more
            evaluation. Then the noise of f(x) enters the gradient.
        loss: ``'squared'`` or ``'huber'``.
        robustifier: Any callable (K, P) -> (P,), P = D + 1, or D without an intercept; not
            together with ``loss='huber'``.
        seed: Seed or ``numpy.random.Generator``; None takes a random seed.
        vectorized: The function takes all points at once and returns as many values.
        return_info: Return ``(gradient, info)``.

    Returns:
        Array of the shape of ``x``.

    Raises:
        ValueError: If there are too few samples, an option is unknown, or f is not finite.

    Example:
        >>> print(regression_gradient(lambda x: x[0] * x[1], [2.0, 3.0], seed=0).round(6))
        [3. 2.]
    """
    check_directions(directions)
    check_fit(loss, robustifier)
    xp, x = as_point(x)
    least = 2 if intercept and not antithetic else 1
    count = 2 * x.size + (intercept and not antithetic) if samples is None else samples
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
        raise ValueError(f"samples must be an integer of at least {least} here, found {samples!r}")
    h = as_step(xp, x, step, 1 / 3 if antithetic else 1 / 2, scalar=True)
    generator = as_generator(seed)
    drawn = [draw_direction(generator, directions, x.shape, x.dtype) for _ in range(count)]
    offsets = xp.asarray(np.stack(drawn))
    if antithetic:
        offsets = xp.concatenate((offsets, -offsets))
    points = x + h * offsets
    evaluate = Evaluator(function, x, vectorized)
    values = evaluate(iter(points))
    if values.ndim != 1:
        raise ValueError(f"function must return a number, found an array of {values.shape[1:]}")

    value = None if intercept else evaluate(iter((x,)))[0]
    # Take the offsets from the points, because the nominal perturbations are rounded.
    taken = ((points - x).reshape(len(points), -1) / h).astype(np.float64)
    slopes, iterations, converged = fit_slopes(
        xp, taken, values, value, loss, robustifier, stacklevel=3
    )
    gradient = (slopes / float(h)).astype(x.dtype).reshape(x.shape)
    if xp is np:
        gradient = gradient[()]
    info = evaluate.info(h, converged=converged, iterations=iterations)
    return (gradient, info) if return_info else gradient
