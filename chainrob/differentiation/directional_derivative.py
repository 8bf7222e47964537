"""The derivative along one direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.differentiation._evaluation import Evaluator, as_point, as_step, representable
from chainrob.differentiation.complex_step import complex_step
from chainrob.differentiation.finite_differences import Convention, check_convention

__all__ = ["directional_derivative"]

# Left and right end of the difference in units of the step, and the power of eps in the step.
_SCHEMES = {"central": (-1, 1, 1 / 3), "forward": (0, 1, 1 / 2), "backward": (-1, 0, 1 / 2)}


def directional_derivative(
    function: Callable[..., Any],
    x: Any,
    direction: Any,
    *,
    method: str = "central",
    step: float | None = None,
    convention: Convention = "half-width",
    return_info: bool = False,
) -> Any:
    r"""Derivative of ``function`` at ``x`` along ``direction``, with two evaluations.

    .. math:: D_v f(x) = \left. \frac{d}{dt} f(x + t v) \right|_{t = 0} = \nabla f(x) \cdot v

    The direction is not normalized: doubling it doubles the derivative.

    Args:
        function: Takes an array of the shape of ``x``, returns a number or an array.
        x: Number, array or Variable; the point.
        direction: v, of the shape of ``x`` (or broadcast to it), finite.
        method: ``'central'``, ``'forward'``, ``'backward'`` or ``'complex'`` (complex step).
        step: Positive t. Default: the rule of the method for the dtype of x, so that the largest
            entry of t v is ``eps ** (1/3) * max(1, |x|)`` (1/2 for one-sided differences).
        convention: For the central difference, as in :func:`central_difference`: ``'half-width'``
            goes from x - t v to x + t v, ``'width'`` from x - t v / 2 to x + t v / 2.
        return_info: Return ``(derivative, info)``.

    Returns:
        Array of the shape of f(x); a number for a scalar function.

    Raises:
        ValueError: If the method is unknown, the direction or the step is not valid, or f is not
            finite.

    Example:
        >>> print(round(float(directional_derivative(lambda x: x @ x, [1.0, 2.0], [3.0, 0.0])), 6))
        6.0
    """
    xp, x = as_point(x)
    direction = xp.asarray(getattr(direction, "array", direction), dtype=x.dtype)
    if not bool(xp.isfinite(direction).all()):
        raise ValueError("direction must be finite, found NaN or infinity")
    try:
        direction = xp.broadcast_to(direction, x.shape)
    except ValueError:
        raise ValueError(
            f"direction must broadcast to the shape {x.shape} of x, found {direction.shape}"
        ) from None
    length = abs(direction).max()
    check_convention(convention)
    if convention == "width" and method != "central":
        raise ValueError(f"convention must be 'half-width' if method is {method!r}")
    if method == "complex":
        real_step = None if step is None else float(step)

        def along(t: Any) -> Any:
            return function(x + t * direction)

        derivative, info = complex_step(
            along, xp.zeros((), x.dtype), step=real_step, return_info=True
        )
        return (derivative, info) if return_info else derivative
    if method not in _SCHEMES:
        raise ValueError(f"method must be one of {[*_SCHEMES, 'complex']}, found {method!r}")
    left, right, power = _SCHEMES[method]
    factor = 2 if convention == "width" else 1
    t = as_step(xp, x, step, power, scalar=True)
    if step is not None:
        t = t / factor
    if step is None and float(length) > 0:
        t = (t / length).astype(x.dtype)
    moving = direction != 0
    if bool(moving.any()):
        # Entries much smaller than the rest may be lost in rounding, but the largest must not.
        leading = abs(direction) == length
        representable(xp, x[leading], (t * direction)[leading])
    evaluate = Evaluator(function, x)
    values = evaluate(iter((x + right * t * direction, x + left * t * direction)))
    derivative = ((values[0] - values[1]) / ((right - left) * t)).astype(x.dtype, copy=False)
    if xp is np:
        derivative = derivative[()]
    return (derivative, evaluate.info(t * factor)) if return_info else derivative
