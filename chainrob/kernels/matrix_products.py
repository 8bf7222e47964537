"""Large matrix products and sums over patches on the host: NumPy's, or those of the framework that
asks.

A framework brings a matrix library of its own, which may be the faster one on a machine: MKL, which
PyTorch ships, forms the weights' gradient of a layer 784 -> 1000 with 256 samples in 5.0 ms where
NumPy's OpenBLAS takes 7.0, and two libraries keep two pools of threads. So a front may name its
product for as long as it asks the core for something, and what it has for the filters' gradient of
a convolution.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

__all__ = ["filter_sums", "product", "use_products"]

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
FilterSums = Callable[[np.ndarray, np.ndarray, Any], np.ndarray]

LARGE = 1 << 16
"""Multiplications from which another library than NumPy's is asked."""

LARGE_SUMS = 1 << 19
"""Multiplications from which ``filter_sums`` asks.

Measured with PyTorch in float32, one thread, the time of our own form over its: filters of 3 x 3
for (16, 8, 8, 8) -> 8 channels (330,000 multiplications) 1.0, (16, 4, 6, 6) -> 8 0.46,
(32, 8, 8, 8) -> 16 (1.3 million) 1.4, (32, 3, 16, 16) -> 8 2.4, (256, 16, 14, 14) -> 32 4.7.
"""

_state = threading.local()


def use_products(product: Product | None, filter_sums: FilterSums | None = None) -> None:
    """Let this thread form large products of two matrices of one dtype, float32 or float64, by
    ``product``, and ``filter_sums`` by a function of that name; None is NumPy's again.
    """
    _state.product = product
    _state.filter_sums = filter_sums


def product(a: Any, b: Any) -> Any:
    """a @ b, of NumPy's or CuPy's arrays with any number of leading axes."""
    by: Product | None = getattr(_state, "product", None)
    if (
        by is not None
        and type(a) is type(b) is np.ndarray
        and a.ndim == b.ndim == 2
        and a.dtype == b.dtype
        and a.dtype.itemsize >= 4
        and a.shape[0] * b.size >= LARGE
    ):
        return by(a, b)
    return a @ b


def filter_sums(patched: Any, plain: Any, scale: Any, geometry: Any, dtype: Any) -> Any:
    """The sums over samples and positions of scale plain[n, a, s] patches[n, c, k, s], (A, C / G,
    *ksize), by the framework that asks; None where it has no form for that, or none that is better.

    In float64 there is none: PyTorch would hold the patches of all samples at once.

    Args:
        patched, plain, geometry: those of ``PatchProducts``.
        scale: what plain is multiplied by, in the dtype of the sums.
        dtype: that of the sums.
    """
    by: FilterSums | None = getattr(_state, "filter_sums", None)
    if (
        by is None
        or dtype != np.float32
        or not type(patched) is type(plain) is np.ndarray
        or not patched.size
        or not patched.flags.writeable
        or plain.size * patched.shape[1] // geometry.groups * prod(geometry.ksize) < LARGE_SUMS
    ):
        return None
    patched, plain = [one.astype(dtype, copy=False) for one in (patched, plain)]
    return by(patched, plain * scale, geometry)
