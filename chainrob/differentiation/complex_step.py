"""The complex step: a derivative without cancellation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._analytic import AnalyticArray, NotAnalyticError
from chainrob.differentiation._evaluation import DifferenceInfo, as_point, as_step

__all__ = ["NotAnalyticError", "complex_step"]


def complex_step(
    function: Callable[..., Any],
    x: Any,
    *,
    step: Any = None,
    vectorized: bool = False,
    elementwise: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Gradient of an analytic function by a step along the imaginary axis.

    .. math:: \partial_j f(x) = \operatorname{Im} f(x + i h e_j) / h + O(h^2)

    Nothing is subtracted, so no digits cancel. h may be arbitrarily small, and the derivative is
    right up to rounding. The function must consist of analytic NumPy operations. Comparisons,
    ``np.where``, ``maximum`` and ``minimum`` use the real parts. ``abs``, ``conj``, ``real``, casts
    to float and unknown operations are refused, because they could give a wrong number.

    Args:
        function: As for :func:`forward_difference`, made of NumPy operations. Chainer's
            functions are real only. CuPy arrays work too, through the NumPy functions.
        x: Number or array; the point.
        step: Positive h, absolute. Default: ``eps**2 * abs(x)``, ``eps**2`` where x is 0.
        vectorized: The function takes all points at once, shape (K,) + x.shape.
        elementwise: f(x)[i] = f(x[i]): the derivative at every entry takes one evaluation.
        return_info: Return ``(gradient, info)``.

    Returns:
        Array of shape ``f(x).shape + x.shape``, or ``x.shape`` if elementwise.

    Raises:
        NotAnalyticError: If an operation is not known to be analytic, or not at this point.
        ValueError: If the step is zero or negative, or f is not finite.

    Example:
        >>> import numpy as np
        >>> f = lambda x: np.exp(x) / np.sqrt(np.sin(x) ** 3 + np.cos(x) ** 3)
        >>> print(complex_step(f, 1.5))
        4.053427893898621
        >>> complex_step(lambda x: np.abs(x), 1.5)
        Traceback (most recent call last):
        ...
        chainrob.differentiation._analytic.NotAnalyticError: the complex step cannot pass ...

    References:
        W. Squire and G. Trapp, Using complex variables to estimate derivatives of real functions,
        SIAM Review 40 (1998). J. Martins, P. Sturdza and J. Alonso, The complex-step derivative
        approximation, ACM TOMS 29 (2003).
    """
    if not callable(function):
        raise TypeError(f"function must be callable, found {type(function).__name__}")
    xp, x = as_point(x)
    real_type = x.dtype
    if real_type == np.float16:  # there is no complex type of half precision
        x = x.astype(np.float32)
    if step is None:
        # Relative to x, because only h << |x| makes O(h^2) vanish; eps^2 keeps h / x normal.
        h = float(np.finfo(x.dtype).eps) ** 2 * xp.where(x == 0, 1, abs(x))
        h = xp.maximum(h, np.finfo(x.dtype).tiny).astype(x.dtype)
    else:
        h = as_step(xp, x, step, 1.0)
    base = x.astype(np.result_type(x.dtype, np.complex64))

    if elementwise:
        slopes = _imaginary(function, base + 1j * h, xp) / h
        if slopes.shape != x.shape:
            raise ValueError(
                f"with elementwise=True the function must keep the shape {x.shape}, "
                f"found {slopes.shape}"
            )
        evaluations = calls = 1
    else:
        points = xp.repeat(base[None], x.size, axis=0).reshape(x.size, -1)
        points[xp.arange(x.size), xp.arange(x.size)] += 1j * h.ravel()
        points = points.reshape((x.size, *x.shape))
        if vectorized:
            imaginary = _imaginary(function, points, xp)
            if imaginary.shape[:1] != (x.size,):
                raise ValueError(
                    f"with vectorized=True the function gets points of shape {points.shape} and "
                    f"must return one value per point, found shape {imaginary.shape}"
                )
        else:
            imaginary = xp.stack([_imaginary(function, point, xp) for point in points])
        slopes = xp.moveaxis(imaginary, 0, -1) / h.ravel()
        slopes = slopes.reshape(slopes.shape[:-1] + x.shape)
        evaluations, calls = x.size, 1 if vectorized else x.size
    if not bool(xp.isfinite(slopes).all()):
        raise ValueError("function must be finite around x, found NaN or infinity")
    gradient = slopes.astype(real_type, copy=False)[()]
    return (gradient, DifferenceInfo(evaluations, calls, h[()])) if return_info else gradient


def _imaginary(function: Callable[..., Any], point: Any, xp: Any) -> Any:
    try:
        value = function(AnalyticArray(point))
    except ValueError as error:
        if isinstance(error.__cause__, NotAnalyticError):  # NumPy hides it when storing an entry
            raise error.__cause__ from None
        raise
    except TypeError as error:
        if AnalyticArray.__name__ not in str(error):  # not about the sealed argument
            raise
        raise NotAnalyticError(
            "the function passes its argument to code that takes real arrays only (Chainer's "
            "functions do); write it with NumPy operations, or differentiate a Chainer function "
            "with chainrob.differentiation.jacobian"
        ) from error
    if isinstance(value, AnalyticArray):
        return value.sealed.imag
    if isinstance(value, chainer.Variable) or np.iscomplexobj(value):
        raise NotAnalyticError("function must return a value computed from its argument with NumPy")
    # The array refuses all conversions, so a plain number cannot depend on the point.
    return xp.zeros_like(xp.asarray(value, dtype=point.real.dtype))
