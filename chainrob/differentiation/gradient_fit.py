"""The gradient as the slope of a plane through given points and values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.differentiation._evaluation import DifferenceInfo, as_point

__all__ = ["check_fit", "fit_gradient", "fit_slopes"]

Array = Any
_HUBER = 1.345  # 95 % of the efficiency of least squares under Gaussian noise
_MAD = 1.4826  # median absolute deviation of a Gaussian to its standard deviation


def fit_gradient(
    points: Any,
    values: Any,
    x: Any,
    *,
    value: float | None = None,
    loss: str = "squared",
    robustifier: Callable[..., Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Gradient at x from K given pairs of a point and a value, by linear regression.

    If the value at x is given, the plane goes through it. The squared loss then gives the
    pseudo-inverse of the offsets times the differences:

    .. math:: \hat g = \arg\min_g \sum_k \rho\big(f_k - f(x) - (x_k - x) \cdot g\big)
        \overset{\rho = e^2}{=} \Delta^{+} (f - f(x)), \qquad \Delta_k = x_k - x

    Otherwise the height c of the plane, the intercept, is fitted too:

    .. math:: (\hat c, \hat g) = \arg\min_{c, g} \sum_k \rho\big(f_k - c - (x_k - x) \cdot g\big)

    If the points do not determine g (there are fewer than D, or all lie in a plane), the result is
    the solution of minimum norm: the part of the gradient in the span of the offsets.

    Args:
        points: (K,) + shape of x; finite.
        values: (K,); finite.
        x: Number or array, the point, D numbers. If the intercept is fitted, the slope does
            not depend on x, but the error from the curvature does.
        value: f(x), the height of the plane at x. Default: the height is fitted.
        loss: ``'squared'`` or ``'huber'`` (reweighted least squares, scale by the median absolute
            deviation).
        robustifier: Any callable (K, P) -> (P,), applied to the points' gradients of the squared
            loss, P = D, or D + 1 with an intercept; not together with ``loss='huber'``.
        return_info: Return ``(gradient, info)``, where info has the iterations and the
            convergence of a robust fit, and no evaluations.

    Returns:
        Array of the shape of ``x``.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, an option is unknown, or all
            points are the same.

    Example:
        >>> points = [[2.0, 3.0], [2.1, 3.0], [2.0, 3.1], [1.9, 3.1]]
        >>> values = [6.0, 6.3, 6.2, 5.89]
        >>> print(fit_gradient(points, values, [2.0, 3.0], value=6.0).round(2))
        [3.03 1.97]
        >>> print(fit_gradient(points[:2], values[:2], [2.0, 3.0], value=6.0).round(2))
        [3. 0.]

    References:
        G. H. Golub and C. F. Van Loan, Matrix Computations (2013), section 5.5.
    """
    check_fit(loss, robustifier)
    xp, x = as_point(x)
    points = xp.asarray(getattr(points, "array", points))
    values = xp.asarray(getattr(values, "array", values))
    if points.ndim < 1 or points.shape[1:] != x.shape or not len(points):
        raise ValueError(
            f"points must have shape (K,) + {x.shape}, at least one, found {points.shape}"
        )
    if values.shape != points.shape[:1]:
        raise ValueError(f"values must have shape ({len(points)},), found {values.shape}")
    for name, array in (("points", points), ("values", values), ("value", value)):
        if array is not None and not bool(xp.isfinite(array).all()):
            raise ValueError(f"{name} must be finite, found NaN or infinity")
    offsets = (points - x).reshape(len(points), -1).astype(np.float64)
    spread = offsets if value is not None else offsets - offsets.mean(axis=0)
    scale = float(xp.sqrt((spread**2).mean()))
    if scale == 0:
        raise ValueError("points must differ from each other (from x if value is given)")
    slopes, iterations, converged = fit_slopes(
        xp, offsets / scale, values, value, loss, robustifier, stacklevel=3
    )
    gradient = (slopes / scale).astype(x.dtype).reshape(x.shape)
    if xp is np:
        gradient = gradient[()]
    info = DifferenceInfo(0, 0, scale, converged=converged, iterations=iterations)
    return (gradient, info) if return_info else gradient


