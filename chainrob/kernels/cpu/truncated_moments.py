"""Soft truncation of every coordinate from the sums of the first three powers of its values.

See ``soft_truncation``, whose way through columns is taken where the moments lose their digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.column_kernels import PIECE
from chainrob.kernels.cpu.columns import Source, aligned, buffer, line, padded
from chainrob.kernels.cpu.compiling import Kernel, lean
from chainrob.kernels.cpu.power_sums import POWERS, power_sums, powers_of_batch
from chainrob.kernels.cpu.row_squares import (
    FLUSH,
    Watch,
    flush,
    magnitudes,
    two_sweeps,
    vector_sums,
    watched_pieces,
)
from chainrob.kernels.cpu.scaled_factors import scaled
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    element,
    fma,
    keep_nan,
    larger,
    load,
    repeated,
    smaller,
    splat,
    store,
)
from chainrob.kernels.cpu.truncated_column import (
    about_pilot,
    checked,
    mean_pilot,
    psi,
    psi_over_u,
    psi_ratio,
)
from chainrob.kernels.threads import share

GROUP = 4
"""Units of a batch whose squares are formed together: their constants fit into registers."""

NEAR = 64
"""Rows whose squares are formed together: their sums stay in the first-level cache."""

TRUST = {np.dtype(np.float32): 0.06, np.dtype(np.float64): 0.001}
"""The least variance over mean square at which the central moments still have their digits."""

LEAST = 1e-12
"""The least mean square of scaled values whose third power is still far from underflow."""


def by_moments(
    x: np.ndarray, gy: np.ndarray, factor: float, min_variance: float, scale: Any, floor: Any,
    overflow: np.ndarray, watch: Watch | None,
) -> np.ndarray:  # fmt: skip
    """The estimate (1, Q, P) from x (N, P) and gy (N, Q)."""
    dtype, lanes = x.dtype.type, simd.LINE // x.itemsize
    n, n_inputs = x.shape
    n_outputs = gy.shape[1]
    x = padded(x, lanes)
    b, a = scaled(x), scaled(padded(gy, lanes))
    out = np.empty((1, n_outputs, n_inputs), x.dtype)
    sizes = n, n_outputs, n_inputs
    n_vectors = len(b.values)
    floors = np.empty(0, dtype)
    if min_variance > 0:
        with np.errstate(over="ignore"):
            root = (min_variance * factor) ** 0.5 / b.units.astype(np.float64)
            floors = np.concatenate([root, 1 / a.units]).astype(dtype)
    least_x = b.least.reshape(-1, lanes).min(axis=1)
    batches = len(a.values)
    grain = max(1, 8 * PIECE // (lanes * n * lanes))
    none = np.empty(0, dtype)
    squares = Squares(dtype(1), none, none, none, none)
    if watch is not None:
        # The units of both factors, and what deviations are multiplied by, in two parts neither of
        # which leaves the dtype's range.
        of_x, _ = magnitudes(x, x)
        of_gy = dtype(watch.scale * 2.0**of_x)
        units_x, units_gy = np.ldexp(b.units, -of_x), a.units * of_gy
        squares = Squares(
            dtype(watch.scale),
            np.append(a.values * units_gy.reshape(-1, 1, lanes), np.zeros(n * lanes, dtype)),
            (b.values * units_x.reshape(-1, 1, lanes)).ravel(),
            units_gy,
            units_x,
        )

    def work(start: int, stop: int, sums: np.ndarray) -> None:
        _mean_pilot_by_moments(
            x.ravel(), a.values.ravel(), out.ravel(), sizes, start, stop,
            b.values.ravel(), b.units, a.units, b.reach.ravel(), b.even, least_x, a.least,
            floors, dtype(factor), dtype(TRUST[x.dtype]), dtype(LEAST), scale, floor, overflow,
            squares, sums,
        )  # fmt: skip

    if watch is None:
        unseen = np.empty((2, 0))
        share(lambda start, stop: work(start, stop, unseen), batches * n_vectors, grain)
    else:
        watch.sums[...] += watched_pieces(work, 1, batches * n_vectors, n, grain)
    return out


class Squares(NamedTuple):
    """What the rows' squares are made from; arrays are flat, and empty where nobody asks.

    ``scale`` has two parts, neither of which leaves the dtype's range; each factor takes one.
    """

    scale: Any
    """What deviations are multiplied by before they are squared."""
    a: np.ndarray
    """The units' factors, as they lie in ``Factors.values``, times their part; then a batch of
    zeros."""
    b: np.ndarray
    """The inputs, likewise."""
    units_gy: np.ndarray
    """(Q',): the units of gy times their part."""
    units_x: np.ndarray
    """(P',): the units of x times their part."""


_sweep = two_sweeps(psi_over_u, False, filled=True)


@Kernel
def _mean_pilot_by_moments(
    x: Any, a: Any, out: Any, sizes: Any, start: int, stop: int,
    b: Any, units_x: Any, units_gy: Any, reach: Any, even: Any, least_x: Any, least_gy: Any,
    floors: Any, factor: Any, trust: Any, least: Any, scale: Any, floor: Any, overflow: Any,
    squares: Any, into: Any,
) -> None:  # fmt: skip
    """The names are those of ``by_moments``; squares go to ``into``, (2, N) or (2, 0).

    A batch, as many units as a vector has lanes, meets one vector of inputs while that is in the
    first-level cache; then comes the next vector. The processor cannot guess where a value is
    truncated, so these places are collected, without a branch, and put right when the batch is
    done.
    """
    n, n_outputs, n_inputs = sizes
    dtype = x.dtype.type
    lanes = simd.lanes(x)
    n_vectors = units_x.size // lanes
    memory, base = buffer(x, n)
    spare, at_spare = buffer(x, n)
    room, source = (memory, base, spare, at_spare), Source(x, a, (n, 1, 1, 1, 0, 0), True)
    watched = into.size > 0
    # The rows' squares: those let in and all, of columns; those cut and all, of batches.
    rows, cut = vector_sums(x, n if watched else 0), vector_sums(x, n if watched else 0)
    cut_sums = np.zeros((2, n if watched else 0))
    # Truncated values: where they are, and what they take from the weights.
    length = lanes * n if watched else 0
    column_far, row_far = np.empty(length, np.int64), np.empty(length, np.int64)
    less_at = np.empty(length * lanes, x.dtype)
    length = lanes * lanes if watched else 0
    work = (
        np.empty(lanes, np.int64), np.empty(length, x.dtype), np.empty(length, x.dtype),
        np.empty(length, x.dtype),
    )  # fmt: skip
    n_swept, n_batches = 0, 0
    powers, prepared = aligned(x, POWERS * n * lanes), -1
    sums = aligned(x, POWERS * lanes * lanes)
    zero, one, infinite = splat(dtype(0)), splat(dtype(1)), splat(dtype(np.inf))
    two, three = splat(dtype(2)), splat(dtype(3))
    every = (1 << lanes) - 1
    count, share = splat(dtype(n)), splat(dtype(1.0 / n))
    unbiased = splat(dtype(factor * n / (n - 1)))
    m_of, threshold_of = aligned(x, lanes * lanes), aligned(x, lanes * lanes)
    sixth_of, extra_of = aligned(x, lanes * lanes), aligned(x, lanes * lanes)
    weight_of = aligned(x, lanes * lanes)
    limits = np.empty(lanes, x.dtype)
    # A place is a sample, and a bit for each unit of the batch.
    row_at, bits_at = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    for number in range(start, stop):
        vector, batch = number % n_vectors, number // n_vectors
        at_a, at_b = batch * n * lanes, vector * n * lanes
        if batch != prepared:
            powers_of_batch(a, at_a, n, powers)
            prepared = batch
        first = batch * lanes
        n_units = min(lanes, n_outputs - first)
        power_sums(b, at_b, powers, n, n_units, sums)
        by_columns = 0  # a bit for each unit whose moments lose their digits
        store(limits, 0, infinite)
        for k in range(n_units):
            unit, at = first + k, k * POWERS * lanes
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
                by_columns |= 1 << k
                nan_flag = _fill(memory, base, x, a, units_gy[unit], n, vector * lanes, at_a + k)
                estimate, center, spread = mean_pilot(memory, base, n, scale, floor)
                estimate = checked(memory, estimate, nan_flag, overflow)
                _put(out, unit * n_inputs, vector * lanes, n_inputs, estimate, sums)
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
            store(m_of, k * lanes, m)
            store(threshold_of, k * lanes, threshold)
            store(sixth_of, k * lanes, sixth)
            extra = (e3 - m * (three * e2 - two * m * m)) * count * sixth
            store(extra_of, k * lanes, extra)
            if watched:
                store(weight_of, k * lanes, fma(variance * count, sixth, count))
            # |a_i b_i - m| exceeds the threshold in no lane unless |a_i| max |b_i| does its
            # least, in units in which the b of all lanes are of one size.
            limit = (threshold - absolute(m)) * load(even, vector * lanes)
            limits[k] = simd.smallest(choose(limit, infinite, limit, infinite))  # NaN hides none
        n_places, n_far = 0, 0
        limit = load(limits, 0)
        for i in range(n):
            size = absolute(load(a, at_a + i * lanes))
            bits = simd.exceeding(size * repeated(reach, vector * n + i), limit)
            row_at[n_places], bits_at[n_places] = i, bits
            n_places += bits != 0
        # One unit of each place, then of those that have another: no loop of a length that the
        # processor cannot guess.
        while n_places > 0:
            n_left = 0
            for place in range(n_places):
                i, bits = element(row_at, place), element(bits_at, place)
                k = simd.lowest_bit(bits)
                bits &= bits - 1
                row_at[n_left], bits_at[n_left] = i, bits
                n_left += bits != 0
                inputs = load(b, at_b + i * lanes)
                threshold, sixth = load(threshold_of, k * lanes), load(sixth_of, k * lanes)
                d = repeated(a, at_a + i * lanes + k) * inputs - load(m_of, k * lanes)
                v = larger(smaller(d, threshold), zero - threshold)
                extra = psi(v, sixth) - psi(d, sixth)
                store(extra_of, k * lanes, load(extra_of, k * lanes) + extra)
                if watched and simd.exceeding(absolute(d), threshold):
                    # psi(u) / u less the 1 - u^2 / 6 that it is of values that are not truncated.
                    less = v * psi_ratio(v, sixth, one) / d - psi_ratio(d, sixth, one)
                    less = choose(threshold, absolute(d), less, zero)
                    store(weight_of, k * lanes, load(weight_of, k * lanes) + less)
                    store(less_at, n_far * lanes, less)
                    column_far[n_far], row_far[n_far] = k, i
                    n_far += 1
            n_places = n_left
        for k in range(n_units):
            if by_columns >> k & 1 == 0:
                estimate = fma(load(extra_of, k * lanes), share, load(m_of, k * lanes))
                estimate = estimate * splat(units_gy[first + k]) * load(units_x, vector * lanes)
                _put(out, (first + k) * n_inputs, vector * lanes, n_inputs, estimate, sums)
        if watched:
            far = n_far, column_far, row_far, less_at
            facts_of = m_of, sixth_of, extra_of, weight_of
            here = at_a, at_b, first, vector, n, n_units, by_columns
            _batch_squares(squares, here, far, facts_of, work, cut)
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
def _batch_squares(squares: Any, here: Any, far: Any, facts: Any, work: Any, cut: Any) -> None:
    """Add the rows' squares, those that the weights cut off and all, of the columns of a batch.

    With d the deviation from the mean, the weight is 1 - d^2 / (6 s^2) unless d is truncated, and
    places of truncated values are put right as they are for the estimate.
    """
    at_a, at_b, first_unit, vector, n, n_units, by_columns = here
    n_far, column_far, row_far, less_at = far
    lane_of, mean_of, turn_of, bend_of = work
    m_of, sixth_of, extra_of, weight_of = facts
    lanes = simd.lanes(cut)
    dtype = cut.dtype.type
    zero = splat(dtype(0))
    units_x = load(squares.units_x, vector * lanes)
    for k in range(-(-n_units // GROUP) * GROUP):
        at = k * lanes
        mean, bend, turn = zero, zero, zero
        lane_of[k] = squares.a.size - n * lanes  # zeros, which add none
        if k < n_units and by_columns >> k & 1 == 0:
            lane_of[k] = at_a + k
            scale = units_x * splat(squares.units_gy[first_unit + k])
            shift = load(extra_of, at) / load(weight_of, at)
            root = simd.sqrt(zero - load(sixth_of, at))
            mean = (load(m_of, at) + shift) * scale
            # sqrt(d^2 / (6 s^2)) from the scaled deviation from the weighted mean.
            bend = choose(zero, scale, root / scale, zero)
            turn = root * shift
        store(mean_of, at, mean)
        store(bend_of, at, bend)
        store(turn_of, at, turn)
    for low in range(0, n, NEAR):
        for first in range(0, n_units, GROUP):
            k0 = first * lanes
            k1, k2, k3 = k0 + lanes, k0 + 2 * lanes, k0 + 3 * lanes
            a0, a1 = lane_of[first], lane_of[first + 1]
            a2, a3 = lane_of[first + 2], lane_of[first + 3]
            m0, m1 = zero - load(mean_of, k0), zero - load(mean_of, k1)
            m2, m3 = zero - load(mean_of, k2), zero - load(mean_of, k3)
            t0, t1 = load(turn_of, k0), load(turn_of, k1)
            t2, t3 = load(turn_of, k2), load(turn_of, k3)
            r0, r1 = load(bend_of, k0), load(bend_of, k1)
            r2, r3 = load(bend_of, k2), load(bend_of, k3)
            for i in range(low, min(low + NEAR, n)):
                inputs = load(squares.b, at_b + i * lanes)
                d0 = fma(repeated(squares.a, a0 + i * lanes), inputs, m0)
                d1 = fma(repeated(squares.a, a1 + i * lanes), inputs, m1)
                d2 = fma(repeated(squares.a, a2 + i * lanes), inputs, m2)
                d3 = fma(repeated(squares.a, a3 + i * lanes), inputs, m3)
                z0, z1 = d0 * fma(r0, d0, t0), d1 * fma(r1, d1, t1)
                z2, z3 = d2 * fma(r2, d2, t2), d3 * fma(r3, d3, t3)
                at = 2 * i * lanes
                store(cut, at, fma(z3, z3, fma(z2, z2, fma(z1, z1, fma(z0, z0, load(cut, at))))))
                at += lanes
                store(cut, at, fma(d3, d3, fma(d2, d2, fma(d1, d1, fma(d0, d0, load(cut, at))))))
    for place in range(n_far):
        k, i = column_far[place], row_far[place]
        inputs = load(squares.b, at_b + i * lanes)
        mean = load(mean_of, k * lanes)
        d = fma(repeated(squares.a, at_a + i * lanes + k), inputs, zero - mean)
        at = 2 * i * lanes
        store(cut, at, load(cut, at) - load(less_at, place * lanes) * d * d)


@lean
def _put(out: Any, row: int, column: int, length: int, value: Any, spare: Any) -> None:
    """Write a vector to out[row + column:], of a row of this length that may end within it."""
    lanes = simd.lanes(out)
    if column + lanes <= length:
        store(out, row + column, value)
    else:
        store(spare, 0, value)
        for k in range(length - column):
            out[row + column + k] = spare[k]


@lean
def _fill(memory: Any, base: int, x: Any, a: Any, unit: Any, n: int, at_x: int, at_a: int) -> Any:
    """As ``columns.fill``, from scaled factors of an output unit: powers of two lose nothing."""
    lanes = simd.lanes(x)
    width = x.size // n
    nan_flag = splat(x.dtype.type(0))
    for i in range(n):
        value = splat(element(a, at_a + i * lanes) * unit) * load(x, at_x + i * width)
        store(memory, base + line(i) * lanes, value)
        nan_flag = keep_nan(nan_flag, value)
    return nan_flag
