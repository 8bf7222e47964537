"""Reductions of the sample axis, a vector of coordinates at a time.

A *column* is what all N samples have at 64 bytes' worth of neighbouring coordinates: N vectors, in
a buffer that stays in the first-level cache. It is filled from the factors of the outer products,
reduced, and forgotten, so that nothing of size N * Q * P ever exists. Every coordinate-wise kernel
is a loop over columns; this file holds what they share.

Shapes: x (Tx, N, S, P'), with P' the number of inputs padded to whole vectors; gy (T, Q, N, S); the
result (T, Q, P'). Tx is T, or 1 where all replicas share x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.compiling import jit
from chainrob.kernels.cpu.network import BLOCK, BLOCK_MERGE, BLOCK_SORT
from chainrob.kernels.cpu.simd import fma, keep_nan, load, splat, store
from chainrob.kernels.threads import share

OFTEN = 8
"""Number of columns that read the same inputs, from which on these are copied to lie together."""

PIECE = 1 << 19
"""Numbers a piece of work holds: some ten microseconds at the least, so that threads pay off."""

_sort_block = simd.block_sorter(BLOCK_SORT, BLOCK)
_sort_products = simd.product_sorter(BLOCK_SORT, BLOCK)
_merge_group = simd.group_sorter(BLOCK_MERGE, BLOCK)


class Problem(NamedTuple):
    """Outer products in the layout of the kernels; arrays are flat."""

    x: np.ndarray
    gy: np.ndarray
    out: np.ndarray
    sizes: tuple[int, int, int, int, int, int]
    """N, S, Q, the number of vectors that make up P'; and how far apart in x the vectors of
    consecutive positions lie, and consecutive vectors of one position."""
    shared: bool
    """Whether all replicas share x."""


def solve(
    kernel: Callable[..., Any], x: np.ndarray, gy: np.ndarray, *parameters: Any
) -> np.ndarray:
    """Run a kernel over all columns.

    Args:
        kernel: called as ``kernel(x, gy, out, sizes, shared, start, stop, *parameters)`` for runs
            of columns, numbered with the vectors of P' fastest, then Q, then T.
        x: inputs (Tx, N, S, P), float32 or float64.
        gy: output gradients (T, N, S, Q) of the same dtype.
        parameters: further arguments of the kernel.

    Returns:
        array (T, Q, P).
    """
    n_inputs, n_outputs = x.shape[-1], gy.shape[-1]
    if n_inputs < min(n_outputs, simd.lanes(x.dtype)):
        # The longer axis fills the lanes.
        swapped = (gy, x) if x.shape[0] == gy.shape[0] else (gy, np.repeat(x, gy.shape[0], axis=0))
        return np.ascontiguousarray(solve(kernel, *swapped, *parameters).swapaxes(-1, -2))
    problem = prepare(x, gy)
    n, _, q, vectors = problem.sizes[:4]
    columns = gy.shape[0] * q * vectors

    def work(start: int, stop: int) -> None:
        kernel(
            problem.x, problem.gy, problem.out, problem.sizes, problem.shared, start, stop,
            *parameters,
        )  # fmt: skip

    share(work, columns, max(1, PIECE // (n * simd.lanes(x.dtype))))
    return np.ascontiguousarray(problem.out.reshape(gy.shape[0], q, -1)[..., :n_inputs])


def prepare(x: np.ndarray, gy: np.ndarray) -> Problem:
    """Pad x to whole vectors and make the columns contiguous, where they are read often."""
    t, n, s, q = gy.shape
    lanes = simd.lanes(x.dtype)
    vectors = -(-x.shape[-1] // lanes)
    width = vectors * lanes
    step, jump = width, lanes
    if q >= OFTEN and vectors > 1:
        # Else every row of a column would lie on a page of its own.
        step, jump = lanes, n * s * lanes
        inputs = np.zeros((x.shape[0], vectors, n, s, lanes), x.dtype)
        whole = x.shape[-1] // lanes
        rows = x[..., : whole * lanes].reshape(*x.shape[:-1], whole, lanes)
        inputs[:, :whole] = np.moveaxis(rows, -2, 1)
        inputs[:, whole:, ..., : x.shape[-1] % lanes] = x[:, None, ..., whole * lanes :]
    else:
        inputs = padded(x, lanes)
    columns = np.array(gy.transpose(0, 3, 1, 2), order="C")
    out = np.empty(t * q * width, x.dtype)
    return Problem(
        inputs.ravel(), columns.ravel(), out, (n, s, q, vectors, step, jump), x.shape[0] == 1
    )


def padded(array: np.ndarray, size: int) -> np.ndarray:
    """The array with its last axis padded with zeros to a multiple of ``size``.

    It is returned as it is where that is done already and it is contiguous, aligned and writeable;
    for others Numba would compile anew.
    """
    length = array.shape[-1]
    if length % size == 0 and array.flags.carray:
        return array
    out = np.empty((*array.shape[:-1], -(-length // size) * size), array.dtype)
    out[..., :length], out[..., length:] = array, 0
    return out


# -- inside kernels


@jit
def line(row: int) -> int:
    """Where a row of a column lies, in cache lines.

    One line is left out after every block: rows a power of two apart, which the sorting network
    needs at the same time, would else compete for the same few places of the cache.
    """
    return row + row // BLOCK


@jit
def buffer(like: Any, n: int) -> Any:
    """Memory for a column of n rows, and the offset where its first cache line starts."""
    lanes = simd.LINE // like.itemsize
    memory = np.empty((line(n + BLOCK) + 2) * lanes, like.dtype)
    return memory, (-memory.ctypes.data % simd.LINE) // like.itemsize


@jit
def fill(memory: Any, base: int, x: Any, gy: Any, sizes: Any, shared: bool, column: int) -> Any:
    """Write the values of a column; answers with NaN in the lanes that hold one, 0 elsewhere."""
    n, s, q, vectors, step, jump = sizes
    lanes = simd.LINE // x.itemsize
    unit, vector = column // vectors, column % vectors
    from_x = vector * jump + (0 if shared else (unit // q) * n * s * vectors * lanes)
    from_gy = unit * n * s
    doubt = splat(x.dtype.type(0))
    for i in range(n):
        value = splat(gy[from_gy + i * s]) * load(x, from_x + i * s * step)
        for k in range(1, s):
            value = fma(splat(gy[from_gy + i * s + k]), load(x, from_x + (i * s + k) * step), value)
        store(memory, base + line(i) * lanes, value)
        doubt = keep_nan(doubt, value)
    return doubt


@jit
def fill_with_mean(
    memory: Any, base: int, x: Any, gy: Any, sizes: Any, shared: bool, column: int
) -> Any:
    """Write the values of a column; answers with their mean, which is NaN where one is.

    Deviations from the first row are added up: a large common mean then costs no digits.
    """
    n, s, q, vectors, step, jump = sizes
    lanes = simd.LINE // x.itemsize
    unit, vector = column // vectors, column % vectors
    from_x = vector * jump + (0 if shared else (unit // q) * n * s * vectors * lanes)
    from_gy = unit * n * s
    if s > 1:
        fill(memory, base, x, gy, sizes, shared, column)
        return mean(memory, base, n)
    first = splat(gy[from_gy]) * load(x, from_x)
    even = odd = first - first
    for i in range(n):
        value = splat(gy[from_gy + i]) * load(x, from_x + i * step)
        store(memory, base + line(i) * lanes, value)
        even, odd = odd, even + (value - first)
    return fma(even + odd, splat(x.dtype.type(1.0 / n)), first)


@jit
def mean(memory: Any, base: int, n: int) -> Any:
    """The mean of a column, found as by ``fill_with_mean``."""
    lanes = simd.LINE // memory.itemsize
    first = load(memory, base)
    even = odd = first - first
    for i in range(n):
        even, odd = odd, even + (load(memory, base + line(i) * lanes) - first)
    return fma(even + odd, splat(memory.dtype.type(1.0 / n)), first)


@jit
def sort(memory: Any, base: int, n: int, groups: Any, pairs: Any, stages: Any) -> None:
    """Sort the rows of a column in every lane, as far as a ``network.Program`` carries it."""
    lanes = simd.LINE // memory.itemsize
    top = splat(memory.dtype.type(np.inf))
    full = -(-n // BLOCK) * BLOCK
    for i in range(n, full + 1):
        store(memory, base + line(i) * lanes, top)
    for i in range(0, full, BLOCK):
        _sort_block(memory, base + line(i) * lanes)
    _merge(memory, base, groups, pairs, stages)


@jit
def fill_sorted(
    memory: Any, base: int, x: Any, gy: Any, sizes: Any, shared: bool, column: int,
    groups: Any, pairs: Any, stages: Any,
) -> Any:  # fmt: skip
    """``fill`` and ``sort`` in one: blocks are sorted before they are first written."""
    n, s, q, vectors, step, jump = sizes
    if s > 1 or n < BLOCK:
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        sort(memory, base, n, groups, pairs, stages)
        return doubt
    lanes = simd.LINE // x.itemsize
    unit, vector = column // vectors, column % vectors
    from_x = vector * jump + (0 if shared else (unit // q) * n * vectors * lanes)
    from_gy = unit * n
    whole = n - n % BLOCK
    doubt = splat(x.dtype.type(0))
    for i in range(0, whole, BLOCK):
        found = _sort_products(
            x, from_x + i * step, step, gy, from_gy + i, memory, base + line(i) * lanes
        )
        doubt = keep_nan(doubt, found)
    top = splat(x.dtype.type(np.inf))
    for i in range(whole, n):
        value = splat(gy[from_gy + i]) * load(x, from_x + i * step)
        store(memory, base + line(i) * lanes, value)
        doubt = keep_nan(doubt, value)
    full = -(-n // BLOCK) * BLOCK
    for i in range(n, full + 1):
        store(memory, base + line(i) * lanes, top)
    if whole < n:
        _sort_block(memory, base + line(whole) * lanes)
    _merge(memory, base, groups, pairs, stages)
    return doubt


@jit
def _merge(memory: Any, base: int, groups: Any, pairs: Any, stages: Any) -> None:
    """Merge sorted blocks."""
    lanes = simd.LINE // memory.itemsize
    group, pair = 0, 0
    for stage in range(stages.shape[0]):
        while group < stages[stage, 0]:
            _merge_group(memory, base, groups, group)
            group += BLOCK
        while pair < stages[stage, 1]:
            simd.exchange(memory, base + pairs[pair] * lanes, base + pairs[pair + 1] * lanes)
            pair += 2


@jit
def total(memory: Any, base: int, low: int, high: int) -> Any:
    """The sum of the rows low to high - 1."""
    lanes = simd.LINE // memory.itemsize
    zero = splat(memory.dtype.type(0))
    even, odd = zero, zero
    i = low
    while i + 1 < high:
        even = even + load(memory, base + line(i) * lanes)
        odd = odd + load(memory, base + line(i + 1) * lanes)
        i += 2
    if i < high:
        even = even + load(memory, base + line(i) * lanes)
    return even + odd
