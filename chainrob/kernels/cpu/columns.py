"""Reductions of the sample axis, a vector of coordinates at a time.

A *column* is what all N samples have at 64 bytes' worth of neighbouring coordinates: N vectors, in
a buffer that stays in the first-level cache. It is filled from the factors of the outer products,
reduced, and forgotten, so that nothing of size N * Q * P ever exists. Every coordinate-wise kernel
is the one loop over columns below, made for it by ``column_kernels``; this file holds what they
share.

Shapes: x (Tx, N, S, P'), with P' the number of inputs padded to whole vectors; gy (T, Q, N, S); the
result (T, Q, P'). Tx is T, or 1 where all replicas share x.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.compiling import Kernel, inlined, jit
from chainrob.kernels.cpu.network import BLOCK, BLOCK_MERGE, BLOCK_SORT
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    keep_nan,
    load,
    repeated,
    smaller,
    splat,
    store,
)
from chainrob.kernels.cpu.vectors import largest_magnitude
from chainrob.kernels.threads import share

OFTEN = 8
"""Number of columns that read the same inputs, from which on these are copied to lie together."""

PIECE = 1 << 19
"""Numbers a piece of work holds: some ten microseconds at the least, so that threads pay off."""

EPS = float(np.finfo(np.float64).eps)

MOST_PIECES = 64
"""Pieces at most of a watched problem, each of which has sums of its own for the N rows."""

FLUSH = 64
"""Columns whose squares are added up in the dtype of the values before they join the sums in
float64."""

_sort_block = simd.block_sorter(BLOCK_SORT, BLOCK)
_sort_products = simd.product_sorter(BLOCK_SORT, BLOCK)
_merge_group = simd.group_sorter(BLOCK_MERGE, BLOCK)


class Source(NamedTuple):
    """Outer products in the layout of the kernels; arrays are flat."""

    x: np.ndarray
    gy: np.ndarray
    sizes: tuple[int, int, int, int, int, int]
    """N, S, Q, the number of vectors that make up P'; and how far apart in x the vectors of
    consecutive positions lie, and consecutive vectors of one position."""
    shared: bool
    """Whether all replicas share x."""


class ColumnKernels(NamedTuple):
    """One estimator's loop over columns; both are called through ``solve``."""

    plain: Kernel
    watched: Kernel
    """The same estimates, and the rows' squares beside them."""


def column_kernels(
    name: str,
    estimate: Callable[..., Any],
    weight: Callable[..., Any] | None = None,
    facts: Callable[..., Any] | None = None,
    *,
    normalized: bool | None = None,
) -> ColumnKernels:
    """The loop over columns for an estimator.

    Args:
        name: of the estimator; machine code is kept on disk under it.
        estimate: compiled, called as ``estimate(room, source, column, parameters)``: it fills the
            column (see ``fill``) and answers with the estimate and what it found on the way, a
            tuple of vectors. ``room`` is two buffers for a column, each with its offset.
        weight: compiled, called as ``weight(value, facts, parameters)``: the weights of values.
            None for what nobody watches.
        facts: compiled, called as ``facts(room, n, found, parameters)`` where somebody watches:
            what ``weight`` needs to know, a tuple. First come the number about which deviations are
            taken, of the size of the values, and the distance from it to the weighted mean of the
            values (not so where ``normalized`` is not None).
        normalized: None where ``facts`` knows the weighted mean. Else it is found from the weights;
            True if these are then scaled to a mean of 1, too.
    """
    plain = _cloned(_plain, name, estimate=estimate)
    if weight is None:
        return ColumnKernels(plain, plain)
    sweep = one_sweep(weight) if normalized is None else two_sweeps(weight, normalized)
    watched = _cloned(_watched, name, estimate=estimate, facts_of=facts, sweep=sweep)
    return ColumnKernels(plain, watched)


def _cloned(loop: Any, name: str, **inserted: Any) -> Kernel:
    """The loop with its own estimator, as a function of its own.

    Machine code is stored by a function's name, and by what it closes over: functions compiled in
    this process, which no later one would find again. Global names are looked up when it is
    compiled.
    """
    function = FunctionType(loop.__code__, {**loop.__globals__, **inserted}, loop.__name__)
    function.__module__ = __name__
    function.__qualname__ = function.__name__ = f"{name}{loop.__name__}"
    return Kernel(function)


