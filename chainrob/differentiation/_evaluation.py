"""Points, step sizes and counted function values, for derivatives without backpropagation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import chainer

__all__ = ["DifferenceInfo", "Evaluator", "as_point", "as_step", "representable"]

Array = Any  # a NumPy or CuPy array


@dataclasses.dataclass(frozen=True)
class DifferenceInfo:
    """The cost of a derivative without backpropagation, its step, and its convergence.

    Attributes:
        evaluations: Number of points at which the function was evaluated.
        calls: Number of calls of the function. It is smaller than ``evaluations`` if one call takes
            many points (``vectorized=True``).
        step: Step size, one number or one number per coordinate.
        converged: False if an iterative estimate stopped before it reached its tolerance.
        iterations: Iterations of such an estimate; 0 for direct estimates.
    """

    evaluations: int
    calls: int
    step: Any
    converged: bool = True
    iterations: int = 0


def as_point(x: Any) -> tuple[Any, Array]:
    """The array module, and ``x`` as a finite floating-point array. Integers become float64."""
    if isinstance(x, chainer.Variable):
        x = x.array
    xp = chainer.backend.get_array_module(x)
    x = xp.asarray(x)
    if x.dtype.kind in "iu":
        x = x.astype(np.float64)
    if x.dtype.kind != "f":
        raise TypeError(f"x must be real (floating point or integer), found dtype {x.dtype}")
    if x.size == 0:
        raise ValueError(f"x must hold at least one number, found shape {x.shape}")
    if not bool(xp.isfinite(x).all()):
        raise ValueError("x must be finite, found NaN or infinity")
    return xp, x


def as_step(xp: Any, x: Array, step: Any, power: float, *, scalar: bool = False) -> Array:
    """Step sizes: the checked ``step``, or ``eps ** power * max(1, |x|)`` for the dtype of x.

    The power balances truncation and cancellation. It is 1/2 if the truncation error is O(h), and
    1/3 if it is O(h^2). With ``scalar`` there is one step for all coordinates.
    """
    if step is None:
        size = xp.abs(x)
        size = xp.maximum(1, size.max() if scalar else size)
        return (float(np.finfo(x.dtype).eps) ** power * size).astype(x.dtype)
    given = xp.asarray(step)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"step must be real, found {step!r}")
    if not bool((xp.isfinite(given) & (given > 0)).all()):
        raise ValueError(f"step must be positive and finite, found {step!r}")
    given = given.astype(x.dtype)
    if not bool((given > 0).all()):
        raise ValueError(f"step must not vanish in {x.dtype}, found {step!r}")
    shape = () if scalar else x.shape
    try:
        return xp.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"step must broadcast to shape {shape}, found shape {given.shape}"
        ) from None


def representable(xp: Any, x: Array, step: Array) -> Array:
    """The step that the floating-point sum x + step really takes. An error if it takes none."""
    taken = (x + step) - x
    if not bool((taken != 0).all()):
        raise ValueError(
            f"step must be large enough that x + step differs from x in {x.dtype}, "
            f"found a smallest step of {float(abs(step).min()):g} "
            f"with a largest |x| of {float(abs(x).max()):g}"
        )
    return taken


class Evaluator:
    """Evaluates a function at points of one shape, counts, and requires finite real values."""

    def __init__(self, function: Callable[..., Any], x: Array, vectorized: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, found {type(function).__name__}")
        self._function = function
        self._xp = chainer.backend.get_array_module(x)
        self._point_shape = x.shape
        self._vectorized = vectorized
        self.evaluations = 0
        self.calls = 0

    def __call__(self, points: Iterable[Array]) -> Array:
        """The values at K points, stacked to shape (K,) + shape of one value."""
        if self._vectorized:
            stacked = self._xp.stack(list(points))
            values = self._call(stacked)
            self.evaluations += len(stacked)
            if values.shape[:1] != (len(stacked),):
                raise ValueError(
                    f"with vectorized=True the function gets points of shape {stacked.shape} and "
                    f"must return one value per point, found shape {values.shape}"
                )
        else:
            each = []
            for point in points:
                each.append(self._call(point))
                self.evaluations += 1
                if each[-1].shape != each[0].shape:
                    raise ValueError(
                        "function must return values of one shape, "
                        f"found {each[0].shape} and {each[-1].shape}"
                    )
            values = self._xp.stack(each)
        if not bool(self._xp.isfinite(values).all()):
            raise ValueError(
                "function must be finite around x, found NaN or infinity; "
                "a smaller step or a one-sided difference may stay inside its domain"
            )
        return values

    def _call(self, point: Array) -> Array:
        self.calls += 1
        # A scalar function gets a number, not an array of no dimension.
        argument = point[()] if self._xp is np else point
        with chainer.no_backprop_mode():
            value = self._function(argument)
        if isinstance(value, chainer.Variable):
            value = value.array
        value = self._xp.asarray(value)
        if value.dtype.kind in "iub":
            value = value.astype(np.float64)
        if value.dtype.kind != "f":
            raise TypeError(f"function must return real numbers, found dtype {value.dtype}")
        return value

    def info(self, step: Any, **more: Any) -> DifferenceInfo:
        """The counts so far."""
        step = step[()] if getattr(step, "shape", None) == () else step
        return DifferenceInfo(self.evaluations, self.calls, step, **more)
