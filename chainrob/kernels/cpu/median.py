"""The median of every lane of a column, by counting.

A sorted sample says where to look. Each pass over the column counts the values below a threshold,
which closes a bracket about the value asked for, until few values lie between the lower end of the
bracket and that value: one more pass then keeps the least values above this end in order. Ties end
in a bracket that holds one number only. That is seven passes or so, half the time of a sorting
network, which still is the better way to ranks far from the middle: there a sample says little.
What is not settled soon is sorted, so the answer is always exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import line, sort, total
from chainrob.kernels.cpu.compiling import lean
from chainrob.kernels.cpu.simd import absolute, choose, fma, larger, load, smaller, splat, store
from chainrob.kernels.cpu.sorting_network import BLOCK, MAX_ROWS, Program, selection

SAMPLE = 32
"""Rows of the sample."""

FEW = 128
"""Rows up to which a network costs less."""

KEPT = 6
"""Values that the last pass keeps in order."""

PASSES, PATIENCE = 16, 6
"""Passes before a column is given up, and before ties are suspected to hold it up."""


class Networks(NamedTuple):
    """What ``median`` needs to know beside a column."""

    column: Program
    """The network that sorts the middle of the column."""
    sample: Program
    """The network that sorts the sample."""


def networks(n: int) -> Networks | None:
    """Of columns of n rows; None where there are too many."""
    if n > MAX_ROWS:
        return None
    low = (n - 1) // 2
    return Networks(selection(n, low, n - low), selection(SAMPLE, 0, 0, *range(SAMPLE)))


@lean
def median(memory: Any, base: int, n: int, networks: Any) -> Any:
    """The median of every lane, for even N the mean of the two middle values.

    The rows are reordered, and blocks behind them overwritten; see ``columns.buffer``.
    """
    dtype = memory.dtype.type
    low = (n - 1) // 2
    if n > FEW:
        lower, upper, settled = _middle_values(memory, base, n, networks.sample)
        if settled:
            return lower if n % 2 else (lower + upper) * splat(dtype(0.5))
    program = networks.column
    sort(memory, base, n, program.groups, program.pairs, program.stages)
    return total(memory, base, low, n - low) * splat(dtype(1.0 / (n - 2 * low)))


@lean
def _middle_values(memory: Any, base: int, n: int, program: Any) -> Any:
    """The values of rank (N - 1) // 2 and one more, and whether they are settled in all lanes."""
    rank = (n - 1) // 2
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    full = -(-n // BLOCK) * BLOCK
    start = base + line(full + BLOCK) * lanes
    for i in range(SAMPLE):
        row = load(memory, base + line(i * n // SAMPLE) * lanes)
        store(memory, start + line(i) * lanes, row)
    sort(memory, start, SAMPLE, program.groups, program.pairs, program.stages)
    zero, one, three = splat(dtype(0)), splat(dtype(1)), splat(dtype(3))
    half, quarter = splat(dtype(0.5)), splat(dtype(0.25))
    this, following = splat(dtype(rank)), splat(dtype(rank + 1))
    infinite, tiny = splat(dtype(np.inf)), splat(np.finfo(dtype).tiny)
    roundings = splat(dtype(8 * np.finfo(dtype).eps))
    reach, short = splat(dtype(KEPT - 2)), splat(dtype(0.5 * (KEPT - 3)))
    least, most = splat(dtype(1 / 64)), splat(dtype(63 / 64))
    many = splat(dtype(n // 4))
    for i in range(n, full):
        store(memory, base + line(i) * lanes, infinite)
    # About one and three standard deviations of the sample's median to either side.
    far_first, first = load(memory, start + line(6) * lanes), load(memory, start + line(12) * lanes)
    last, far_last = load(memory, start + line(19) * lanes), load(memory, start + line(25) * lanes)
    last = _just_above(last, roundings, tiny)
    far_last = _just_above(far_last, roundings, tiny)
    # low <= value < high, and the numbers of values below each.
    bottom = splat(-np.finfo(dtype).max)
    low, n_low = bottom, zero
    high, n_high = infinite, splat(dtype(n))
    stride = far_last - far_first
    threshold = first
    for number in range(-1, PASSES):
        count = _n_below(memory, base, n, threshold)
        low = choose(count, following, larger(low, threshold), low)
        n_low = choose(count, following, larger(n_low, count), n_low)
        high = choose(count, following, high, smaller(high, threshold))
        n_high = choose(count, following, n_high, smaller(n_high, count))
        if number < 0:
            threshold = last
            continue
        # Where the last pass would not reach the value.
        if simd.exceeding(this - n_low, reach) == 0:
            return (*_from(memory, base, n, low, this - n_low), _is_all(memory, base, n, low))
        behind = choose(reach, this - n_low, one, zero)
        width = choose(_just_above(low, roundings, tiny), high, behind, zero) * (n_high - n_low)
        tied = number > 0 and number % 2 == 0
        tied = tied and (number >= PATIENCE or simd.exceeding(width, many) != 0)
        if tied or simd.exceeding(width, zero) == 0:
            above, below = _neighbors(memory, base, n, low, high)
            if simd.exceeding(choose(above, below, behind, zero), zero) == 0:
                lower, upper = _from(memory, base, n, low, this - n_low)
                lower = choose(zero, behind, above, lower)
                # A number that fills the bracket, and beyond the bracket perhaps another.
                other = above if n % 2 else _next(memory, base, n, rank, lower)
                upper = choose(zero, behind, other, upper)
                return lower, upper, _is_all(memory, base, n, low)
            # Numbers that fill the bracket are left alone there, or are shut out.
            threshold = below if number % 4 == 0 else _just_above(above, roundings, tiny)
        else:
            part = (this - short - n_low) / (n_high - n_low)
            if number % 3 == 2:
                part = fma(part, half, quarter)
            threshold = fma(high - low, larger(smaller(part, most), least), low)
            # Where an end is still missing, in longer and longer strides.
            threshold = choose(bottom, low, threshold, smaller(far_first, high))
            threshold = choose(high, infinite, threshold, larger(far_last, low))
            far_first, far_last = far_first - stride, far_last + stride
            stride = stride * three
    return zero, zero, False


@lean
def _is_all(memory: Any, base: int, n: int, low: Any) -> Any:
    """Whether nothing lies below a lower end that no pass has counted: minus infinity may."""
    dtype = memory.dtype.type
    zero, one = splat(dtype(0)), splat(dtype(1))
    bottom = splat(-np.finfo(dtype).max)
    uncounted = choose(bottom, low, zero, one)
    if simd.exceeding(uncounted, zero) == 0:
        return True
    return simd.exceeding(uncounted * _n_below(memory, base, n, bottom), zero) == 0


@lean
def _from(memory: Any, base: int, n: int, low: Any, ahead: Any) -> Any:
    """Of the values not below ``low`` in order, that with ``ahead`` of them before it, and the
    next; ``ahead`` is at most KEPT - 2.
    """
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    top, step = splat(dtype(np.inf)), splat(dtype(1))
    a = b = c = d = e = f = top
    for i in range(n):
        value = load(memory, base + line(i) * lanes)
        value = choose(value, low, top, value)
        a, value = smaller(a, value), larger(a, value)
        b, value = smaller(b, value), larger(b, value)
        c, value = smaller(c, value), larger(c, value)
        d, value = smaller(d, value), larger(d, value)
        e, value = smaller(e, value), larger(e, value)
        f = smaller(f, value)
    reached = splat(dtype(0.5))
    first, second = a, b
    first, second = choose(reached, ahead, b, first), choose(reached, ahead, c, second)
    reached = reached + step
    first, second = choose(reached, ahead, c, first), choose(reached, ahead, d, second)
    reached = reached + step
    first, second = choose(reached, ahead, d, first), choose(reached, ahead, e, second)
    reached = reached + step
    first, second = choose(reached, ahead, e, first), choose(reached, ahead, f, second)
    return first, second


@lean
def _just_above(value: Any, roundings: Any, tiny: Any) -> Any:
    """A number a few roundings above."""
    return value + fma(absolute(value), roundings, tiny)


@lean
def _next(memory: Any, base: int, n: int, rank: int, value: Any) -> Any:
    """The value of rank + 1 from that of rank."""
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    one, top = splat(dtype(1)), splat(dtype(np.inf))
    c0 = c1 = one - one
    a0 = a1 = top
    for block in range(0, n, BLOCK):
        at = base + line(block) * lanes
        for row in range(0, BLOCK, 2):
            v0, v1 = load(memory, at + row * lanes), load(memory, at + (row + 1) * lanes)
            c0, c1 = choose(value, v0, c0 + one, c0), choose(value, v1, c1 + one, c1)
            a0 = smaller(choose(value, v0, v0, top), a0)
            a1 = smaller(choose(value, v1, v1, top), a1)
    padded = -(-n // BLOCK) * BLOCK
    return choose(c0 + c1, splat(dtype(padded - rank - 1)), value, smaller(a0, a1))


@lean
def _n_below(memory: Any, base: int, n: int, threshold: Any) -> Any:
    """How many values are less than a threshold; the last block is padded with infinity."""
    lanes = simd.lanes(memory)
    one = splat(memory.dtype.type(1))
    c0 = c1 = c2 = c3 = one - one
    for block in range(0, n, BLOCK):
        at = base + line(block) * lanes
        for row in range(0, BLOCK, 4):
            v0, v1 = load(memory, at + row * lanes), load(memory, at + (row + 1) * lanes)
            v2, v3 = load(memory, at + (row + 2) * lanes), load(memory, at + (row + 3) * lanes)
            c0, c1 = choose(v0, threshold, c0 + one, c0), choose(v1, threshold, c1 + one, c1)
            c2, c3 = choose(v2, threshold, c2 + one, c2), choose(v3, threshold, c3 + one, c3)
    return (c0 + c1) + (c2 + c3)


@lean
def _neighbors(memory: Any, base: int, n: int, low: Any, high: Any) -> Any:
    """The smallest value not below ``low`` and the largest below ``high``."""
    lanes = simd.lanes(memory)
    top = splat(memory.dtype.type(np.inf))
    bottom = splat(memory.dtype.type(-np.inf))
    a0 = a1 = top
    b0 = b1 = bottom
    for block in range(0, n, BLOCK):
        at = base + line(block) * lanes
        for row in range(0, BLOCK, 2):
            v0, v1 = load(memory, at + row * lanes), load(memory, at + (row + 1) * lanes)
            a0 = smaller(choose(v0, low, top, v0), a0)
            a1 = smaller(choose(v1, low, top, v1), a1)
            b0 = larger(choose(v0, high, v0, bottom), b0)
            b1 = larger(choose(v1, high, v1, bottom), b1)
    return smaller(a0, a1), larger(b0, b1)
