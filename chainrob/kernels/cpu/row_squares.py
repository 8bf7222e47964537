"""How much of each row's squared deviation a column kernel lets in, added up while it is at it.

See ``Robustifier.sample_weights`` for the definition, and ``RowSquares`` for the sums. A sweep over
a column that has just been estimated finds it in the first-level cache. Squares are added up in the
dtype of the values, a vector a row, and now and then join sums in float64. Deviations are scaled by
a power of two first, so that no square leaves the range of numbers unless it is 2^118 times less
than the largest (float32).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import begin, fill, line
from chainrob.kernels.cpu.compiling import (
    Kernel,
    inlined,
    jit,
    lean,
    rounding_products,
)
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    load,
    repeated,
    splat,
    store,
)
from chainrob.kernels.cpu.vector_operations import largest_magnitude
from chainrob.kernels.threads import share

EPS = float(np.finfo(np.float64).eps)

MOST_PIECES = 64
"""Pieces at most of a watched problem, each of which has sums of its own for the N rows."""

FLUSH = 64
"""Columns whose squares are added up in the dtype of the values before they join the sums in
float64."""


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
    of_x, of_gy = np.where(np.isfinite(sizes), np.frexp(sizes)[1], 0)
    return int(of_x), int(of_gy)


def largest_magnitudes(x: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """The largest magnitudes of two arrays, (2,)."""
    sizes = np.empty(2, x.dtype)
    # Vectors are loaded from memory as it lies; Numba compiles anew for arrays that are read-only.
    x, gy = x if x.flags.carray else x.copy(), gy if gy.flags.carray else gy.copy()
    _sizes(x.reshape(-1), gy.reshape(-1), sizes)
    return sizes


@Kernel
def _sizes(x: Any, gy: Any, sizes: Any) -> None:
    sizes[0], sizes[1] = largest_magnitude(x, 0, x.size), largest_magnitude(gy, 0, gy.size)


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


def one_sweep(weight: Callable[..., Any]) -> Any:
    """A compiled function (room, source, column, facts, parameters, scale, rows) that
    adds the squares of a column to ``rows``: see ``vector_sums``. The values are those of the
    column to the last bit.
    """

    @rounding_products
    def sweep(
        room: Any, source: Any, column: int, facts: Any, parameters: Any, scale: Any, rows: Any
    ) -> None:  # fmt: skip
        x, gy = source.x, source.gy
        n, s, step = source.sizes[0], source.sizes[1], source.sizes[4]
        memory, base = room[0], room[1]
        lanes = simd.lanes(memory)
        from_x, from_gy = begin(source, column)
        if s > 1:
            fill(memory, base, source, column)
        zero = scale - scale
        center, shift = facts[0], zero - facts[1] * scale
        noise = rounding(memory, n, center, scale)
        for i in range(n):
            if s > 1:
                value = load(memory, base + line(i) * lanes)
            else:
                value = repeated(gy, from_gy + i) * load(x, from_x + i * step)
            deviation = fma(value - center, scale, shift)
            if simd.lanes(memory) == 8:
                deviation = choose(noise, absolute(deviation), deviation, zero)
            square = deviation * deviation
            share = weight(value, facts, parameters)
            add(rows, 2 * i * lanes, lanes, share, square)

    return sweep


def two_sweeps(weight: Callable[..., Any], normalized: bool, *, filled: bool = False) -> Any:
    """As ``one_sweep``, where the weighted mean is not known beforehand.

    Args:
        weight, normalized: as for ``column_kernels``.
        filled: whether the buffer holds the values already, in the order of the rows.
    """

    @rounding_products
    def sweep(
        room: Any, source: Any, column: int, facts: Any, parameters: Any, scale: Any, rows: Any
    ) -> None:  # fmt: skip
        memory, base, weights, at = room
        n = source.sizes[0]
        dtype = memory.dtype.type
        lanes = simd.lanes(memory)
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
                value = repeated(gy, from_gy + i) * load(x, from_x + i * step)
            one = weight(value, facts, parameters)
            store(weights, at + line(i) * lanes, one)
            store(memory, base + line(i) * lanes, value - center)
            even_w, odd_w = odd_w, even_w + one
            even_u, odd_u = odd_u, fma(one, value - center, even_u)
        total = even_w + odd_w
        shift = zero - (even_u + odd_u) / total * scale
        factor = splat(dtype(n)) / total if normalized else splat(dtype(1))
        noise = rounding(memory, n, center, scale)
        for i in range(n):
            deviation = fma(load(memory, base + line(i) * lanes), scale, shift)
            if simd.lanes(memory) == 8:
                deviation = choose(noise, absolute(deviation), deviation, zero)
            square = deviation * deviation
            share = load(weights, at + line(i) * lanes) * factor
            add(rows, 2 * i * lanes, lanes, share, square)

    return sweep


@inlined
def rounding(memory: Any, n: int, center: Any, scale: Any) -> Any:
    """What rounding leaves of a mean of n equal values, which is no deviation; float64 asks."""
    return absolute(center * scale) * splat(memory.dtype.type(n * EPS))


@jit
def vector_sums(like: Any, n: int) -> Any:
    """Two vectors of zeros for each of n rows, side by side and each on one cache line.

    Sums that lie a multiple of 4096 bytes apart would have to wait for one another.
    """
    lanes = simd.lanes(like)
    memory = np.zeros((2 * n + 1) * lanes, like.dtype)
    return memory[(-memory.ctypes.data % simd.LINE) // like.itemsize :]


@inlined
def add(rows: Any, at: int, lanes: int, share: Any, square: Any) -> None:
    """Add the squares of the row whose vectors begin at ``at``, and the share that is let in."""
    store(rows, at, fma(share, square, load(rows, at)))
    store(rows, at + lanes, square + load(rows, at + lanes))


@lean
def flush(rows: Any, sums: Any) -> None:
    """Add the vectors of rows to sums (2, N) in float64, and begin anew."""
    lanes = simd.lanes(rows)
    zero = splat(rows.dtype.type(0))
    for i in range(sums.shape[1]):
        for k in range(2):
            at = (2 * i + k) * lanes
            sums[k, i] += np.float64(simd.lane_sum(load(rows, at)))
            store(rows, at, zero)
