"""Forward, backward and central differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from chainrob.differentiation._evaluation import Evaluator, as_point, as_step, representable

__all__ = ["backward_difference", "central_difference", "forward_difference"]

Array = Any

Convention = Literal["half-width", "width"]
"""The step of a central difference: half the distance of its two points, or their distance."""


def forward_difference(
    function: Callable[..., Any],
    x: Any,
    *,
    step: Any = None,
    vectorized: bool = False,
    elementwise: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient by forward differences, with an error of O(h).

    .. math:: \partial_j f(x) \approx (f(x + h_j e_j) - f(x)) / h_j

    Args:
        function: Takes an array of the shape of ``x`` (a number if ``x`` is a number) and
            returns a number or an array; NumPy, CuPy and Chainer functions alike.
        x: Number, array or Variable; the point. Its dtype sets the precision.
        step: Positive h, absolute, in the units of x: a number or an array that broadcasts to x.
            Default: ``sqrt(eps) * max(1, abs(x))`` with the eps of the dtype of ``x``.
        vectorized: The function takes all points at once, shape (K,) + x.shape, and returns K
            values, shape (K, ...).
        elementwise: The function maps each entry of ``x`` separately, f(x)[i] = f(x[i]). The result
            is the derivative at every entry, with two evaluations in total.
        return_info: Return ``(gradient, info)``, where info is a ``DifferenceInfo`` with the
            evaluations.

    Returns:
        Array of shape ``f(x).shape + x.shape`` (``x.shape`` if elementwise): the gradient of a
        scalar function, the Jacobian of an array-valued one.

    Raises:
        ValueError: If the step is zero, negative or lost in rounding, or f is not finite.

    Example:
        >>> gradient, info = forward_difference(lambda x: x @ x, [1.0, 2.0], return_info=True)
        >>> print(gradient.round(5), info.evaluations)
        [2. 4.] 3

    References:
        J. E. Dennis and R. B. Schnabel, Numerical Methods for Unconstrained Optimization and
        Nonlinear Equations (1983), section 5.4 (the step size).
    """
    return _difference(function, x, (1, 0), step, vectorized, elementwise, return_info)


def backward_difference(
    function: Callable[..., Any],
    x: Any,
    *,
    step: Any = None,
    vectorized: bool = False,
    elementwise: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient by backward differences, with an error of O(h).

    .. math:: \partial_j f(x) \approx (f(x) - f(x - h_j e_j)) / h_j

    Args, Returns and Raises as for :func:`forward_difference`.

    Example:
        >>> print(round(float(backward_difference(lambda x: x**3, 2.0)), 5))
        12.0
    """
    return _difference(function, x, (0, -1), step, vectorized, elementwise, return_info)


def central_difference(
    function: Callable[..., Any],
    x: Any,
    *,
    step: Any = None,
    convention: Convention = "half-width",
    vectorized: bool = False,
    elementwise: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient by central differences, with an error of O(h^2).

    .. math:: \partial_j f(x) \approx \frac{f(x + h_j e_j) - f(x - h_j e_j)}{2 h_j}
        \quad \text{or} \quad
        \frac{f(x + \tfrac{h_j}{2} e_j) - f(x - \tfrac{h_j}{2} e_j)}{h_j}

    Both conventions are in use. In the first the step is half the distance of the two points
    (``convention='half-width'``). In the second the step is the distance (``'width'``).

    Args, Returns and Raises as for :func:`forward_difference`, with two changes. The default step
    is ``eps ** (1/3) * max(1, abs(x))`` (twice that as a width). ``convention`` is new.

    Example:
        >>> import numpy as np
        >>> points = np.linspace(0, 1, 3)
        >>> print(central_difference(np.sin, points, elementwise=True).round(6))
        [1.       0.877583 0.540302]
        >>> cube = lambda x: x**3  # off by h^2, or by h^2 / 4
        >>> print(central_difference(cube, 1.0, step=0.5))
        3.25
        >>> print(central_difference(cube, 1.0, step=0.5, convention="width"))
        3.0625
    """
    check_convention(convention)
    factor = 2 if convention == "width" else 1
    half = None if step is None else _divided(step, factor)
    gradient, info = _difference(function, x, (1, -1), half, vectorized, elementwise, True)
    if factor != 1:
        info = dataclasses.replace(info, step=info.step * factor)
    return (gradient, info) if return_info else gradient


def check_convention(convention: str) -> None:
    """Raise ValueError for an unknown convention."""
    if convention not in ("half-width", "width"):
        raise ValueError(f"convention must be 'half-width' or 'width', found {convention!r}")


def _divided(step: Any, factor: int) -> Any:
    """The step divided by a factor. A step that is not a number is refused later."""
    try:
        return step if factor == 1 else np.divide(step, factor)
    except TypeError:
        return step


def _difference(
    function: Callable[..., Any],
    x: Any,
    sides: tuple[int, int],
    step: Any,
    vectorized: bool,
    elementwise: bool,
    return_info: bool,
) -> Any:
    """(f(x + right h) - f(x + left h)) / ((right - left) h), one coordinate after another."""
    right, left = sides
    xp, x = as_point(x)
    h = as_step(xp, x, step, 1 / 3 if right and left else 1 / 2)
    # The distance comes from the two points, because the nominal step is rounded.
    ahead = representable(xp, x, right * h) if right else xp.zeros_like(x)
    behind = representable(xp, x, left * h) if left else xp.zeros_like(x)
    evaluate = Evaluator(function, x, vectorized and not elementwise)

    if elementwise:
        values = evaluate(iter((x + ahead, x + behind)))
        if values.shape[1:] != x.shape:
            raise ValueError(
                f"with elementwise=True the function must keep the shape {x.shape}, "
                f"found {values.shape[1:]}"
            )
        gradient = (values[0] - values[1]) / (ahead - behind)
    elif right and left:
        values = evaluate(_along_axes(xp, x, ahead, behind))
        gradient = _quotients(xp, values[: x.size] - values[x.size :], ahead - behind)
    else:
        values = evaluate(_along_axes(xp, x, ahead if right else behind))
        center = evaluate(iter((x,)))
        gradient = _quotients(xp, values - center, ahead + behind)
    gradient = gradient.astype(x.dtype, copy=False)
    return (gradient, evaluate.info(h)) if return_info else gradient


def _along_axes(xp: Any, x: Array, *offsets: Array) -> Iterator[Array]:
    for offset in offsets:
        flat = offset.ravel()
        for j in range(x.size):
            point = x.copy()
            point.reshape(-1)[j] += flat[j]
            yield point


def _quotients(xp: Any, rises: Array, runs: Array) -> Array:
    """Rises of shape (D, ...) over runs of the shape of x, with the axes of x moved to the end."""
    quotients = xp.moveaxis(rises, 0, -1) / runs.ravel()
    return quotients.reshape(quotients.shape[:-1] + runs.shape)[()]