class Watch(NamedTuple):
    """Where a watched kernel leaves the rows' squares."""

    scale: float
    """What deviations are multiplied by before they are squared: a power of two."""
    sums: np.ndarray
    """(2, T, N), float64: the squares let in, and all."""

    def shrunk(self, factor: float) -> Watch:
        """The same, for values that were multiplied by a power of two."""
        return self._replace(scale=self.scale / factor)


def watch_for(x: np.ndarray, gy: np.ndarray) -> Watch:
    """Empty sums, and the scale at which no square of a deviation leaves the dtype's range."""
    info = np.finfo(x.dtype)
    # Half of the numbers' range lies below the largest square, for what is far smaller.
    room = info.maxexp // 2 - 10
    exponent = room - sum(magnitudes(x, gy)) - gy.shape[2].bit_length()
    scale = 2.0 ** min(max(exponent, info.minexp), info.maxexp - 1)
    return Watch(scale, np.zeros((2, gy.shape[0], gy.shape[1])))


def magnitudes(x: np.ndarray, gy: np.ndarray) -> tuple[int, int]:
    """The exponents of the largest numbers of two arrays; 0 where they are not finite."""
    sizes = largest_magnitudes(x, gy)
    of_x, of_gy = (int(np.frexp(one)[1]) if np.isfinite(one) else 0 for one in sizes)
    return of_x, of_gy


