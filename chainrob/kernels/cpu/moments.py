"""Moments of all coordinates by matrix products, a few output units at a time.

The sum over samples of (a_q b_p)^k is (a^k)^T (b^k): N * (Q + P) powers and one product, for all
coordinates at once. The factors are first scaled by powers of two, which rounds nothing, so that
their root mean square is near one in every column and no power overflows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import PIECE, prepare
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.simd import absolute, choose, fma, larger, load, smaller, splat, store
from chainrob.kernels.threads import share

CHUNK = 1 << 19
"""Coordinates whose sums are held at a time. Fewer would stay in the cache, but every matrix
product ends with all threads waiting for the last, which costs more where processors are shared.
"""

TRUST = {np.dtype(np.float32): 0.06, np.dtype(np.float64): 0.001}
"""The least variance over mean square at which the central moments still have their digits."""

LEAST = 1e-12
"""The least mean square of scaled values whose third power is still far from underflow."""


def estimate(
    kernel: Any, x: np.ndarray, gy: np.ndarray, factor: float, min_variance: float,
    scale: Any, floor: Any,
) -> np.ndarray:  # fmt: skip
    """Run a kernel on the sums of the first three powers: x (N, P) and gy (N, Q) to (1, Q, P)."""
    dtype = x.dtype.type
    n, n_inputs = x.shape
    n_outputs = gy.shape[1]
    lanes = simd.lanes(x.dtype)
    problem = prepare(x[None, :, None], gy[None, :, None])
    vectors = problem.sizes[3]
    b = powers(problem.x.reshape(n, -1))
    a = powers(prepare(gy[None, :, None], gy[None, :1, None, :1]).x.reshape(n, -1))
    # What the search for truncated values reads lies along the samples, padded to whole vectors.
    padded = -(-n // lanes) * lanes
    columns = np.zeros((n_outputs, padded), dtype)
    np.multiply(problem.gy.reshape(n_outputs, n), 1 / a.units[:n_outputs, None], out=columns[:, :n])
    # No sample lies in the padding: NaN exceeds nothing.
    reach = np.full((vectors, padded), np.nan, dtype)
    # Rounding must not hide a value that is truncated.
    np.multiply(b.reach, dtype(1.0001), out=reach[:, :n])
    least_x = b.least.reshape(-1, lanes).min(axis=1)
    floors = np.empty(0, dtype)
    if min_variance > 0:
        with np.errstate(over="ignore"):
            inverse = [unit.astype(np.float64) ** -2 for unit in (b.units, a.units)]
            floors = np.concatenate([min_variance * factor * inverse[0], inverse[1]]).astype(dtype)
    out, width = problem.out, b.values.shape[1]
    # Chunks of one size; the first sums lie where the estimates will.
    step = -(-n_outputs // max(1, -(-n_outputs * width // CHUNK)))
    estimates = out.reshape(n_outputs, width)
    sums = np.empty((2, step, width), dtype)
    for low in range(0, n_outputs, step):
        high = min(low + step, n_outputs)
        targets = estimates[low:high], sums[0, : high - low], sums[1, : high - low]
        for power, target in enumerate(targets):
            np.matmul(a[power][:, low:high].T, b[power], out=target)

        def work(start: int, stop: int, low: int = low, high: int = high) -> None:
            kernel(
                problem.x, problem.gy, out, problem.sizes, problem.shared, start, stop,
                out[low * width :], sums[0].ravel(), sums[1].ravel(), low, high,
                b.values.ravel(), columns.ravel(), b.units, a.units[:n_outputs],
                reach.ravel(), b.even,
                least_x, a.least, floors, dtype(factor), dtype(TRUST[x.dtype]), dtype(LEAST),
                scale, floor,
            )  # fmt: skip

        share(work, (high - low) * vectors, PIECE // lanes // 32)
    return np.ascontiguousarray(out.reshape(n_outputs, width)[None, :, :n_inputs])


class Powers(NamedTuple):
    """Scaled factors and their powers, (N, K) each, K columns padded to whole vectors."""

    values: np.ndarray
    squares: np.ndarray
    cubes: np.ndarray
    units: np.ndarray
    """(K,): the power of two by which a column was divided."""
    least: np.ndarray
    """(K,): the smallest magnitude in the column that is not zero, at most one."""
    even: np.ndarray
    """(K,): the inverse of what is left of a column's root mean square."""
    reach: np.ndarray
    """(vectors, N): the largest magnitude that a sample has in a vector of columns, each column in
    units of its root mean square."""


def powers(factors: np.ndarray) -> Powers:
    """Scale the columns of (N, K) factors and raise them to the second and third power."""
    n, width = factors.shape
    lanes = simd.lanes(factors.dtype)
    size = np.empty(width, factors.dtype)
    _root_mean_square(factors.ravel(), size, n)
    # Factors beyond these powers of two keep a part of their size, and the products are then found
    # out of range.
    exponent = np.clip(np.frexp(np.where(np.isfinite(size), size, 1))[1], -120, 120)
    units = np.ldexp(factors.dtype.type(1), exponent)
    even = np.where((size > 0) & np.isfinite(size), units, 1) / np.where(size > 0, size, 1)
    results = np.empty((3, n, width), factors.dtype)
    least = np.empty(width, factors.dtype)
    reach = np.empty((width // lanes, n), factors.dtype)
    _powers(factors.ravel(), 1 / units, even, results.ravel(), least, reach.ravel(), n)
    values, squares, cubes = results
    return Powers(values, squares, cubes, units, least, even, reach)


@Kernel
def _root_mean_square(factors: Any, size: Any, n: int) -> None:
    dtype = factors.dtype.type
    lanes = simd.LINE // factors.itemsize
    width = size.size
    zero, one, tiny = splat(dtype(0)), splat(dtype(1)), splat(np.finfo(dtype).tiny)
    for at in range(0, width, lanes):
        widest = zero
        for i in range(n):
            widest = larger(widest, absolute(load(factors, i * width + at)))
        inverse = choose(tiny, widest, one / widest, zero)
        even, odd = zero, zero
        for i in range(n):
            unit = load(factors, i * width + at) * inverse
            even, odd = odd, fma(unit, unit, even)
        store(size, at, widest * simd.sqrt((even + odd) * splat(dtype(1.0 / n))))


@Kernel
def _powers(
    factors: Any, inverse: Any, even: Any, results: Any, least: Any, reach: Any, n: int
) -> None:
    dtype = factors.dtype.type
    lanes = simd.LINE // factors.itemsize
    width = inverse.size
    zero, one = splat(dtype(0)), splat(dtype(1))
    for at in range(0, width, lanes):
        scale, evener = load(inverse, at), load(even, at)
        smallest = one
        for i in range(n):
            value = load(factors, i * width + at) * scale
            square = value * value
            store(results, i * width + at, value)
            store(results, (n + i) * width + at, square)
            store(results, (2 * n + i) * width + at, square * value)
            size = absolute(value)
            reach[at // lanes * n + i] = simd.largest(size * evener)
            smallest = smaller(smallest, choose(zero, size, size, one))
        store(least, at, smallest)
