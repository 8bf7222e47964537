"""Soft truncation of a column in a buffer: what both ways to it share."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import line, mean
from chainrob.kernels.cpu.compiling import inlined, lean
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    keep_nan,
    larger,
    load,
    smaller,
    splat,
)


@inlined
def psi_ratio(u: Any, sixth: Any, one: Any) -> Any:
    """psi(u) / u where nothing is truncated, 1 - u^2 / 6.

    Args:
        sixth: -1 / 6, or -1 / (6 s^2) where u is not in units of s.
    """
    return fma(u * u, sixth, one)


@inlined
def psi(v: Any, sixth: Any) -> Any:
    """What a value v that is not truncated adds to the estimate: s psi of v / s.

    It ends in a sum, not in a product that the compiler could join with one elsewhere: a kernel
    gives the same bits whatever else it computes.
    """
    return fma(v * v * v, sixth, v)


@lean
def truncated_mean(memory: Any, base: int, n: int, center: Any, scale: Any) -> Any:
    """center + scale * mean(psi((value - center) / scale)); the center where scale is 0."""
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one = splat(dtype(0)), splat(dtype(1))
    inverse = choose(zero, scale, one / scale, zero)
    bound, sixth = scale * splat(dtype(2.0**0.5)), splat(dtype(-1.0 / 6.0))
    even, odd = zero, zero
    for i in range(n):
        clipped = load(memory, base + line(i) * lanes) - center
        clipped = larger(smaller(clipped, bound), zero - bound)
        unit = clipped * inverse
        even, odd = odd, fma(clipped, psi_ratio(unit, sixth, one), even)
    return fma(even + odd, splat(dtype(1.0 / n)), center)


@lean
def mean_pilot(memory: Any, base: int, n: int, scale: Any, floor: Any) -> Any:
    """The estimate of a column with mean and variance as pilot, the pilot's center and s.

    Deviations are scaled by the largest before they are squared: huge values then cost no digits.

    Args:
        scale, floor: s^2 = max(scale^2 * sum of squared deviations, floor^2).
    """
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one = splat(dtype(0)), splat(dtype(1))
    center = mean(memory, base, n)
    widest = zero
    for i in range(n):
        widest = larger(widest, absolute(load(memory, base + line(i) * lanes) - center))
    tiny = splat(np.finfo(dtype).tiny)
    inverse = choose(tiny, widest, one / widest, zero)
    even, odd = zero, zero
    for i in range(n):
        deviation = (load(memory, base + line(i) * lanes) - center) * inverse
        even, odd = odd, fma(deviation, deviation, even)
    spread = simd.sqrt(even + odd) * widest * splat(scale)
    spread = larger(spread, splat(floor))
    return truncated_mean(memory, base, n, center, spread), center, spread


@lean
def checked(memory: Any, estimate: Any, nan_flag: Any, overflow: Any) -> Any:
    """An estimate; says so where sums of the values do not fit into the dtype."""
    dtype = memory.dtype.type
    zero, one, infinite = splat(dtype(0)), splat(dtype(1)), splat(dtype(np.inf))
    lost = choose(absolute(estimate), infinite, zero, one)  # one where NaN
    if simd.largest(choose(nan_flag, one, lost, zero)) > 0:
        overflow[0] = 1
    return keep_nan(estimate, nan_flag)


@lean
def about_pilot(room: Any, n: int, found: Any, parameters: Any) -> Any:
    center, spread = found
    dtype = room[0].dtype.type
    zero, one = splat(dtype(0)), splat(dtype(1))
    inverse = choose(zero, spread, one / spread, zero)
    return center, inverse, spread * splat(dtype(2.0**0.5)), splat(dtype(-1.0 / 6.0)), one


@inlined
def psi_over_u(value: Any, facts: Any, parameters: Any) -> Any:
    """psi(u) / u, 1 at 0."""
    center, inverse, bound, sixth, one = facts
    size = absolute(value - center)
    unit = smaller(size, bound) * inverse
    weight = psi_ratio(unit, sixth, one)
    if simd.exceeding(size, bound):
        weight = weight * choose(bound, size, bound / size, one)
    return weight
