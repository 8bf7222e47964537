"""Soft truncation of every coordinate from the sums of the first three powers of its values.

See ``soft_truncation``, whose way through columns is taken where the moments lose their digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.column_kernels import PIECE
from chainrob.kernels.cpu.columns import Source, buffer, line, padded
from chainrob.kernels.cpu.compiling import Kernel, lean
from chainrob.kernels.cpu.row_squares import (
    FLUSH,
    Watch,
    flush,
    magnitudes,
    two_sweeps,
    vector_sums,
    watched_pieces,
)
from chainrob.kernels.cpu.scaled_factors import WORD, scaled
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    keep_nan,
    larger,
    load,
    repeated,
    smaller,
    splat,
    store,
)
from chainrob.kernels.cpu.truncated_column import about_pilot, checked, mean_pilot, psi_over_u
from chainrob.kernels.threads import share

BATCH = 8
"""Pairs of units whose truncated values are put right together."""

GROUP = 4
"""Columns of a batch whose squares are formed together: their constants fit into registers."""

BLOCK = 256
"""Samples whose powers are added up before they join the sums of the blocks before, so that
rounding does not grow with N."""

TRUST = {np.dtype(np.float32): 0.06, np.dtype(np.float64): 0.001}
"""The least variance over mean square at which the central moments still have their digits."""

LEAST = 1e-12
"""The least mean square of scaled values whose third power is still far from underflow."""


def by_moments(
    x: np.ndarray, gy: np.ndarray, factor: float, min_variance: float, scale: Any, floor: Any,
    overflow: np.ndarray, watch: Watch | None,
) -> np.ndarray:  # fmt: skip
    """The estimate (1, Q, P) from x (N, P) and gy (N, Q)."""
    dtype, lanes = x.dtype.type, simd.lanes(x.dtype)
    n, n_inputs = x.shape
    n_outputs = gy.shape[1]
    x = padded(x, lanes)
    b, a = scaled(x), scaled(padded(gy, lanes))
    # One unit's factors lie along the samples.
    columns = padded(a.values.swapaxes(1, 2), WORD)
    out = np.empty((1, n_outputs, x.shape[1]), x.dtype)
    sizes = n, n_outputs, x.shape[1] // lanes
    floors = np.empty(0, dtype)
    if min_variance > 0:
        with np.errstate(over="ignore"):
            root = (min_variance * factor) ** 0.5 / b.units.astype(np.float64)
            floors = np.concatenate([root, 1 / a.units]).astype(dtype)
    least_x = b.least.reshape(-1, lanes).min(axis=1)
    batches = -(-n_outputs // (2 * BATCH))
    grain = max(1, 4 * PIECE // (BATCH * n * lanes))
    none = np.empty(0, dtype)
    squares = Squares(dtype(1), none, none, none)
    if watch is not None:
        # The units of both factors, and what deviations are multiplied by, in two parts neither of
        # which leaves the dtype's range.
        of_x, _ = magnitudes(x, x)
        of_gy = dtype(watch.scale * 2.0**of_x)
        weighted = np.zeros((len(a.units) + 1, columns.shape[-1]), dtype)  # one more unit: of zeros
        weighted[:-1] = columns.reshape(-1, columns.shape[-1]) * (a.units * of_gy)[:, None]
        squares = Squares(
            dtype(watch.scale), weighted.ravel(), np.ldexp(b.units, -of_x), a.units * of_gy
        )

    def work(start: int, stop: int, sums: np.ndarray) -> None:
        _mean_pilot_by_moments(
            x.ravel(), columns.ravel(), out.ravel(), sizes, start, stop,
            b.values.ravel(), b.units, a.units, b.reach.ravel(), b.even, least_x, a.least,
            floors, dtype(factor), dtype(TRUST[x.dtype]), dtype(LEAST), scale, floor, overflow,
            squares, sums,
        )  # fmt: skip

    if watch is None:
        unseen = np.empty((2, 0))
        share(lambda start, stop: work(start, stop, unseen), batches * sizes[2], grain)
    else:
        watch.sums[...] += watched_pieces(work, 1, batches * sizes[2], n, grain)
    return np.ascontiguousarray(out[..., :n_inputs])


class Squares(NamedTuple):
    """What the rows' squares are made from; arrays are flat, and empty where nobody asks."""

    scale: Any
    """What deviations are multiplied by before they are squared."""
    a: np.ndarray
    """(Q' + 1, N'): the units' factors, times the second part of ``scale``; zeros at the end."""
    units_x: np.ndarray
    """(P',): the units of x times the first part of ``scale``."""
    units_gy: np.ndarray
    """(Q',): the units of gy times the second part of it."""


_sweep = two_sweeps(psi_over_u, False, filled=True)


