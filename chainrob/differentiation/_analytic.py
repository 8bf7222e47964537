"""A complex array that refuses operations that are not analytic.

The complex step reads the derivative off the imaginary part. So an operation that drops or mixes
this part (``abs``, ``conj``, ``real``, a silent cast to float) gives a wrong number without an
error. This array allows only operations that are known to be analytic. All others, also unknown
ones, raise ``NotAnalyticError``. It wraps an array and is no subclass, because ``np.asarray``
unpacks a subclass silently.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["AnalyticArray", "NotAnalyticError"]


class NotAnalyticError(ArithmeticError):
    """The function is not analytic where the complex step needs it to be."""


_ENTIRE = {
    "add", "subtract", "multiply", "negative", "positive", "square", "matmul",
    "exp", "exp2", "expm1", "sin", "cos", "sinh", "cosh", "erf", "erfc", "wofz",
}  # fmt: skip
_DIVISIONS = {"divide", "true_divide", "reciprocal"}
_MEROMORPHIC = {"tan", "tanh", "arcsinh", "arctan"}
# The real arguments at which the real function is defined and smooth.
_DOMAINS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "sqrt": (lambda x: x > 0, "a positive argument"),
    "log": (lambda x: x > 0, "a positive argument"),
    "log2": (lambda x: x > 0, "a positive argument"),
    "log10": (lambda x: x > 0, "a positive argument"),
    "log1p": (lambda x: x > -1, "an argument above -1"),
    "arcsin": (lambda x: abs(x) < 1, "an argument inside (-1, 1)"),
    "arccos": (lambda x: abs(x) < 1, "an argument inside (-1, 1)"),
    "arctanh": (lambda x: abs(x) < 1, "an argument inside (-1, 1)"),
    "arccosh": (lambda x: x > 1, "an argument above 1"),
}
_COMPARISONS = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}
_SELECTIONS = {"maximum": np.greater, "minimum": np.less, "fmax": np.greater, "fmin": np.less}
_STRUCTURAL = {
    "sum", "mean", "prod", "cumsum", "cumprod", "dot", "inner", "outer", "tensordot",
    "einsum", "trace", "diag", "diagonal", "kron", "cross", "diff", "trapezoid", "average",
    "reshape", "ravel", "transpose", "moveaxis", "swapaxes", "rollaxis", "squeeze", "expand_dims",
    "broadcast_to", "concatenate", "stack", "vstack", "hstack", "column_stack", "dstack", "block",
    "where", "take", "roll", "flip", "tile", "repeat", "copy", "atleast_1d", "atleast_2d",
    "solve", "inv", "det", "matrix_power", "multi_dot", "shape", "ndim", "size",
    "zeros_like", "ones_like", "empty_like", "full_like", "tril", "triu", "polyval", "convolve",
}  # fmt: skip


class AnalyticArray(NDArrayOperatorsMixin):
    """A sealed complex array. Every result is analytic in the argument, or an error is raised."""

    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: Any) -> None:
        self.sealed = array

    shape = property(lambda self: self.sealed.shape)
    ndim = property(lambda self: self.sealed.ndim)
    size = property(lambda self: self.sealed.size)
    dtype = property(lambda self: self.sealed.dtype)
    T = property(lambda self: AnalyticArray(self.sealed.T))

    def __len__(self) -> int:
        return len(self.sealed)

    def __iter__(self) -> Iterator[AnalyticArray]:
        return (AnalyticArray(row) for row in self.sealed)

    def __getitem__(self, index: Any) -> AnalyticArray:
        return AnalyticArray(self.sealed[_open(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.sealed[_open(index)] = _open(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        name = ufunc.__name__
        plain = [_open(value) for value in inputs]
        if method == "__call__" and name in _COMPARISONS:
            return _compare(ufunc, *plain)
        if method == "__call__" and name in _SELECTIONS:
            _check_no_tie(name, *plain)
            return AnalyticArray(
                np.where(_SELECTIONS[name](_real(plain[0]), _real(plain[1])), *plain)
            )
        run = getattr(ufunc, method)
        if name in ("power", "float_power"):
            if method != "__call__":
                _refuse(f"{name}.{method}")
            _check_power(*plain)
            run = functools.partial(_power, ufunc)
        elif name in _DIVISIONS:
            if method == "__call__":
                _check_no_pole(name, plain[-1])
        elif name in _DOMAINS:
            inside, wanted = _DOMAINS[name]
            if not np.all(inside(_real(plain[0]))):
                raise NotAnalyticError(f"{name} needs {wanted} to be differentiable")
        elif name not in _ENTIRE and name not in _MEROMORPHIC:
            _refuse(name)
        if "out" in options:
            options["out"] = tuple(_open(value) for value in options["out"])
        return _seal(run(*plain, **options))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in _STRUCTURAL:
            _refuse(function.__name__)
        return _seal(function(*_open(args), **_open(kwargs)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _STRUCTURAL or name in ("item", "flatten"):
            method = getattr(self.sealed, name)
            return lambda *args, **kwargs: _seal(method(*_open(args), **_open(kwargs)))
        _refuse(name)
        raise AssertionError  # pragma: no cover

    def astype(self, dtype: Any, **options: Any) -> AnalyticArray:
        """Cast to another complex type. A cast to a real type would drop the derivative."""
        if np.dtype(dtype).kind != "c":
            _refuse(f"astype({np.dtype(dtype)})")
        return AnalyticArray(self.sealed.astype(dtype, **options))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise NotAnalyticError(
            "the function turns its argument into a plain array (np.asarray, np.array, or storing "
            "it in one), which would drop the derivative; use np.stack or np.zeros_like"
        )

    def _scalar(self) -> Any:
        raise NotAnalyticError(
            "the function turns its argument into a plain number (float, int, or the math module), "
            "which would drop the derivative; use the NumPy functions"
        )

    __float__ = __int__ = __complex__ = __index__ = _scalar

    def __bool__(self) -> bool:
        return bool(_compare(np.not_equal, self.sealed, 0))


def _refuse(name: str) -> None:
    raise NotAnalyticError(
        f"the complex step cannot pass through {name}: it is not known to be analytic; use a "
        "central difference, or write the function with analytic operations and np.where"
    )


def _open(value: Any) -> Any:
    if isinstance(value, AnalyticArray):
        return value.sealed
    if isinstance(value, (tuple, list)):
        return type(value)(_open(item) for item in value)
    if isinstance(value, dict):
        return {key: _open(item) for key, item in value.items()}
    return value


def _seal(value: Any) -> Any:
    if getattr(getattr(value, "dtype", None), "kind", "") == "c":
        return AnalyticArray(value)
    return AnalyticArray(np.asarray(value)) if isinstance(value, complex) else value


def _real(value: Any) -> Any:
    return getattr(value, "real", value)


def _compare(ufunc: Any, left: Any, right: Any) -> Any:
    """Compare the real parts. A branch is analytic everywhere except where it changes."""
    _check_no_tie(ufunc.__name__, left, right)
    return ufunc(_real(left), _real(right))


def _check_no_tie(name: str, left: Any, right: Any) -> None:
    tie = np.logical_and(
        operator.eq(_real(left), _real(right)),
        np.not_equal(getattr(left, "imag", 0), getattr(right, "imag", 0)),
    )
    if np.any(tie):
        raise NotAnalyticError(
            f"{name} compares equal numbers: the function changes branch exactly at this point "
            "and need not be differentiable there"
        )


def _check_power(base: Any, exponent: Any) -> None:
    whole = np.logical_and(np.imag(exponent) == 0, _real(exponent) == np.round(_real(exponent)))
    if not np.all(np.logical_or(whole, _real(base) > 0)):
        raise NotAnalyticError("power with a fractional exponent needs a positive base")
    if np.any(_real(exponent) < 0):
        _check_no_pole("power with a negative exponent", base)


def _check_no_pole(name: str, divisor: Any) -> None:
    """Refuse a point where the real function is infinite. The shifted point would look finite."""
    if np.any(np.logical_and(_real(divisor) == 0, np.imag(divisor) != 0)):
        raise NotAnalyticError(f"{name} has a pole exactly at this point")


def _power(ufunc: Any, base: Any, exponent: Any, **options: Any) -> Any:
    """The power. For a negative base b it is +-(-b)^k.

    NumPy computes large powers as exp(k log b). For a negative b, whose angle is pi, this leaves a
    rounding error in the imaginary part that is far larger than the derivative there.
    """
    negative = _real(base) < 0
    if not np.any(negative):
        return ufunc(base, exponent, **options)
    odd = np.logical_and(negative, _real(exponent) % 2 == 1)
    size = ufunc(np.where(negative, -base, base), exponent)
    return np.multiply(size, np.where(odd, -1, 1).astype(np.int8), **options)
