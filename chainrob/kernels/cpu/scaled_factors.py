"""Factors of outer products, prepared so that sums of powers of their products can be formed.

The sum over samples of (a_q b_p)^k needs no third power to overflow or vanish: the columns of a and
b are first scaled by powers of two, which rounds nothing, so that their root mean square is near
one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import on_lines
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.simd import absolute, choose, fma, larger, load, smaller, splat, store
from chainrob.kernels.threads import share

LARGEST = 120
"""Largest exponent of the powers of two that columns are divided by."""


class Factors(NamedTuple):
    """K columns of N samples, K padded to whole vectors with zeros."""

    values: np.ndarray
    """(vectors, N, lanes): the scaled columns, a vector of them together."""
    units: np.ndarray
    """(K,): the power of two by which a column was divided."""
    least: np.ndarray
    """(K,): the smallest magnitude in the column that is not zero, at most one."""
    even: np.ndarray
    """(K,): the inverse of what is left of a column's root mean square."""
    reach: np.ndarray
    """(vectors, N): the largest magnitude that a sample has in a vector of columns, each column in
    units of its root mean square, and a little more: rounding must not hide a value."""


def scaled(factors: np.ndarray) -> Factors:
    """Scale the columns of factors (N, K), K a multiple of the lanes."""
    n, width = factors.shape
    dtype = factors.dtype
    lanes = simd.LINE // dtype.itemsize
    values = on_lines((width // lanes, n, lanes), dtype)
    reach = np.empty((width // lanes, n), dtype)
    units, least, even = (np.empty(width, dtype) for _ in range(3))
    flat = factors.ravel(), values.ravel(), units, least, even, reach.ravel(), n
    share(lambda start, stop: _scaled(*flat, start, stop), width // lanes, max(1, (1 << 14) // n))
    return Factors(values, units, least, even, reach)


@Kernel
def _scaled(
    factors: Any, values: Any, units: Any, least: Any, even: Any, reach: Any, n: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    dtype = factors.dtype.type
    lanes = simd.lanes(factors)
    width = units.size
    zero, one, infinite = splat(dtype(0)), splat(dtype(1)), splat(dtype(np.inf))
    tiny = splat(np.finfo(dtype).tiny)
    for vector in range(start, stop):
        at = vector * lanes
        # The root mean square, in units of the largest so that no square overflows or vanishes.
        widest = zero
        for i in range(n):
            widest = larger(widest, absolute(load(factors, i * width + at)))
        inverse = choose(tiny, widest, one / widest, zero)
        total, other = zero, zero
        for i in range(n):
            ratio = load(factors, i * width + at) * inverse
            total, other = other, fma(ratio, ratio, total)
        store(even, at, widest * simd.sqrt((total + other) * splat(dtype(1.0 / n))))
        for column in range(at, at + lanes):
            size = even[column]
            units[column] = even[column] = dtype(1)
            if 0 < size < np.inf:
                # Factors beyond these powers of two keep a part of their size, and the products are
                # then found out of range.
                exponent = min(max(math.frexp(size)[1], -LARGEST), LARGEST)
                units[column] = math.ldexp(1.0, exponent)
                even[column] = units[column] / size
        scale, evener, smallest = one / load(units, at), load(even, at), one
        for i in range(n):
            value = load(factors, i * width + at) * scale
            store(values, (vector * n + i) * lanes, value)
            size = absolute(value)
            # A column with NaN must not hide its neighbors' values.
            shares = choose(size, infinite, size * evener, infinite)
            reach[vector * n + i] = dtype(1.0001) * simd.largest(shares)
            smallest = smaller(smallest, choose(zero, size, size, one))
        store(least, at, smallest)
