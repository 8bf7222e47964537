"""Sums of order statistics of every coordinate: the median, the trimmed and the winsorized mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, fill, fill_sorted, line, solve, total
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.headroom import with_headroom
from chainrob.kernels.cpu.median import median, networks
from chainrob.kernels.cpu.network import MAX_ROWS, selection
from chainrob.kernels.cpu.simd import fma, keep_nan, load, splat, store


def trimmed_mean(x: np.ndarray, gy: np.ndarray, count: int) -> np.ndarray | None:
    """The mean of the values of rank count to N - count - 1."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    program = selection(n, count, n - count)
    return with_headroom(lambda gy, _: solve(_trimmed_mean, x, gy, *program, count), x, gy)


def coordinate_median(x: np.ndarray, gy: np.ndarray) -> np.ndarray | None:
    """The median, for even N the mean of the two middle values."""
    programs = networks(gy.shape[1])
    if programs is None:
        return None
    return with_headroom(lambda gy, _: solve(_median, x, gy, programs), x, gy)


def winsorized_mean(x: np.ndarray, gy: np.ndarray, count: int) -> np.ndarray | None:
    """The mean after the count values at each end are drawn in to their neighbour."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    program = selection(n, count + 1, n - count - 1, count, n - count - 1)
    return with_headroom(lambda gy, _: solve(_winsorized_mean, x, gy, *program, count), x, gy)


@Kernel
def _median(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int, programs: Any
) -> None:
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    for column in range(start, stop):
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        store(out, column * lanes, keep_nan(median(memory, base, n, programs), doubt))


@Kernel
def _trimmed_mean(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, count: int,
) -> None:  # fmt: skip
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    share = splat(x.dtype.type(1.0 / (n - 2 * count)))
    for column in range(start, stop):
        doubt = fill_sorted(memory, base, x, gy, sizes, shared, column, groups, pairs, stages)
        mean = total(memory, base, count, n - count) * share
        store(out, column * lanes, keep_nan(mean, doubt))


@Kernel
def _winsorized_mean(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, count: int,
) -> None:  # fmt: skip
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    share = splat(x.dtype.type(1.0 / n))
    # The middle of an odd number of values may be both ends at once.
    weight_low = splat(x.dtype.type(count + 1))
    weight_high = splat(x.dtype.type(min(count + 1, n - count - 1)))
    for column in range(start, stop):
        doubt = fill_sorted(memory, base, x, gy, sizes, shared, column, groups, pairs, stages)
        mean = total(memory, base, count + 1, n - count - 1)
        mean = fma(load(memory, base + line(count) * lanes), weight_low, mean)
        mean = fma(load(memory, base + line(n - count - 1) * lanes), weight_high, mean)
        store(out, column * lanes, keep_nan(mean * share, doubt))
