"""Soft truncation of every coordinate from the sums of the first three powers of its values.

The sum over samples of (a_q b_p)^k is (a^k)^T (b^k): three matrix products for all coordinates, and
one kernel that puts right what truncated values change (moments.cu). The factors are first divided
by powers of two, which rounds nothing, so that the largest of every column lies between 1/2 and 1
and no power overflows.

What it costs has been counted, not measured: in instructions for each of the N Q P values, of which
a matrix product takes one. A stock layer's forward and backward pass are three products. With this
way there are five; the kernel's 150 to 250 instructions a coordinate are 0.2 a value at N = 1024,
for the search compares once for TILE_Q * TILE_P = 256 values; and the powers are some 20 passes
over N (Q + P) numbers. So a layer 4096 -> 4096 with N = 1024 comes to about twice the stock layer,
more where so many values are truncated that most samples are looked at. The kernel that takes all
values has four products and, by its intermediate code, about ten instructions a value: four to five
times.
"""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.gpu.loading import launch

Array = Any

TRUST = {np.dtype(np.float32): 0.06, np.dtype(np.float64): 0.001}
"""The least variance over mean square at which the central moments still have their digits."""

MANY = 1 << 30
"""N * Q * P from which the kernels of the powers and matrix products are worth their launches."""

RARE = 64.0
"""N / log(1 / delta) from which truncated values are rare: the threshold lies at the root of that
many standard deviations. Where they are not, looking for them takes longer than taking all."""

EDGE = 16
"""Side of the square of coordinates that a block has, TILE_P and TILE_Q of values.cuh."""


def pays(n: int, n_outputs: int, n_inputs: int, delta: float) -> bool:
    """Whether this way is the faster one (counted, not measured).

    With few outputs or inputs, as in rows that are given as an array, the powers of the factors
    would be as many numbers as the values.
    """
    is_large = n * n_outputs * n_inputs >= MANY and min(n_outputs, n_inputs) >= EDGE
    return is_large and n >= RARE * log(1.0 / delta)


def soft_truncation(x: Array, gy: Array, delta: float, min_variance: float) -> Array:
    """The estimate (Q, P) about the mean from contiguous x (N, P) and gy (N, Q)."""
    import cupy

    scalar = x.dtype.type
    (n, n_inputs), n_outputs = x.shape, gy.shape[1]
    a, b = with_powers(gy), with_powers(x)
    sums = tuple(cupy.matmul(a[k].T, b[k]) for k in range(3))
    out = cupy.empty((n_outputs, n_inputs), x.dtype)
    factor = n / (2.0 * log(1.0 / delta))
    launch(
        "moments",
        f"soft_truncation_moments_{x.dtype.name}",
        (-(-n_inputs // EDGE), -(-n_outputs // EDGE), 1),
        (EDGE, EDGE),
        (
            b.values, a.values, *sums,
            b.even, b.least, b.reach, b.exponents,
            a.even, a.least, a.reach, a.exponents,
            out, np.int32(n), np.int32(n_inputs), np.int32(n_outputs),
            scalar(factor), scalar(min_variance), scalar(TRUST[x.dtype]),
        ),
    )  # fmt: skip
    return out


class Powers(NamedTuple):
    """Factors (N, K), each column divided by a power of two, with their powers."""

    values: Array
    squares: Array
    cubes: Array
    exponents: Array
    """(K,) int32: the columns were divided by 2^exponents."""
    even: Array
    """(K,): the inverse of a column's root mean square; 1 where it is 0."""
    least: Array
    """(K,): the smallest magnitude in the column that is not zero, 1 where all are."""
    reach: Array
    """(blocks, N): the largest magnitude that a sample has in a block of columns, each column in
    units of its root mean square."""


def with_powers(factors: Array) -> Powers:
    """Scale the columns of (N, K) factors and raise them to the second and third power."""
    import cupy

    n, width = factors.shape
    one = factors.dtype.type(1)
    widest = cupy.abs(factors).max(axis=0)
    exponents = cupy.frexp(cupy.where(cupy.isfinite(widest), widest, one))[1]
    values = cupy.ldexp(factors, -exponents)
    squares = cupy.square(values)
    mean_square = squares.mean(axis=0)
    even = one / cupy.sqrt(cupy.where(mean_square > 0, mean_square, one))
    sizes = cupy.abs(values)
    least = cupy.where(sizes > 0, sizes, one).min(axis=0)
    blocks = -(-width // EDGE)
    padded = cupy.zeros((n, blocks * EDGE), factors.dtype)
    padded[:, :width] = sizes * even
    reach = cupy.ascontiguousarray(padded.reshape(n, blocks, EDGE).max(axis=-1).T)
    return Powers(values, squares, squares * values, exponents, even, least, reach)
