"""Estimates of values so large that a sum of them overflows, although the estimate would not."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.column_kernels import ColumnKernels, column_kernels, solve
from chainrob.kernels.cpu.columns import fill, line
from chainrob.kernels.cpu.compiling import jit
from chainrob.kernels.cpu.row_squares import Watch, largest_magnitudes
from chainrob.kernels.cpu.simd import absolute, larger, load, splat


def with_headroom(
    kernels: ColumnKernels,
    x: np.ndarray,
    gy: np.ndarray,
    parameters: tuple[Any, ...] | Callable[[float], tuple[Any, ...]],
    watch: Watch | None,
) -> np.ndarray:
    """A scale-equivariant estimate of outer products, also where they are near the largest number.

    Coordinates that hold such a value are estimated from gy made smaller by a power of two, which
    rounds nothing there; all others from gy as it is, so that none loses digits to underflow. (The
    squares, of which the largest alone matter, are all found from the smaller gy then.)

    Args:
        kernels: the estimator's.
        x: inputs (Tx, N, S, P), float32 or float64.
        gy: output gradients (T, N, S, Q) of the same dtype.
        parameters: those of the estimator; with absolute thresholds, a function that gives them for
            values that have been multiplied by a number.
        watch: where the rows' squares are added up, if anybody asks.

    Returns:
        array (T, Q, P).
    """
    given = parameters(1.0) if callable(parameters) else parameters
    n, s = gy.shape[1:3]
    largest = float(np.finfo(x.dtype).max)
    limit = largest / (8 * n)
    size_x, size_gy = largest_magnitudes(x, gy)
    # NaN, where it may propagate, is no reason for care.
    if not float(size_x) * float(size_gy) * s > limit:
        return solve(kernels, x, gy, given, watch)
    exponent = ceil(log2(8 * n * s))
    with np.errstate(over="ignore", invalid="ignore"):
        plain = solve(kernels, x, gy, given)
        small, shrink = np.ldexp(gy, -exponent), 2.0**-exponent
        given = parameters(shrink) if callable(parameters) else parameters
        scaled = solve(kernels, x, small, given, watch and watch.shrunk(shrink))
        # An estimate lies between the values; rounding must not carry it beyond them.
        bound = np.ldexp(x.dtype.type(largest), -exponent)
        scaled = np.where(np.isfinite(scaled), np.clip(scaled, -bound, bound), scaled)
        near = solve(_largest, x, small, ()) > np.ldexp(x.dtype.type(limit), -exponent)
        return np.where(near, np.ldexp(scaled, exponent), plain)


@jit
def _estimate_largest(room: Any, source: Any, column: int, parameters: Any) -> Any:
    memory, base = room[0], room[1]
    lanes = simd.lanes(memory)
    fill(memory, base, source, column)
    widest = splat(memory.dtype.type(0))
    for i in range(source.sizes[0]):
        widest = larger(widest, absolute(load(memory, base + line(i) * lanes)))
    return widest, ()


_largest = column_kernels("largest_value", _estimate_largest)
