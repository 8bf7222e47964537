"""The mean of the values nearest to a centre of every coordinate: MeaMed and Phocas."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, fill_sorted, line, solve, total
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.headroom import with_headroom
from chainrob.kernels.cpu.network import MAX_ROWS, selection
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    keep_nan,
    larger,
    load,
    smaller,
    splat,
    store,
)


def mean_around_median(x: np.ndarray, gy: np.ndarray, f: int) -> np.ndarray | None:
    """The mean of the N - f values nearest to the median."""
    return _around(x, gy, f, (gy.shape[1] - 1) // 2)


def phocas(x: np.ndarray, gy: np.ndarray, f: int) -> np.ndarray | None:
    """The mean of the N - f values nearest to the mean without the f values at each end."""
    return _around(x, gy, f, f)


def _around(x: np.ndarray, gy: np.ndarray, f: int, trim: int) -> np.ndarray | None:
    """The centre is the mean without ``trim`` values at each end."""
    n = gy.shape[1]
    if n > MAX_ROWS:
        return None
    alone = sorted({*range(f + 1), *range(n - f - 1, n)})
    program = selection(n, trim, n - trim, *alone)
    return with_headroom(lambda gy, _: solve(_nearest, x, gy, *program, f, trim), x, gy)


@Kernel
def _nearest(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, f: int, trim: int,
) -> None:  # fmt: skip
    n = sizes[0]
    dtype = x.dtype.type
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    zero, one = splat(dtype(0)), splat(dtype(1))
    share = splat(dtype(1.0 / (n - 2 * trim)))
    kept = splat(dtype(n - f))
    for column in range(start, stop):
        doubt = fill_sorted(memory, base, x, gy, sizes, shared, column, groups, pairs, stages)
        center = total(memory, base, trim, n - trim) * share
        # The nearest values are a run of the sorted ones. The distance at which the choice ends is
        # that of the run whose farther end is nearest.
        reach = splat(dtype(np.inf))
        for first in range(f + 1):
            below = absolute(load(memory, base + line(first) * lanes) - center)
            above = absolute(load(memory, base + line(first + n - f - 1) * lanes) - center)
            reach = smaller(reach, larger(below, above))
        # Values that tie there share what is left.
        inside, n_inside, tied, n_tied = zero, zero, zero, zero
        for i in range(n):
            value = load(memory, base + line(i) * lanes)
            distance = absolute(value - center)
            is_inside = choose(distance, reach, one, zero)
            is_tied = choose(reach, distance, zero, one) - is_inside
            inside = inside + choose(distance, reach, value, zero)
            tied = tied + choose(zero, is_tied, value, zero)
            n_inside = n_inside + is_inside
            n_tied = n_tied + is_tied
        mean = (inside + tied * ((kept - n_inside) / larger(n_tied, one))) / kept
        store(out, column * lanes, keep_nan(mean, doubt))
