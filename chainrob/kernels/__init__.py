"""What NumPy and CuPy have no fast form for, and the only place that asks which of the two an array
belongs to.

``fused(name, parameters, x, gy)`` answers with a compiled coordinate-wise estimate of outer
products, or with None where there is none: the caller then reduces tile by tile in plain array
code, which is the definition that the kernel has to meet. ``cpu`` holds what Numba compiles,
``gpu`` what CuPy does; both are imported at the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from scipy.special import ndtr

__all__ = [
    "array_module",
    "centered_clipping",
    "centered_gram",
    "fused",
    "geometric_median",
    "is_array",
    "largest_eigenpair",
    "mixed_gram",
    "nearest_sums",
    "normal_cdf",
    "smallest",
    "squared_lengths",
    "to_host",
]


def array_module(*arrays: Any) -> ModuleType:
    """NumPy or CuPy, whichever the arrays belong to."""
    for array in arrays:
        if type(array) is not np.ndarray and _on_device(array):
            return sys.modules["cupy"]
    return np


def is_array(value: Any) -> bool:
    """True for a NumPy or CuPy array (a Chainer variable, a tensor or a list is none)."""
    return isinstance(value, np.ndarray) or _on_device(value)


def to_host(array: Any) -> Any:
    """The array as NumPy's; a device array is copied and the device waited for."""
    return array.get() if _on_device(array) else np.asarray(array)


def _on_device(value: Any) -> bool:
    """Whether it is CuPy's array; where nobody has imported CuPy, there is none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


HOST = {
    "centered_clipping": "centered_clipping_kernel",
    "centered_gram": "gram_kernel",
    "fused": "",
    "geometric_median": "geometric_median_kernel",
    "largest_eigenpair": "eigen",
    "mixed_gram": "mixed_gram",
    "nearest_sums": "neighbors",
    "smallest": "selection_kernel",
    "squared_lengths": "row_lengths",
}
"""The functions that ``cpu`` has, and the files where they are."""


@cache
def _host(name: str) -> Callable[..., Any]:
    """A function of ``cpu``, which is imported here: at its first call, and looked up only once."""
    return getattr(import_module(f"{__name__}.cpu.{HOST[name]}".rstrip(".")), name)


def fused(name: str, parameters: tuple[Any, ...], x: Any, gy: Any, squares: Any = None) -> Any:
    """A compiled coordinate-wise estimate of sums of outer products, or None where there is none.

    Args:
        name, parameters: those of ``chainrob.sample_gradients.operator_base.Fused``.
        x: inputs (*R, N, S, P), float32 or float64; replica axes may be 1.
        gy: output gradients (*R, N, S, Q), of the same dtype.
        squares: what the rows' squares are added to, if anybody asks: a
            ``chainrob.sample_gradients.reduction.RowSquares``. No CUDA kernel finds them.

    Returns:
        array (*R, Q, P) or None.
    """
    if array_module(x, gy) is np:
        return _host("fused")(name, parameters, x, gy, squares)
    if x.shape[-2] != 1 or squares is not None:
        return None
    from chainrob.kernels import gpu

    return gpu.fused(name, parameters, x[..., 0, :], gy[..., 0, :])


def geometric_median(
    gram: Any, tolerance: float, max_iterations: int, smoothing: float
) -> tuple[Any, Any, Any]:
    """Weights (T, N), iterations (T,) and residuals (T,) of T geometric medians; see
    ``robustifiers.GeometricMedian``.

    Args:
        gram: inner products (T, N, N) of the rows, float64.
        tolerance, max_iterations, smoothing: those of the robustifier.
    """
    if array_module(gram) is np:
        return _host("geometric_median")(gram, tolerance, max_iterations, smoothing)
    from chainrob.kernels import gpu

    return gpu.geometric_median(gram, tolerance, max_iterations, smoothing)


def centered_gram(x: Any, gy: Any, constant: float) -> Any:
    """The Gram matrix (N, N) of gy_n x_n^T less a common row, or None where plain array code is the
    better form; see ``OuterProducts.centered_gram``.

    Args:
        x: inputs (N, P).
        gy: output gradients (N, Q).
        constant: square of one more input that is the same in all samples.
    """
    if array_module(x, gy) is not np:
        return None
    return _host("centered_gram")(x, gy, constant)


def largest_eigenpair(matrices: Any) -> tuple[Any, Any]:
    """The largest eigenvalues (T,) of positive semidefinite matrices (T, N, N), and eigenvectors
    (T, N) of theirs.
    """
    xp = array_module(matrices)
    if xp is np:
        return _host("largest_eigenpair")(matrices)
    values, vectors = xp.linalg.eigh(matrices)
    return values[..., -1], vectors[..., -1]


def mixed_gram(matrix: Any, gram: Any) -> Any:
    """The Gram matrix (M, M) of averages of rows about a central one of them, or None where plain
    array code is the better form; see ``Mixed.centered_gram``.

    Args:
        matrix: the averages, (M, N).
        gram: inner products (N, N) of the rows, float64.
    """
    if array_module(matrix, gram) is not np:
        return None
    return _host("mixed_gram")(matrix, gram)


def nearest_sums(gram: Any, count: int, squared: bool) -> Any:
    """Sums (T, N) of the ``count`` least (squared) distances of every row to the rows, itself
    included, or None where there is no compiled form.

    Args:
        gram: inner products (T, N, N) of the rows, float64.
        count: 1 to N.
        squared: whether the distances are squared.
    """
    if array_module(gram) is not np:
        return None
    return _host("nearest_sums")(gram, count, squared)


def smallest(keys: Any, count: int, tie: float) -> Any:
    """1 for the ``count`` smallest keys along the last axis, 0 for the others, ties sharing; or
    None where there is no compiled form. See ``robustifiers.selection``.
    """
    if array_module(keys) is not np or keys.dtype != np.float64:
        return None
    return _host("smallest")(keys, count, tie)


def centered_clipping(gram: Any, radius: float | None, iterations: int, tie: float | None) -> Any:
    """Weights (T, N) of T centered clippings, or None where there is no compiled form; see
    ``robustifiers.CenteredClipping``.

    Args:
        gram: inner products (T, N, N) of the rows, float64.
        radius, iterations: those of the robustifier.
        tie: relative difference up to which two rows are equally central; None to start at the
            origin.
    """
    if array_module(gram) is not np:
        return None
    return _host("centered_clipping")(gram, radius, iterations, tie)


def squared_lengths(rows: Any) -> Any:
    """The squares (*R, N), float64, of lengths of rows (*R, N, K); numbers of float64 must be of
    ordinary size.
    """
    found = _host("squared_lengths")(rows) if array_module(rows) is np else None
    if found is None:
        xp, rows = array_module(rows), rows.astype(np.float64, copy=False)
        found = xp.einsum("...k,...k->...", rows, rows)
    return found


def normal_cdf(values: Any) -> Any:
    """The standard normal distribution function, elementwise, in the values' dtype."""
    if array_module(values) is np:
        return ndtr(values)
    return import_module("cupyx.scipy.special").ndtr(values)
