"""Kernels for the CPU, compiled by Numba at their first call.

Numba is imported when the first of them is asked for, not with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels.cpu.kernel_modules import MODULES
from chainrob.kernels.cpu.row_squares import watch_for

__all__ = ["fused"]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def fused(
    name: str, parameters: tuple[Any, ...], x: np.ndarray, gy: np.ndarray, squares: Any = None
) -> np.ndarray | None:
    """A coordinate-wise estimate of sums of outer products, or None where there is no kernel.

    Args:
        name, parameters: those of ``chainrob.sample_gradients.operator_base.Fused``.
        x: inputs (*R, N, S, P), float32 or float64; replica axes may be 1.
        gy: output gradients (*R, N, S, Q), of the same dtype.
        squares: what the rows' squares are added to, if anybody asks: a
            ``chainrob.sample_gradients.reduction.RowSquares``.

    Returns:
        array (*R, Q, P).
    """
    if name not in MODULES or x.dtype != gy.dtype or x.dtype not in DTYPES:
        return None
    if x.size == 0 or gy.size == 0:
        return None
    replicas = gy.shape[:-3]
    if x.shape[:-3] != replicas:
        replicas = np.broadcast_shapes(x.shape[:-3], replicas)
    x, gy = _flattened(x, replicas, share=True), _flattened(gy, replicas)
    watch = None if squares is None else watch_for(x, gy)
    out = _function(name)(x, gy, *parameters, watch=watch)
    if out is None:
        return None
    if watch is not None:
        # From the kernel's unit to that of the squares.
        exponent = -2 * (int(np.frexp(watch.scale)[1]) - 1 + squares.exponent)
        shape = (*replicas, gy.shape[1])
        squares.add(*(np.ldexp(one, exponent).reshape(shape) for one in watch.sums))
    return out.reshape((*replicas, *out.shape[1:]))


@cache
def _function(name: str) -> Callable[..., np.ndarray | None]:
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)


def _flattened(array: np.ndarray, replicas: tuple[int, ...], share: bool = False) -> np.ndarray:
    """The array with one replica axis, of length 1 where all may share it."""
    own = array.shape[:-3]
    if share and prod(own) == 1:
        replicas = (1,)
    elif own != replicas:
        array = np.broadcast_to(array, (*replicas, *array.shape[-3:]))
    return array.reshape((prod(replicas), *array.shape[-3:]))
