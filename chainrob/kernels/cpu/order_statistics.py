"""Sums of order statistics of every coordinate: the median, the trimmed mean and their kin."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, fill, sort, total
from chainrob.kernels.cpu.columns import solve as solve_columns
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.network import MAX_ROWS, selection
from chainrob.kernels.cpu.simd import keep_nan, splat, store


@Kernel
def _trimmed_mean(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, low: int,
) -> None:
    n = sizes[0]
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    share = splat(x.dtype.type(1.0 / (n - 2 * low)))
    for column in range(start, stop):
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        sort(memory, base, n, groups, pairs, stages)
        mean = total(memory, base, low, n - low) * share
        store(out, column * lanes, keep_nan(mean, doubt))


def trimmed_mean(x: np.ndarray, gy: np.ndarray, low: int) -> np.ndarray | None:
    """The mean of the values of rank low to N - low - 1; see ``robustifiers.TrimmedMean``."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    return solve_columns(_trimmed_mean, x, gy, *selection(n, low, n - low), low)


def median(x: np.ndarray, gy: np.ndarray) -> np.ndarray | None:
    """The median; see ``robustifiers.CoordinateMedian``."""
    return trimmed_mean(x, gy, (gy.shape[1] - 1) // 2)