def check_fit(loss: str, robustifier: Callable[..., Any] | None) -> None:
    """Raise ValueError for a loss that is unknown or does not go with a robustifier."""
    if loss not in ("squared", "huber"):
        raise ValueError(f"loss must be 'squared' or 'huber', found {loss!r}")
    if robustifier is not None and loss != "squared":
        raise ValueError("loss must be 'squared' if a robustifier is given, found 'huber'")


def fit_slopes(
    xp: Any,
    offsets: Array,
    values: Array,
    value: Any,
    loss: str,
    robustifier: Callable[..., Any] | None,
    *,
    stacklevel: int,
) -> tuple[Array, int, bool]:
    """Slopes (D,) of the plane over offsets (K, D), iterations and convergence.

    All in float64: the fit is small, and must not add to the rounding of f.
    """
    free = value is None
    center = xp.median(values) if free else value
    targets = (values - center).astype(np.float64)
    iterations, converged = 0, True
    if robustifier is not None:
        slopes, iterations, converged = _robust_fit(xp, offsets, targets, free, robustifier)
    elif loss == "huber":
        slopes, iterations, converged = _huber_fit(xp, offsets, targets, free)
    else:
        slopes, _ = _plane(xp, offsets, targets, xp.ones(len(targets)), free)
    if not converged:
        warnings.warn(
            f"the regression gradient has not converged after {iterations} iterations; "
            "more samples usually help",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    return slopes, iterations, converged


def _plane(
    xp: Any, offsets: Array, targets: Array, weights: Array, free: bool
) -> tuple[Array, Any]:
    """Weighted least squares of minimum norm: slopes, and the height, which is free or 0."""
    middle: Any = 0.0
    height: Any = 0.0
    if free:  # the plane goes through the means, and its height does not count in the norm
        middle = weights @ offsets / weights.sum()
        height = weights @ targets / weights.sum()
    root = xp.sqrt(weights)
    design = (offsets - middle) * root[:, None]
    # The rank is that of the offsets, for all weights. Smaller singular values are rounding.
    cut = 4 * max(design.shape) * float(np.finfo(np.float64).eps)
    slopes = xp.linalg.pinv(design, rcond=cut) @ ((targets - height) * root)
    return slopes, height - middle @ slopes if free else height


def _robust_fit(
    xp: Any, offsets: Array, targets: Array, free: bool, robustifier: Callable[..., Any]
) -> tuple[Array, int, bool]:
    """Step along the robust estimate of the residual gradients until it vanishes."""
    design = xp.concatenate((xp.ones((len(offsets), 1)), offsets), axis=1) if free else offsets
    u, scales, _ = xp.linalg.svd(design, full_matrices=False)
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
        # If the estimate jumps (medians, selections), full steps would circle around the root.
        position = position + move * min(1.0, 30.0 / iterations)
    converged = best_length <= 1e-3 * float(xp.linalg.norm(best)) or best_length == 0
    # The plane through the fitted values is exact. If it is not unique, it has minimum norm.
    slopes, _ = _plane(xp, offsets, rows @ best, xp.ones(len(offsets)), free)
    return slopes, iterations, converged


def _huber_fit(xp: Any, offsets: Array, targets: Array, free: bool) -> tuple[Array, int, bool]:
    """Iteratively reweighted least squares with Huber's weights."""
    # Start from zero and not from least squares, where outliers would inflate the first scale.
    slopes, height = xp.zeros(offsets.shape[1]), 0.0
    iterations, change = 0, np.inf
    while iterations < 200:
        iterations += 1
        residuals = targets - offsets @ slopes - height
        spread = _MAD * float(xp.median(abs(residuals - xp.median(residuals))))
        if spread == 0:
            break
        weights = xp.minimum(1, _HUBER * spread / xp.maximum(abs(residuals), 1e-300))
        new, height = _plane(xp, offsets, targets, weights, free)
        change = float(xp.linalg.norm(new - slopes))
        slopes = new
        if change <= 1e-10 * float(xp.linalg.norm(slopes)):
            break
    converged = iterations < 200 or change <= 1e-3 * float(xp.linalg.norm(slopes))
    return slopes, iterations, converged