def largest_magnitudes(x: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """The largest magnitudes of two arrays, (2,)."""
    sizes = np.empty(2, x.dtype)
    # Vectors are loaded from memory as it lies; Numba compiles anew for arrays that are read-only.
    flat = (one if one.flags.carray else one.copy() for one in (x, gy))
    _sizes(*(one.reshape(-1) for one in flat), sizes)
    return sizes


@Kernel
def _sizes(x: Any, gy: Any, sizes: Any) -> None:
    sizes[0], sizes[1] = largest_magnitude(x, 0, x.size), largest_magnitude(gy, 0, gy.size)


def solve(
    kernels: ColumnKernels,
    x: np.ndarray,
    gy: np.ndarray,
    parameters: tuple[Any, ...],
    watch: Watch | None = None,
) -> np.ndarray:
    """Estimate all columns.

    Args:
        kernels: the estimator's.
        x: inputs (Tx, N, S, P), float32 or float64.
        gy: output gradients (T, N, S, Q) of the same dtype.
        parameters: those of the estimator.
        watch: where the rows' squares are added up, if anybody asks.

    Returns:
        array (T, Q, P).
    """
    n_inputs, n_outputs = x.shape[-1], gy.shape[-1]
    if n_inputs < min(n_outputs, simd.lanes(x.dtype)):
        # The longer axis fills the lanes.
        if x.shape[0] != gy.shape[0]:
            x = np.repeat(x, gy.shape[0], axis=0)
        return np.ascontiguousarray(solve(kernels, gy, x, parameters, watch).swapaxes(-1, -2))
    source, out = prepare(x, gy)
    n, _, q, vectors = source.sizes[:4]
    replicas, columns = gy.shape[0], q * vectors
    grain = max(1, PIECE // (n * simd.lanes(x.dtype)))
    if watch is None:

        def work(start: int, stop: int) -> None:
            kernels.plain(out, source, start, stop, parameters)

        share(work, replicas * columns, grain)
    else:
        scale, top = x.dtype.type(watch.scale), x.dtype.type(np.inf)

        def work_watched(start: int, stop: int, sums: np.ndarray) -> None:
            kernels.watched(out, source, start, stop, parameters, scale, top, sums)

        watch.sums[...] += watched_pieces(work_watched, replicas, columns, n, grain)
    return np.ascontiguousarray(out.reshape(replicas, q, -1)[..., :n_inputs])


def watched_pieces(
    work: Callable[[int, int, np.ndarray], None], replicas: int, items: int, n: int, grain: int
) -> np.ndarray:
    """Call ``work(start, stop, sums)`` for pieces of ``replicas`` times ``items`` items, no piece
    of two replicas, and add up what they leave in ``sums`` (2, N), always in the same order.

    Returns:
        array (2, replicas, N).
    """
    grain = max(grain, -(-items // MOST_PIECES))
    pieces = -(-items // grain)
    sums = np.zeros((replicas * pieces, 2, n))

    def run(first: int, last: int) -> None:
        for piece in range(first, last):
            replica, part = divmod(piece, pieces)
            start = part * grain
            stop = min(start + grain, items)
            work(replica * items + start, replica * items + stop, sums[piece])

    share(run, replicas * pieces, 1)
    return sums.reshape(replicas, pieces, 2, n).sum(axis=1).swapaxes(0, 1)


def prepare(x: np.ndarray, gy: np.ndarray) -> tuple[Source, np.ndarray]:
    """Pad x to whole vectors and make the columns contiguous, where they are read often; the second
    answer has room for the estimates.
    """
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
    sizes = n, s, q, vectors, step, jump
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


@inlined
def begin(source: Any, column: int) -> Any:
    """Where the factors of a column begin, in x and in gy."""
    x, _, sizes, shared = source
    n, s, q, vectors, _, jump = sizes
    unit, vector = column // vectors, column % vectors
    apart = 0 if shared else (unit // q) * n * s * vectors * (simd.LINE // x.itemsize)
    return vector * jump + apart, unit * n * s


@jit
def fill(memory: Any, base: int, source: Any, column: int) -> Any:
    """Write the values of a column; answers with NaN in the lanes that hold one, 0 elsewhere."""
    x, gy = source.x, source.gy
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    lanes = simd.LINE // x.itemsize
    from_x, from_gy = begin(source, column)
    doubt = splat(x.dtype.type(0))
    for i in range(n):
        value = repeated(gy, from_gy + i * s) * load(x, from_x + i * s * step)
        for k in range(1, s):
            factor = repeated(gy, from_gy + i * s + k)
            value = fma(factor, load(x, from_x + (i * s + k) * step), value)
        store(memory, base + line(i) * lanes, value)
        doubt = keep_nan(doubt, value)
    return doubt


@jit
def fill_with_mean(memory: Any, base: int, source: Any, column: int) -> Any:
    """Write the values of a column; answers with their mean, which is NaN where one is.

    Deviations from the first row are added up: a large common mean then costs no digits.
    """
    x, gy = source.x, source.gy
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    lanes = simd.LINE // x.itemsize
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
def fill_sorted(memory: Any, base: int, source: Any, column: int, program: Any) -> Any:
    """``fill`` and ``sort`` in one: blocks are sorted before they are first written."""
    x, gy = source.x, source.gy
    groups, pairs, stages = program
    n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
    if s > 1 or n < BLOCK:
        doubt = fill(memory, base, source, column)
        sort(memory, base, n, groups, pairs, stages)
        return doubt
    lanes = simd.LINE // x.itemsize
    from_x, from_gy = begin(source, column)
    whole = n - n % BLOCK
    doubt = splat(x.dtype.type(0))
    for i in range(0, whole, BLOCK):
        found = _sort_products(
            x, from_x + i * step, step, gy, from_gy + i, memory, base + line(i) * lanes
        )
        doubt = keep_nan(doubt, found)
    top = splat(x.dtype.type(np.inf))
    for i in range(whole, n):
        value = repeated(gy, from_gy + i) * load(x, from_x + i * step)
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


# -- the loop over columns: what it does not define is inserted by ``_cloned``


def _plain(out: Any, source: Any, start: int, stop: int, parameters: Any) -> None:
    n = source.sizes[0]
    lanes = simd.LINE // out.itemsize
    memory, base = buffer(out, n)
    spare, at = buffer(out, n)
    room = memory, base, spare, at
    for column in range(start, stop):
        answer, _ = estimate(room, source, column, parameters)  # type: ignore[name-defined] # noqa: F821
        store(out, column * lanes, answer)


def _watched(
    out: Any, source: Any, start: int, stop: int, parameters: Any, scale: Any, top: Any, sums: Any
) -> None:
    n = source.sizes[0]
    lanes = simd.LINE // out.itemsize
    memory, base = buffer(out, n)
    spare, at = buffer(out, n)
    room = memory, base, spare, at
    rows = np.zeros(2 * n * lanes, out.dtype)
    for column in range(start, stop):
        answer, found = estimate(room, source, column, parameters)  # type: ignore[name-defined] # noqa: F821
        store(out, column * lanes, answer)
        facts = facts_of(room, n, found, parameters)  # type: ignore[name-defined] # noqa: F821
        sweep(room, source, column, facts, parameters, splat(scale), splat(top), rows)  # type: ignore[name-defined] # noqa: F821
        if (column - start) % FLUSH == FLUSH - 1 or column == stop - 1:
            flush(rows, sums)


def one_sweep(weight: Callable[..., Any]) -> Any:
    """A compiled function (room, source, column, facts, parameters, scale, top, rows) that
    adds the squares of a column to ``rows``: a vector a row for those let in, and behind these one
    for all. ``top`` is infinity.
    """

    @jit
    def sweep(
        room: Any, source: Any, column: int, facts: Any, parameters: Any, scale: Any, top: Any,
        rows: Any,
    ) -> None:  # fmt: skip
        x, gy = source.x, source.gy
        n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
        memory, base = room[0], room[1]
        lanes = simd.LINE // memory.itemsize
        from_x, from_gy = begin(source, column)
        if s > 1:
            fill(memory, base, source, column)
        center, shift = facts[0], facts[1] * scale
        shift = shift - shift - shift
        for i in range(n):
            if s > 1:
                value = load(memory, base + line(i) * lanes)
            else:
                # The minimum with infinity, which the compiler knows nothing of, keeps it from
                # forming value - center from the product before that is rounded.
                value = smaller(top, repeated(gy, from_gy + i) * load(x, from_x + i * step))
            deviation = fma(value - center, scale, shift)
            square = deviation * deviation
            share = weight(value, facts, parameters)
            store(rows, i * lanes, fma(share, square, load(rows, i * lanes)))
            store(rows, (n + i) * lanes, square + load(rows, (n + i) * lanes))

    return sweep


def two_sweeps(weight: Callable[..., Any], normalized: bool, *, filled: bool = False) -> Any:
    """As ``one_sweep``, where the weighted mean is not known beforehand.

    Args:
        weight, normalized: as for ``column_kernels``.
        filled: whether the buffer holds the values already, in the order of the rows.
    """

    @jit
    def sweep(
        room: Any, source: Any, column: int, facts: Any, parameters: Any, scale: Any, top: Any,
        rows: Any,
    ) -> None:  # fmt: skip
        memory, base, weights, at = room
        n = source.sizes[0]
        dtype = memory.dtype.type
        lanes = simd.LINE // memory.itemsize
        x, gy = source.x, source.gy
        s, step = source.sizes[1], source.sizes[4]
        from_x, from_gy = begin(source, column)
        if s > 1:
            fill(memory, base, source, column)
        zero, center = splat(dtype(0)), facts[0]
        even_w, odd_w, even_u, odd_u = zero, zero, zero, zero
        for i in range(n):
            if filled or s > 1:
                value = load(memory, base + line(i) * lanes)
            else:
                value = smaller(top, repeated(gy, from_gy + i) * load(x, from_x + i * step))
            one = weight(value, facts, parameters)
            store(weights, at + line(i) * lanes, one)
            store(memory, base + line(i) * lanes, value - center)
            even_w, odd_w = odd_w, even_w + one
            even_u, odd_u = odd_u, fma(one, value - center, even_u)
        total = even_w + odd_w
        shift = zero - (even_u + odd_u) / total * scale
        factor = splat(dtype(n)) / total if normalized else splat(dtype(1))
        noise = absolute(center * scale) * splat(dtype(n * EPS))
        for i in range(n):
            deviation = fma(load(memory, base + line(i) * lanes), scale, shift)
            if memory.itemsize == 8:
                # What rounding leaves of a mean of equal values is no deviation.
                deviation = choose(noise, absolute(deviation), deviation, zero)
            square = deviation * deviation
            share = load(weights, at + line(i) * lanes) * factor
            store(rows, i * lanes, fma(share, square, load(rows, i * lanes)))
            store(rows, (n + i) * lanes, square + load(rows, (n + i) * lanes))

    return sweep


@jit
def flush(rows: Any, sums: Any) -> None:
    """Add the vectors of rows to sums (2, N) in float64, and begin anew."""
    n = sums.shape[1]
    lanes = simd.LINE // rows.itemsize
    zero = splat(rows.dtype.type(0))
    for k in range(2):
        for i in range(n):
            at = (k * n + i) * lanes
            sums[k, i] += np.float64(simd.lane_sum(load(rows, at)))
            store(rows, at, zero)
