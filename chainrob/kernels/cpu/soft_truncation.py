"""Soft truncation of every coordinate; see ``robustifiers.SoftTruncation`` for the definition.

Two ways to the same numbers:

- *By columns*: all N values of some coordinates in a buffer, passed over four times.
- *By moments*: where no value of a coordinate is truncated the estimate is
  m - mu3 / (6 s^2), which three matrix products give for all coordinates at once. What a truncated
  value adds to that is put right value by value; candidates are found from a bound per block of
  inputs. Coordinates whose moments lose their digits (a mean large against the spread, or squares
  that underflow) are taken by columns.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from chainrob.kernels.cpu import moments, simd
from chainrob.kernels.cpu.columns import buffer, fill, line, sort, total
from chainrob.kernels.cpu.columns import solve as solve_columns
from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.network import MAX_ROWS, selection
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    keep_nan,
    larger,
    load,
    smaller,
    splat,
    store,
)

FEW = 1 << 18
"""N * Q * P up to which columns cost less than the calls of the matrix products."""

BATCH = 64
"""Columns whose truncated values are searched for at a time."""

MAD_TO_SIGMA = 1.482602218505602


def soft_truncation(
    x: np.ndarray, gy: np.ndarray, delta: float, pilot: str, min_variance: float
) -> np.ndarray | None:
    """The estimate (T, Q, P) from x (Tx, N, S, P) and gy (T, N, S, Q)."""
    n = gy.shape[1]
    dtype = x.dtype.type
    # s^2 = factor * sigma^2
    factor = n / (2.0 * log(1.0 / delta))
    if pilot == "median":
        if n > MAX_ROWS:
            return None
        low = (n - 1) // 2
        program = selection(n, low, n - low)
        scale, floor = dtype(MAD_TO_SIGMA * factor**0.5), dtype((min_variance * factor) ** 0.5)
        return solve_columns(_median_pilot, x, gy, *program, low, scale, floor)
    scale, floor = dtype((factor / max(n - 1, 1)) ** 0.5), dtype((min_variance * factor) ** 0.5)
    if gy.shape[2] > 1 or gy.shape[0] > 1 or n < 16 or gy.size * x.shape[-1] <= FEW:
        return solve_columns(_mean_pilot, x, gy, scale, floor)
    return moments.estimate(_moments, x[0, :, 0], gy[0, :, 0], factor, min_variance, scale, floor)


@jit
def truncated_mean(memory: Any, base: int, n: int, center: Any, scale: Any) -> Any:
    """center + scale * mean(psi((value - center) / scale)); the center where scale is 0."""
    dtype = memory.dtype.type
    lanes = simd.LINE // memory.itemsize
    zero, one = splat(dtype(0)), splat(dtype(1))
    inverse = choose(zero, scale, one / scale, zero)
    bound, sixth = splat(dtype(2.0**0.5)), splat(dtype(-1.0 / 6.0))
    even, odd = zero, zero
    for i in range(n):
        unit = (load(memory, base + line(i) * lanes) - center) * inverse
        unit = larger(smaller(unit, bound), zero - bound)
        even, odd = odd, even + unit * fma(unit * unit, sixth, one)
    return fma(scale, (even + odd) * splat(dtype(1.0 / n)), center)


@jit
def mean_pilot(memory: Any, base: int, n: int, scale: Any, floor: Any) -> Any:
    """The estimate of a column with mean and variance as pilot.

    Deviations are taken from the first row before they are added up, and scaled by the largest
    before they are squared: neither a large common mean nor huge values then cost digits.

    Args:
        scale, floor: s^2 = max(scale^2 * sum of squared deviations, floor^2).
    """
    dtype = memory.dtype.type
    lanes = simd.LINE // memory.itemsize
    zero, one = splat(dtype(0)), splat(dtype(1))
    first = load(memory, base)
    even, odd = zero, zero
    for i in range(n):
        even, odd = odd, even + (load(memory, base + line(i) * lanes) - first)
    center = fma(even + odd, splat(dtype(1.0 / n)), first)
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
    return truncated_mean(memory, base, n, center, larger(spread, splat(floor)))


@Kernel
def _mean_pilot(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    scale: Any, floor: Any,
) -> None:  # fmt: skip
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    for column in range(start, stop):
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        estimate = mean_pilot(memory, base, n, scale, floor)
        store(out, column * lanes, keep_nan(estimate, doubt))


@Kernel
def _median_pilot(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, low: int, scale: Any, floor: Any,
) -> None:  # fmt: skip
    n = sizes[0]
    dtype = x.dtype.type
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    deviations, at = buffer(x, n)
    share = splat(dtype(1.0 / (n - 2 * low)))
    for column in range(start, stop):
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        sort(memory, base, n, groups, pairs, stages)
        center = total(memory, base, low, n - low) * share
        for i in range(n):
            value = load(memory, base + line(i) * lanes)
            store(deviations, at + line(i) * lanes, absolute(value - center))
        sort(deviations, at, n, groups, pairs, stages)
        spread = total(deviations, at, low, n - low) * share * splat(scale)
        spread = larger(spread, splat(floor))
        estimate = truncated_mean(memory, base, n, center, spread)
        store(out, column * lanes, keep_nan(estimate, doubt))


@Kernel
def _moments(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    means: Any, squares: Any, cubes: Any, q_low: int, q_high: int,
    b: Any, columns: Any, units_x: Any, units_gy: Any, reach: Any, even: Any,
    least_x: Any, least_gy: Any, floors: Any, factor: Any, trust: Any, least: Any,
    scale: Any, floor: Any,
) -> None:  # fmt: skip
    """From the sums of a b, a^2 b^2 and a^3 b^3 over the samples to the estimate.

    The names are those of ``moments.estimate``. Columns of the units q_low to q_high - 1 are
    numbered with the units fastest: the inputs of one vector, which the search for truncated values
    reads here and there, then stay in the first-level cache. They are taken ``BATCH`` at a time:
    the processor cannot guess where a value is truncated, so these places are collected first,
    without a branch, and put right afterwards.
    """
    n, _, _, vectors = sizes
    dtype = x.dtype.type
    lanes = simd.LINE // x.itemsize
    width = vectors * lanes
    padded = columns.size // units_gy.size
    groups = padded // lanes
    memory, base = buffer(x, n)
    zero, one, infinite = splat(dtype(0)), splat(dtype(1)), splat(dtype(np.inf))
    two, three = splat(dtype(2)), splat(dtype(3))
    share = splat(dtype(1.0 / n))
    unbiased = splat(dtype(factor * n / (n - 1)))
    m_of, threshold_of = np.empty(BATCH * lanes, x.dtype), np.empty(BATCH * lanes, x.dtype)
    sixth_of, extra_of = np.empty(BATCH * lanes, x.dtype), np.empty(BATCH * lanes, x.dtype)
    unit_of, vector_of = np.empty(BATCH, np.int64), np.empty(BATCH, np.int64)
    # A place is a column of the batch, a group of samples, and a bit for each of its samples.
    column_at = np.empty(BATCH * groups + 1, np.int64)
    group_at = np.empty(BATCH * groups + 1, np.int64)
    bits_at = np.empty(BATCH * groups + 1, np.int64)
    for first in range(start, stop, BATCH):
        size, n_places = 0, 0
        for number in range(first, min(first + BATCH, stop)):
            unit, vector = q_low + number % (q_high - q_low), number // (q_high - q_low)
            column = unit * vectors + vector
            at = (unit - q_low) * width + vector * lanes
            m = load(means, at) * share
            e2 = load(squares, at) * share
            e3 = load(cubes, at) * share
            variance = e2 - m * m
            # Without underflow a sum of squares that is zero means that all values are zero.
            empty = zero if least_gy[unit] * least_x[vector] > least else zero - one
            fine = choose(e2 * splat(trust), variance, one, zero)  # zero where NaN
            fine = choose(splat(least), e2, fine, zero)
            fine = choose(e2, infinite, fine, zero)
            fine = choose(empty, e2, fine, one)
            if not simd.smallest(fine) > 0:
                doubt = fill(memory, base, x, gy, sizes, shared, column)
                estimate = mean_pilot(memory, base, n, scale, floor)
                store(out, column * lanes, keep_nan(estimate, doubt))
                continue
            s2 = variance * unbiased
            if floors.size:
                s2 = larger(s2, load(floors, vector * lanes) * splat(floors[width + unit]))
            s2 = choose(zero, e2, s2, infinite)
            threshold = simd.sqrt(two * s2)
            sixth = zero - one / (s2 * splat(dtype(6)))
            extra = (e3 - m * (three * e2 - two * m * m)) * splat(dtype(n)) * sixth
            store(m_of, size * lanes, m)
            store(threshold_of, size * lanes, threshold)
            store(sixth_of, size * lanes, sixth)
            store(extra_of, size * lanes, extra)
            unit_of[size], vector_of[size] = unit, vector
            # |a_i b_i - m| exceeds the threshold in no lane unless |a_i| max |b_i| does its least,
            # in units in which the b of all lanes are of one size.
            limit = (threshold - absolute(m)) * load(even, vector * lanes)
            limit = splat(simd.smallest(limit))
            for group in range(groups):
                a = absolute(load(columns, unit * padded + group * lanes))
                bits = simd.exceeding(a * load(reach, vector * padded + group * lanes), limit)
                column_at[n_places], group_at[n_places], bits_at[n_places] = size, group, bits
                n_places += bits != 0
            size += 1
        for place in range(n_places):
            k, group, bits = column_at[place], group_at[place], bits_at[place]
            unit, vector = unit_of[k], vector_of[k]
            m, threshold = load(m_of, k * lanes), load(threshold_of, k * lanes)
            sixth, extra = load(sixth_of, k * lanes), load(extra_of, k * lanes)
            while bits:
                i = group * lanes + simd.lowest_bit(bits)
                bits &= bits - 1
                d = splat(columns[unit * padded + i]) * load(b, i * width + vector * lanes) - m
                v = larger(smaller(d, threshold), zero - threshold)
                extra = extra + (fma(v * v * v, sixth, v) - fma(d * d * d, sixth, d))
            store(extra_of, k * lanes, extra)
        for k in range(size):
            estimate = fma(load(extra_of, k * lanes), share, load(m_of, k * lanes))
            back = splat(units_gy[unit_of[k]]) * load(units_x, vector_of[k] * lanes)
            column = unit_of[k] * vectors + vector_of[k]
            store(out, column * lanes, estimate * back)
