"""Estimates of values so large that a sum of them overflows, although the estimate would not."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, fill, line, solve
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.simd import absolute, larger, load, splat, store
from chainrob.kernels.cpu.vectors import largest_magnitude


def with_headroom(
    estimate: Callable[[np.ndarray, float], np.ndarray], x: np.ndarray, gy: np.ndarray
) -> np.ndarray:
    """A scale-equivariant estimate of outer products, also where they are near the largest number.

    Coordinates that hold such a value are estimated from gy made smaller by a power of two, which
    rounds nothing there; all others from gy as it is, so that none loses digits to underflow.

    Args:
        estimate: called as ``estimate(gy, shrink)``, gy being ``shrink`` times what it was, and
            with it everything that an absolute threshold is compared with.
        x: inputs (Tx, N, S, P), float32 or float64.
        gy: output gradients (T, N, S, Q) of the same dtype.

    Returns:
        array (T, Q, P).
    """
    n, s = gy.shape[1:3]
    largest = float(np.finfo(x.dtype).max)
    limit = largest / (8 * n)
    sizes = np.empty(2, x.dtype)
    # Vectors are loaded from memory as it lies; Numba compiles anew for arrays that are read-only.
    flat = (one if one.flags.carray else one.copy() for one in (x, gy))
    _sizes(*(one.reshape(-1) for one in flat), sizes)
    # NaN, where it may propagate, is no reason for care.
    if not float(sizes[0]) * float(sizes[1]) * s > limit:
        return estimate(gy, 1.0)
    exponent = ceil(log2(8 * n * s))
    with np.errstate(over="ignore", invalid="ignore"):
        plain = estimate(gy, 1.0)
        small = np.ldexp(gy, -exponent)
        scaled = estimate(small, 2.0**-exponent)
        # An estimate lies between the values; rounding must not carry it beyond them.
        bound = np.ldexp(x.dtype.type(largest), -exponent)
        scaled = np.where(np.isfinite(scaled), np.clip(scaled, -bound, bound), scaled)
        near = solve(_largest, x, small) > np.ldexp(x.dtype.type(limit), -exponent)
        return np.where(near, np.ldexp(scaled, exponent), plain)


@Kernel
def _sizes(x: Any, gy: Any, sizes: Any) -> None:
    """The largest magnitudes of two flat arrays."""
    sizes[0], sizes[1] = largest_magnitude(x, 0, x.size), largest_magnitude(gy, 0, gy.size)


@Kernel
def _largest(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int
) -> None:  # fmt: skip
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    for column in range(start, stop):
        fill(memory, base, x, gy, sizes, shared, column)
        widest = splat(x.dtype.type(0))
        for i in range(n):
            widest = larger(widest, absolute(load(memory, base + line(i) * lanes)))
        store(out, column * lanes, widest)
