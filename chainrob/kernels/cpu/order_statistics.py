"""Sums of order statistics of every coordinate: the median, the trimmed and the winsorized mean.

Measured gain over the array code: 2.3 to 2.7 at 2 -> 10 with 100 samples, 27 to 43 at
784 -> 100 with 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.column_kernels import column_kernels
from chainrob.kernels.cpu.columns import fill, fill_sorted, line, total
from chainrob.kernels.cpu.compiling import inlined, lean
from chainrob.kernels.cpu.headroom_kernel import with_headroom
from chainrob.kernels.cpu.median import FEW, median, networks
from chainrob.kernels.cpu.row_squares import Watch
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
from chainrob.kernels.cpu.sorting_network import MAX_ROWS, selection


def trimmed_mean(
    x: np.ndarray, gy: np.ndarray, count: int, *, watch: Watch | None = None
) -> np.ndarray | None:
    """The mean of the values of rank count to N - count - 1."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    return with_headroom(_trimmed_mean, x, gy, (selection(n, count, n - count), count), watch)


def coordinate_median(
    x: np.ndarray, gy: np.ndarray, *, watch: Watch | None = None
) -> np.ndarray | None:
    """The median, for even N the mean of the two middle values."""
    n = gy.shape[1]
    programs = networks(n)
    if programs is None:
        return None
    if watch is None:
        return with_headroom(_median, x, gy, (programs,), None)
    few = min(n, FEW)
    given = selection(few, 0, 0, *range(few)), programs
    return with_headroom(_median_and_distance, x, gy, given, watch)