@Kernel
def _mean_pilot_by_moments(
    x: Any, a: Any, out: Any, sizes: Any, start: int, stop: int,
    b: Any, units_x: Any, units_gy: Any, reach: Any, even: Any, least_x: Any, least_gy: Any,
    floors: Any, factor: Any, trust: Any, least: Any, scale: Any, floor: Any, overflow: Any,
    squares: Any, into: Any,
) -> None:  # fmt: skip
    """The names are those of ``_by_moments``; squares go to ``into``, (2, N) or (2, 0).

    Units go in pairs, so that additions need not wait for one another, and ``BATCH`` pairs meet one
    vector of inputs while that is in the first-level cache; then comes the next vector, whose
    estimates lie beside theirs. The processor cannot guess where a value is truncated, so these
    places are collected, without a branch, and put right when the batch is done.
    """
    n, n_outputs, n_vectors = sizes
    dtype = x.dtype.type
    lanes = simd.LINE // x.itemsize
    pairs = (n_outputs + 1) // 2
    padded = reach.size // n_vectors
    memory, base = buffer(x, n)
    spare, at_spare = buffer(x, n)
    room, source = (memory, base, spare, at_spare), Source(x, a, (n, 1, 1, 1, 0, 0), True)
    watched = into.size > 0
    # The rows' squares: those let in and all, of columns; those cut and all, of batches.
    rows, cut = vector_sums(x, n if watched else 0), vector_sums(x, n if watched else 0)
    cut_sums = np.zeros((2, n if watched else 0))
    # Truncated values: where they are, and what they take from the weights.
    length = 2 * BATCH * n if watched else 0
    column_far, row_far = np.empty(length, np.int64), np.empty(length, np.int64)
    less_at = np.empty(length * lanes, x.dtype)
    length = 2 * BATCH * lanes if watched else 0
    work = (
        np.empty(2 * BATCH, np.int64), np.empty(length, x.dtype), np.empty(length, x.dtype),
        np.empty(length, x.dtype),
    )  # fmt: skip
    n_swept, n_batches = 0, 0
    sums = np.empty(6 * lanes, x.dtype)
    zero, one, infinite = splat(dtype(0)), splat(dtype(1)), splat(dtype(np.inf))
    two, three = splat(dtype(2)), splat(dtype(3))
    every = (1 << lanes) - 1
    count, share = splat(dtype(n)), splat(dtype(1.0 / n))
    unbiased = splat(dtype(factor * n / (n - 1)))
    m_of, threshold_of = np.empty(2 * BATCH * lanes, x.dtype), np.empty(2 * BATCH * lanes, x.dtype)
    sixth_of, extra_of = np.empty(2 * BATCH * lanes, x.dtype), np.empty(2 * BATCH * lanes, x.dtype)
    weight_of = np.empty(2 * BATCH * lanes, x.dtype)
    unit_of = np.empty(2 * BATCH, np.int64)
    # A place is a column of the batch, a run of WORD samples, and a bit for each of them.
    column_at = np.empty(2 * BATCH * (padded // WORD) + 1, np.int64)
    low_at, bits_at = np.empty_like(column_at), np.empty_like(column_at)
    for number in range(start, stop):
        vector, first = number % n_vectors, number // n_vectors * BATCH
        n_columns, n_places, n_far = 0, 0, 0
        for pair in range(first, min(first + BATCH, pairs)):
            _power_sums(b, a, vector * n * lanes, 2 * pair * padded, n, padded, sums)
            for unit in range(2 * pair, min(2 * pair + 2, n_outputs)):
                at = (unit - 2 * pair) * 3 * lanes
                m = load(sums, at) * share
                e2 = load(sums, at + lanes) * share
                e3 = load(sums, at + 2 * lanes) * share
                variance = e2 - m * m
                # A bit a lane. Without underflow a sum of squares that is zero means that all
                # values are; NaN stays what it is.
                empty = zero if least_gy[unit] * least_x[vector] > least else zero - one
                fine = simd.exceeding(variance, e2 * splat(trust))
                fine &= simd.exceeding(e2, splat(least)) & simd.exceeding(infinite, e2)
                fine |= ~simd.exceeding(e2, empty)
                if ~fine & every:
                    nan_flag = _fill(
                        memory, base, x, a, units_gy[unit], n, vector * lanes, unit * padded
                    )
                    estimate, center, spread = mean_pilot(memory, base, n, scale, floor)
                    estimate = checked(memory, estimate, nan_flag, overflow)
                    store(out, (unit * n_vectors + vector) * lanes, estimate)
                    if watched:
                        facts = about_pilot(room, n, (center, spread), 0)
                        _sweep(room, source, 0, facts, 0, splat(squares.scale), rows)
                        n_swept += 1
                        if n_swept % FLUSH == 0:
                            flush(rows, into)
                    continue
                s2 = variance * unbiased
                if floors.size:
                    root = load(floors, vector * lanes) * splat(floors[units_x.size + unit])
                    s2 = larger(s2, root * root)
                s2 = choose(zero, e2, s2, infinite)
                threshold = simd.sqrt(two * s2)
                sixth = zero - one / (s2 * splat(dtype(6)))
                k = n_columns * lanes
                store(m_of, k, m)
                store(threshold_of, k, threshold)
                store(sixth_of, k, sixth)
                store(extra_of, k, (e3 - m * (three * e2 - two * m * m)) * count * sixth)
                store(weight_of, k, fma(variance * count, sixth, count))
                # |a_i b_i - m| exceeds the threshold in no lane unless |a_i| max |b_i| does its
                # least, in units in which the b of all lanes are of one size.
                limit = (threshold - absolute(m)) * load(even, vector * lanes)
                limit = splat(simd.smallest(limit))
                for low in range(0, padded, WORD):
                    bits = 0
                    for i in range(0, WORD, lanes):
                        size = absolute(load(a, unit * padded + low + i))
                        product = size * load(reach, vector * padded + low + i)
                        bits |= simd.exceeding(product, limit) << i
                    column_at[n_places], low_at[n_places] = n_columns, low
                    bits_at[n_places] = bits
                    n_places += bits != 0
                unit_of[n_columns] = unit
                n_columns += 1
        for place in range(n_places):
            k, bits = column_at[place] * lanes, bits_at[place]
            unit = unit_of[column_at[place]]
            m, threshold = load(m_of, k), load(threshold_of, k)
            sixth, extra = load(sixth_of, k), load(extra_of, k)
            while bits:
                i = low_at[place] + simd.lowest_bit(bits)
                bits &= bits - 1
                d = splat(a[unit * padded + i]) * load(b, (vector * n + i) * lanes) - m
                v = larger(smaller(d, threshold), zero - threshold)
                extra = extra + (fma(v * v * v, sixth, v) - fma(d * d * d, sixth, d))
                if watched and simd.exceeding(absolute(d), threshold):
                    # psi(u) / u less the 1 - u^2 / 6 that it is of values that are not truncated.
                    less = v * fma(v * v, sixth, one) / d - fma(d * d, sixth, one)
                    less = choose(threshold, absolute(d), less, zero)
                    store(weight_of, k, load(weight_of, k) + less)
                    store(less_at, n_far * lanes, less)
                    column_far[n_far], row_far[n_far] = column_at[place], i
                    n_far += 1
            store(extra_of, k, extra)
        for column in range(n_columns):
            estimate = fma(load(extra_of, column * lanes), share, load(m_of, column * lanes))
            unit = unit_of[column]
            back = splat(units_gy[unit]) * load(units_x, vector * lanes)
            store(out, (unit * n_vectors + vector) * lanes, estimate * back)
        if watched:
            far = n_far, column_far, row_far, less_at
            facts_of = m_of, sixth_of, extra_of, weight_of
            here = vector, n, padded, n_columns
            _batch_squares(b, squares, here, far, unit_of, facts_of, work, cut)
            n_batches += 1
            if n_batches % 8 == 0:
                flush(cut, cut_sums)
    if watched:
        flush(rows, into)
        flush(cut, cut_sums)
        for i in range(n):
            into[0, i] += max(cut_sums[1, i] - cut_sums[0, i], 0.0)
            into[1, i] += cut_sums[1, i]


@lean
def _batch_squares(
    b: Any, squares: Any, here: Any, far: Any, unit_of: Any, facts: Any, work: Any, cut: Any
) -> None:
    """Add the rows' squares, those that the weights cut off and all, of the columns of a batch.

    With d the deviation from the mean, the weight is 1 - d^2 / (6 s^2) unless d is truncated, and
    places of truncated values are put right as they are for the estimate.
    """
    vector, n, padded, n_columns = here
    n_far, column_far, row_far, less_at = far
    at_a, mean_of, turn_of, bend_of = work
    m_of, sixth_of, extra_of, weight_of = facts
    dtype = b.dtype.type
    lanes = simd.LINE // b.itemsize
    zero = splat(dtype(0))
    # Beyond the last column: a unit of zeros, which adds none.
    end = -(-n_columns // GROUP) * GROUP
    units_x = load(squares.units_x, vector * lanes)
    for column in range(end):
        k = column * lanes
        if column >= n_columns:
            at_a[column] = squares.a.size - padded
            store(mean_of, k, zero)
            store(bend_of, k, zero)
            store(turn_of, k, zero)
        else:
            unit = unit_of[column]
            at_a[column] = unit * padded
            scale = units_x * splat(squares.units_gy[unit])
            shift = load(extra_of, k) / load(weight_of, k)
            bend = simd.sqrt(zero - load(sixth_of, k))
            store(mean_of, k, (load(m_of, k) + shift) * scale)
            # sqrt(d^2 / (6 s^2)) from the scaled deviation from the weighted mean.
            store(bend_of, k, choose(zero, scale, bend / scale, zero))
            store(turn_of, k, bend * shift)
    for low in range(0, n, WORD):  # rows whose sums stay in the first-level cache
        for first in range(0, end, GROUP):
            a0, a1, a2, a3 = at_a[first], at_a[first + 1], at_a[first + 2], at_a[first + 3]
            k0 = first * lanes
            k1, k2, k3 = k0 + lanes, k0 + 2 * lanes, k0 + 3 * lanes
            m0, m1 = zero - load(mean_of, k0), zero - load(mean_of, k1)
            m2, m3 = zero - load(mean_of, k2), zero - load(mean_of, k3)
            t0, t1 = load(turn_of, k0), load(turn_of, k1)
            t2, t3 = load(turn_of, k2), load(turn_of, k3)
            r0, r1 = load(bend_of, k0), load(bend_of, k1)
            r2, r3 = load(bend_of, k2), load(bend_of, k3)
            for i in range(low, min(low + WORD, n)):
                inputs = load(b, (vector * n + i) * lanes) * units_x
                d0 = fma(repeated(squares.a, a0 + i), inputs, m0)
                d1 = fma(repeated(squares.a, a1 + i), inputs, m1)
                d2 = fma(repeated(squares.a, a2 + i), inputs, m2)
                d3 = fma(repeated(squares.a, a3 + i), inputs, m3)
                z0, z1 = d0 * fma(r0, d0, t0), d1 * fma(r1, d1, t1)
                z2, z3 = d2 * fma(r2, d2, t2), d3 * fma(r3, d3, t3)
                at = 2 * i * lanes
                even = fma(z0, z0, fma(z1, z1, load(cut, at)))
                store(cut, at, fma(z2, z2, z3 * z3) + even)
                even = fma(d0, d0, fma(d1, d1, load(cut, at + lanes)))
                store(cut, at + lanes, fma(d2, d2, d3 * d3) + even)
    for place in range(n_far):
        column, i = column_far[place], row_far[place]
        inputs = load(b, (vector * n + i) * lanes) * units_x
        d = fma(repeated(squares.a, at_a[column] + i), inputs, zero - load(mean_of, column * lanes))
        less = load(less_at, place * lanes)
        at = 2 * i * lanes
        store(cut, at, load(cut, at) - less * d * d)


@lean
def _fill(memory: Any, base: int, x: Any, a: Any, unit: Any, n: int, at_x: int, at_a: int) -> Any:
    """As ``columns.fill``, from scaled factors of an output unit: powers of two lose nothing."""
    lanes = simd.LINE // x.itemsize
    width = x.size // n
    nan_flag = splat(x.dtype.type(0))
    for i in range(n):
        value = splat(a[at_a + i] * unit) * load(x, at_x + i * width)
        store(memory, base + line(i) * lanes, value)
        nan_flag = keep_nan(nan_flag, value)
    return nan_flag


@lean
def _power_sums(b: Any, a: Any, at_b: int, at_a: int, n: int, padded: int, sums: Any) -> None:
    """Sums of u, u^2 and u^3 over the samples, u = a b, for two neighboring units: six vectors."""
    lanes = simd.LINE // b.itemsize
    zero = splat(b.dtype.type(0))
    for k in range(6):
        store(sums, k * lanes, zero)
    for low in range(0, n, BLOCK):
        first, second, third = zero, zero, zero
        next_first, next_second, next_third = zero, zero, zero
        for i in range(low, min(low + BLOCK, n)):
            inputs = load(b, at_b + i * lanes)
            u = repeated(a, at_a + i) * inputs
            v = repeated(a, at_a + padded + i) * inputs
            square, next_square = u * u, v * v
            first, next_first = first + u, next_first + v
            second, next_second = second + square, next_second + next_square
            third, next_third = fma(square, u, third), fma(next_square, v, next_third)
        store(sums, 0, load(sums, 0) + first)
        store(sums, lanes, load(sums, lanes) + second)
        store(sums, 2 * lanes, load(sums, 2 * lanes) + third)
        store(sums, 3 * lanes, load(sums, 3 * lanes) + next_first)
        store(sums, 4 * lanes, load(sums, 4 * lanes) + next_second)
        store(sums, 5 * lanes, load(sums, 5 * lanes) + next_third)
