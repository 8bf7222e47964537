"""Reductions of the sample axis, a vector of coordinates at a time.

A *column* is what all N samples have at 64 bytes' worth of neighboring coordinates: N vectors, in
a buffer that stays in the first-level cache. It is filled from the factors of the outer products,
reduced, and forgotten, so that nothing of size N * Q * P ever exists. Every coordinate-wise kernel
is the one loop over columns of ``column_kernels``; this file holds what goes on inside.

Shapes: x (Tx, N, S, P'), with P' the number of inputs padded to whole vectors; gy (T, Q, N, S); the
result (T, Q, P'). Tx is T, or 1 where all replicas share x.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd, vector_sorting
from chainrob.kernels.cpu.compiling import inlined, jit, lean
from chainrob.kernels.cpu.simd import (
    fma,
    keep_nan,
    load,
    repeated,
    splat,
    store,
)
from chainrob.kernels.cpu.sorting_network import BLOCK, BLOCK_MERGE, BLOCK_SORT

OFTEN = 8
"""Number of columns that read the same inputs, from which on these are copied to lie together."""

_sort_block = vector_sorting.block_sorter(BLOCK_SORT, BLOCK)
_sort_products = vector_sorting.product_sorter(BLOCK_SORT, BLOCK)
_merge_group = vector_sorting.group_sorter(BLOCK_MERGE, BLOCK)


class Source(NamedTuple):
    """Outer products in the layout of the kernels; arrays are flat."""

    x: np.ndarray
    gy: np.ndarray
    sizes: tuple[int, int, int, int, int, int]
    """N, S, Q, the number of vectors that make up P'; and how far apart in x the vectors of
    consecutive positions lie, and consecutive vectors of one position."""
    shared: bool
    """Whether all replicas share x."""


def prepare(x: np.ndarray, gy: np.ndarray) -> tuple[Source, np.ndarray]:
    """Pad x to whole vectors and make the columns contiguous, where they are read often; the second
    answer has room for the estimates.
    """
    t, n, s, q = gy.shape
    lanes = simd.LINE // x.itemsize
    n_vectors = -(-x.shape[-1] // lanes)
    width = n_vectors * lanes
    step, jump = width, lanes
    if q >= OFTEN and n_vectors > 1:
        # Else every row of a column would lie on a page of its own.
        step, jump = lanes, n * s * lanes
        inputs = np.zeros((x.shape[0], n_vectors, n, s, lanes), x.dtype)
        whole = x.shape[-1] // lanes
        rows = x[..., : whole * lanes].reshape(*x.shape[:-1], whole, lanes)
        inputs[:, :whole] = np.moveaxis(rows, -2, 1)
        inputs[:, whole:, ..., : x.shape[-1] % lanes] = x[:, None, ..., whole * lanes :]
    else:
        inputs = padded(x, lanes)
    columns = np.array(gy.transpose(0, 3, 1, 2), order="C")
    out = np.empty(t * q * width, x.dtype)
    sizes = n, s, q, n_vectors, step, jump
    return Source(inputs.ravel(), columns.ravel(), sizes, x.shape[0] == 1), out


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


def on_lines(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that starts with a cache line: a vector that lies in two takes two loads."""
    size, per_line = prod(shape), simd.LINE // dtype.itemsize
    memory = np.empty(size + per_line, dtype)
    first = (-memory.ctypes.data % simd.LINE) // dtype.itemsize
    return memory[first : first + size].reshape(shape)


# -- inside kernels


@lean
def line(row: int) -> int:
    """Where a row of a column lies, in cache lines.

    One line is left out after every block: rows a power of two apart, which the sorting network
    needs at the same time, would else compete for the same few places of the cache.
    """
    return row + row // BLOCK


@jit
def buffer(like: Any, n: int) -> Any:
    """Memory for a column of n rows, and the offset where its first cache line starts.

    Behind the column is room for what ``median`` puts there: the end of a last block, another
    block, and a sample of two blocks.
    """
    lanes = simd.lanes(like)
    memory = np.empty((line(n + 4 * BLOCK) + 2) * lanes, like.dtype)
    return memory, (-memory.ctypes.data % simd.LINE) // like.itemsize