def winsorized_mean(
    x: np.ndarray, gy: np.ndarray, count: int, *, watch: Watch | None = None
) -> np.ndarray | None:
    """The mean after the count values at each end are drawn in to their neighbor."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    program = selection(n, count + 1, n - count - 1, count, n - count - 1)
    return with_headroom(_winsorized_mean, x, gy, (program, count), watch)


# -- the median


@inlined
def _estimate_median(room: Any, source: Any, column: int, parameters: Any) -> Any:
    memory, base = room[0], room[1]
    nan_flag = fill(memory, base, source, column)
    center = median(memory, base, source.sizes[0], parameters[0])
    return keep_nan(center, nan_flag), (center,)


_median = column_kernels("coordinate_median", _estimate_median)


@inlined
def _estimate_sorted(room: Any, source: Any, column: int, parameters: Any) -> Any:
    """As above; a few values by a whole sort, which also gives the median distance."""
    memory, base = room[0], room[1]
    n = source.sizes[0]
    if n > FEW:
        nan_flag = fill(memory, base, source, column)
        center = median(memory, base, n, parameters[1])
        return keep_nan(center, nan_flag), (center,)
    low = (n - 1) // 2
    nan_flag = fill_sorted(memory, base, source, column, parameters[0])
    center = total(memory, base, low, n - low) * splat(memory.dtype.type(1.0 / (n - 2 * low)))
    return keep_nan(center, nan_flag), (center,)


@lean
def _median_distance(room: Any, n: int, found: Any, parameters: Any) -> Any:
    memory, base, distances, at = room
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    center = found[0]
    if n > FEW:
        for i in range(n):
            value = load(memory, base + line(i) * lanes)
            store(distances, at + line(i) * lanes, absolute(value - center))
        middle = median(distances, at, n, parameters[1])
    else:
        middle, upper = farthest_of_nearest(memory, base, n, (n + 1) // 2, center)
        if n % 2 == 0:
            middle = (middle + upper) * splat(dtype(0.5))
    # More than half of the values at the median, up to rounding: the others have no weight.
    middle = larger(middle, absolute(center) * splat(dtype(16 * np.finfo(dtype).eps)))
    return center, middle, splat(dtype(1))


@lean
def farthest_of_nearest(memory: Any, base: int, n: int, count: int, center: Any) -> Any:
    """The distance of the farthest of the ``count`` sorted values that are nearest to a center, and
    of the farthest of one more, which is infinite where there are no more.

    They are a run, and of all runs as long the one whose farther end is nearest.
    """
    lanes = simd.lanes(memory)
    reach = next_reach = splat(memory.dtype.type(np.inf))
    above = load(memory, base + line(count - 1) * lanes) - center
    for first in range(n - count):
        below = center - load(memory, base + line(first) * lanes)
        reach = smaller(reach, larger(below, above))
        above = load(memory, base + line(first + count) * lanes) - center
        next_reach = smaller(next_reach, larger(below, above))
    below = center - load(memory, base + line(n - count) * lanes)
    return smaller(reach, larger(below, above)), next_reach


@inlined
def _by_distance(value: Any, facts: Any, parameters: Any) -> Any:
    center, middle, one = facts
    distance = absolute(value - center)
    return choose(middle, distance, middle / distance, one)


_median_and_distance = column_kernels(
    "median_and_distance", _estimate_sorted, _by_distance, _median_distance, normalized=True
)

# -- means between two ranks


@inlined
def _estimate_trimmed(room: Any, source: Any, column: int, parameters: Any) -> Any:
    memory, base = room[0], room[1]
    program, count = parameters
    n = source.sizes[0]
    nan_flag = fill_sorted(memory, base, source, column, program)
    share = splat(memory.dtype.type(1.0 / (n - 2 * count)))
    return keep_nan(total(memory, base, count, n - count) * share, nan_flag), ()


@lean
def _trimmed_ends(room: Any, n: int, found: Any, parameters: Any) -> Any:
    """The least and the largest value that are kept, and the weights of those that equal them."""
    memory, base = room[0], room[1]
    count = parameters[1]
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one = splat(dtype(0)), splat(dtype(1))
    low = high = center = load(memory, base + line((n - 1) // 2) * lanes)
    next_low, next_high = low, high
    even, odd = zero, zero
    for i in range(count, n - count):
        # By turns: no operation waits for that of the row before.
        value = load(memory, base + line(i) * lanes)
        low, next_low = next_low, smaller(low, value)
        high, next_high = next_high, larger(high, value)
        even, odd = odd, even + (value - center)
    low, high = smaller(low, next_low), larger(high, next_high)
    below, above = low - one / zero, high + one / zero
    for i in range(count):
        below = larger(below, load(memory, base + line(i) * lanes))
        above = smaller(above, load(memory, base + line(n - 1 - i) * lanes))
    shift = (even + odd) * splat(dtype(1.0 / (n - 2 * count)))
    kept = splat(dtype(n / (n - 2 * count)))
    weight_low = weight_high = kept
    tie = choose(below, low, choose(high, above, zero, one), one)
    tied = simd.exceeding(tie, zero) != 0
    if tied:
        at_low, at_high, kept_low, kept_high = zero, zero, zero, zero
        for i in range(n):
            value = load(memory, base + line(i) * lanes)
            is_low = choose(low, value, zero, choose(value, low, zero, one))
            is_high = choose(high, value, zero, choose(value, high, zero, one))
            at_low, at_high = at_low + is_low, at_high + is_high
            if count <= i < n - count:
                kept_low, kept_high = kept_low + is_low, kept_high + is_high
        weight_low, weight_high = kept * kept_low / at_low, kept * kept_high / at_high
    return center, shift, low, high, weight_low, weight_high, zero, kept, tied


@inlined
def _inside(value: Any, facts: Any, parameters: Any) -> Any:
    """N / (N - 2k) inside, 0 outside, and a share of it for values that tie at an end."""
    _, _, low, high, weight_low, weight_high, zero, kept, tied = facts
    if tied:
        weight = choose(low, value, kept, choose(value, low, zero, weight_low))
        return choose(value, high, weight, choose(high, value, zero, weight_high))
    return choose(value, low, zero, choose(high, value, zero, kept))


_trimmed_mean = column_kernels("trimmed_mean", _estimate_trimmed, _inside, _trimmed_ends)


@inlined
def _estimate_winsorized(room: Any, source: Any, column: int, parameters: Any) -> Any:
    memory, base = room[0], room[1]
    program, count = parameters
    n = source.sizes[0]
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    nan_flag = fill_sorted(memory, base, source, column, program)
    low = load(memory, base + line(count) * lanes)
    high = load(memory, base + line(n - count - 1) * lanes)
    # The middle of an odd number of values may be both ends at once.
    mean = total(memory, base, count + 1, n - count - 1)
    mean = fma(low, splat(dtype(count + 1)), mean)
    mean = fma(high, splat(dtype(min(count + 1, n - count - 1))), mean)
    mean = mean * splat(dtype(1.0 / n))
    return keep_nan(mean, nan_flag), (low, high, mean)


@lean
def _winsorized_ends(room: Any, n: int, found: Any, parameters: Any) -> Any:
    low, high, mean = found
    return low, mean - low, high, mean, splat(room[0].dtype.type(1))


@inlined
def _drawn_in(value: Any, facts: Any, parameters: Any) -> Any:
    """What the end of the range has of a value's deviation beyond it."""
    low, _, high, center, one = facts
    end = larger(smaller(value, high), low)
    share = (end - center) / (value - center)
    return choose(end, value, share, choose(value, end, share, one))


_winsorized_mean = column_kernels(
    "winsorized_mean", _estimate_winsorized, _drawn_in, _winsorized_ends
)
