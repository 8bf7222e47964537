"""The gradient as the slope of a regression over random perturbations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.differentiation._directions import as_generator, check_directions, draw_direction
from chainrob.differentiation._evaluation import Evaluator, as_point, as_step

__all__ = ["regression_gradient"]

Array = Any
_HUBER = 1.345  # 95 % of the efficiency of least squares under Gaussian noise
_MAD = 1.4826  # median absolute deviation of a Gaussian to its standard deviation


def regression_gradient(
    function: Callable[..., Any],
    x: Any,
    *,
    samples: int | None = None,
    step: float | None = None,
    directions: str = "gaussian",
    antithetic: bool = True,
    loss: str = "squared",
    robustifier: Callable[..., Any] | None = None,
    seed: int | np.random.Generator | None = None,
    vectorized: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient by linear regression of f on random perturbations around x.

    .. math:: (\hat c, \hat g) = \arg\min_{c, g} \sum_k \rho(f(x + h u_k) - c - h u_k \cdot g)

    With the squared loss this is the pseudo-inverse of the design applied to the values. For noisy
    functions it averages the noise; for functions with outliers take ``loss='huber'`` (reweighted
    least squares, scale by the median absolute deviation) or a ``robustifier``: the perturbations'
    gradients of the squared loss, in coordinates that make the design orthonormal, are aggregated
    by it and the estimate moves along until they vanish. With the mean in the place of the
    robustifier this is least squares again, after one iteration.

    Args:
        function: Takes an array of the shape of ``x``, returns a number.
        x: Number, array or Variable; the point, D numbers.
        samples: Number of perturbations, at least D (D + 1 unless antithetic). Default: 2 D.
        step: Positive h, the standard deviation of the perturbations. Default:
            ``eps ** (1/3) * max(1, |x|)`` (``sqrt(eps)`` unless antithetic). For a noisy function
            choose one at which f changes by more than the noise.
        directions: ``'gaussian'`` or ``'rademacher'``.
        antithetic: Use each perturbation with both signs: twice the evaluations, and the
            curvature of f cancels, so the error is O(h^2) instead of O(h).
        loss: ``'squared'`` or ``'huber'``.
        robustifier: Any callable (K, D + 1) -> (D + 1,); not together with ``loss='huber'``.
        seed: Seed or ``numpy.random.Generator``; None is fresh.
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
    if loss not in ("squared", "huber"):
        raise ValueError(f"loss must be 'squared' or 'huber', found {loss!r}")
    if robustifier is not None and loss != "squared":
        raise ValueError("loss must be 'squared' where a robustifier is given, found 'huber'")
    xp, x = as_point(x)
    least = x.size + (not antithetic)
    count = 2 * x.size + (not antithetic) if samples is None else samples
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

    # Float64 throughout: the fit is small and must not add to the rounding of f itself.
    taken = ((points - x).reshape(len(points), -1) / h).astype(np.float64)
    design = xp.concatenate((xp.ones((len(points), 1)), taken), axis=1)
    centre = xp.median(values)
    targets = (values - centre).astype(np.float64)
    iterations, converged = 0, True
    if robustifier is not None:
        fit, iterations, converged = _robust_fit(xp, design, targets, robustifier)
    elif loss == "huber":
        fit, iterations, converged = _huber_fit(xp, design, targets)
    else:
        fit = xp.linalg.pinv(design) @ targets
    if not converged:
        warnings.warn(
            f"the regression gradient has not converged after {iterations} iterations; "
            "more samples usually help",
            RuntimeWarning,
            stacklevel=2,
        )
    gradient = (fit[1:] / float(h)).astype(x.dtype).reshape(x.shape)
    if xp is np:
        gradient = gradient[()]
    info = evaluate.info(h, converged=converged, iterations=iterations)
    return (gradient, info) if return_info else gradient


def _robust_fit(
    xp: Any, design: Array, targets: Array, robustifier: Callable[..., Any]
) -> tuple[Array, int, bool]:
    """Follow the robust estimate of the residual gradients until it vanishes."""
    u, scales, vt = xp.linalg.svd(design, full_matrices=False)
    keep = scales > scales[0] * np.finfo(np.float64).eps * max(design.shape)
    rows = u[:, keep] * np.sqrt(len(design))  # orthonormal design: the mean needs one step
    position = xp.zeros(rows.shape[1])
    best, best_length = position, np.inf
    iterations = 0
    for iterations in range(1, 301):
        residuals = targets - rows @ position
        move = xp.asarray(robustifier(residuals[:, None] * rows))
        length = float(xp.linalg.norm(move))
        if length < best_length:
            best, best_length = position, length
        if length <= 1e-9 * float(xp.linalg.norm(position)) or length == 0:
            break
        # Estimates with jumps (medians, selections) circle round the root unless steps shrink.
        position = position + move * min(1.0, 30.0 / iterations)
    converged = best_length <= 1e-3 * float(xp.linalg.norm(best)) or best_length == 0
    return vt[keep].T @ (best * np.sqrt(len(design)) / scales[keep]), iterations, converged


def _huber_fit(xp: Any, design: Array, targets: Array) -> tuple[Array, int, bool]:
    """Iteratively reweighted least squares with Huber's weights."""
    # From zero, not from least squares: outliers would inflate the first scale otherwise.
    fit = xp.zeros(design.shape[1])
    iterations, change = 0, np.inf
    while iterations < 200:
        iterations += 1
        residuals = targets - design @ fit
        spread = _MAD * float(xp.median(abs(residuals - xp.median(residuals))))
        if spread == 0:
            break
        weights = xp.minimum(1, _HUBER * spread / xp.maximum(abs(residuals), 1e-300))
        root = xp.sqrt(weights)
        new = xp.linalg.pinv(design * root[:, None]) @ (targets * root)
        change = float(xp.linalg.norm(new - fit))
        fit = new
        if change <= 1e-10 * float(xp.linalg.norm(fit)):
            break
    converged = iterations < 200 or change <= 1e-3 * float(xp.linalg.norm(fit))
    return fit, iterations, converged