@jit
def aligned(like: Any, length: int) -> Any:
    """As ``on_lines``, of numbers as ``like`` has them."""
    memory = np.empty(length + simd.LINE // like.itemsize, like.dtype)
    first = (-memory.ctypes.data % simd.LINE) // like.itemsize
    return memory[first : first + length]


@inlined
def begin(source: Any, column: int) -> Any:
    """Where the factors of a column begin, in x and in gy."""
    x, _, sizes, shared = source
    n, s, q, n_vectors, _, jump = sizes
    unit, vector = column // n_vectors, column % n_vectors
    apart = 0 if shared else (unit // q) * n * s * n_vectors * simd.lanes(x)
    return vector * jump + apart, unit * n * s


@lean
def fill(memory: Any, base: int, source: Any, column: int) -> Any:
    """Write the values of a column; answers with NaN in the lanes that hold one, 0 elsewhere."""
    x, gy = source.x, source.gy
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    lanes = simd.lanes(x)
    from_x, from_gy = begin(source, column)
    nan_flag = splat(x.dtype.type(0))
    for i in range(n):
        value = repeated(gy, from_gy + i * s) * load(x, from_x + i * s * step)
        for k in range(1, s):
            factor = repeated(gy, from_gy + i * s + k)
            value = fma(factor, load(x, from_x + (i * s + k) * step), value)
        store(memory, base + line(i) * lanes, value)
        nan_flag = keep_nan(nan_flag, value)
    return nan_flag


@lean
def fill_with_mean(memory: Any, base: int, source: Any, column: int) -> Any:
    """Write the values of a column; answers with their mean, which is NaN where one is.

    Deviations from the first row are added up: a large common mean then costs no digits.
    """
    x, gy = source.x, source.gy
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    lanes = simd.lanes(x)
    from_x, from_gy = begin(source, column)
    if s > 1:
        fill(memory, base, source, column)
        return mean(memory, base, n)
    first = repeated(gy, from_gy) * load(x, from_x)
    even = odd = first - first
    for i in range(n):
        value = repeated(gy, from_gy + i) * load(x, from_x + i * step)
        store(memory, base + line(i) * lanes, value)
        even, odd = odd, even + (value - first)
    return fma(even + odd, splat(x.dtype.type(1.0 / n)), first)


@lean
def mean(memory: Any, base: int, n: int) -> Any:
    """The mean of a column, found as by ``fill_with_mean``."""
    lanes = simd.lanes(memory)
    first = load(memory, base)
    even = odd = first - first
    for i in range(n):
        even, odd = odd, even + (load(memory, base + line(i) * lanes) - first)
    return fma(even + odd, splat(memory.dtype.type(1.0 / n)), first)


@lean
def sort(memory: Any, base: int, n: int, groups: Any, pairs: Any, stages: Any) -> None:
    """Sort the rows of a column in every lane, as far as a ``network.Program`` carries it."""
    lanes = simd.lanes(memory)
    top = splat(memory.dtype.type(np.inf))
    full = -(-n // BLOCK) * BLOCK
    for i in range(n, full + 1):
        store(memory, base + line(i) * lanes, top)
    for i in range(0, full, BLOCK):
        _sort_block(memory, base + line(i) * lanes)
    _merge(memory, base, groups, pairs, stages)


@lean
def fill_sorted(memory: Any, base: int, source: Any, column: int, program: Any) -> Any:
    """``fill`` and ``sort`` in one: blocks are sorted before they are first written."""
    x, gy = source.x, source.gy
    groups, pairs, stages = program
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    if s > 1 or n < BLOCK:
        nan_flag = fill(memory, base, source, column)
        sort(memory, base, n, groups, pairs, stages)
        return nan_flag
    lanes = simd.lanes(x)
    from_x, from_gy = begin(source, column)
    whole = n - n % BLOCK
    nan_flag = splat(x.dtype.type(0))
    for i in range(0, whole, BLOCK):
        found = _sort_products(
            x, from_x + i * step, step, gy, from_gy + i, memory, base + line(i) * lanes
        )
        nan_flag = keep_nan(nan_flag, found)
    top = splat(x.dtype.type(np.inf))
    for i in range(whole, n):
        value = repeated(gy, from_gy + i) * load(x, from_x + i * step)
        store(memory, base + line(i) * lanes, value)
        nan_flag = keep_nan(nan_flag, value)
    full = -(-n // BLOCK) * BLOCK
    for i in range(n, full + 1):
        store(memory, base + line(i) * lanes, top)
    if whole < n:
        _sort_block(memory, base + line(whole) * lanes)
    _merge(memory, base, groups, pairs, stages)
    return nan_flag


@lean
def _merge(memory: Any, base: int, groups: Any, pairs: Any, stages: Any) -> None:
    """Merge sorted blocks."""
    lanes = simd.lanes(memory)
    group, pair = 0, 0
    for stage in range(stages.shape[0]):
        while group < stages[stage, 0]:
            _merge_group(memory, base, groups, group)
            group += BLOCK
        while pair < stages[stage, 1]:
            vector_sorting.exchange(
                memory, base + pairs[pair] * lanes, base + pairs[pair + 1] * lanes
            )
            pair += 2


@lean
def total(memory: Any, base: int, low: int, high: int) -> Any:
    """The sum of the rows low to high - 1."""
    lanes = simd.lanes(memory)
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
