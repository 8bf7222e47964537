"""The centered Gram matrix of outer products; see ``OuterProducts.centered_gram`` for the formula.

The differences of the rows from a central one lie in *panels* of ``WIDTH`` samples, all factors of
one input side by side. Tiles of the two Gram matrices, WIDTH x WIDTH, are formed in registers, a
few inputs of all panels at a time, and joined while they are in the cache. Threads share the rows
of tiles evenly where the symmetric product of a matrix library uses one.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.simd import (
    element,
    fma,
    fused,
    load,
    loaded,
    repeated,
    repeated_at,
    splat,
    store,
    stored,
    widened,
)
from chainrob.kernels.cpu.vector_operations import largest_magnitude
from chainrob.kernels.threads import share

LANES = 8
"""Numbers in a vector of float64."""

WIDTH = 2 * LANES
"""Samples a panel."""

DEPTH = 64
"""Inputs taken at a time: those of two panels fit into half of the first-level cache."""

GROUP = 4
"""Panels that meet all others together."""

ROWS = 8 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 2
"""Samples whose products with a panel are held in registers."""

PIECE = 1 << 17
"""Numbers a piece of work holds."""


def centered_gram(x: np.ndarray, gy: np.ndarray, constant: float) -> np.ndarray:
    """The Gram matrix (N, N), float64, of gy_n x_n^T less a common row.

    Args:
        x: inputs (N, P), float32 or float64.
        gy: output gradients (N, Q), likewise.
        constant: square of one more input that is the same in all samples.
    """
    n = len(x)
    dx, along_x, size_x = differences(x)
    dg, along_g, size_g = differences(gy)
    panels = -(-n // WIDTH)
    out = np.empty((panels * WIDTH, panels * WIDTH))
    flat = out.ravel()

    def work(start: int, stop: int) -> None:
        _gram(dx, dg, along_x, along_g, size_x + constant, size_g, flat, group, start, stop)

    group = max(1, min(GROUP, panels // 4))
    large = n * n * (x.shape[1] + gy.shape[1]) > 4 * PIECE
    share(work, -(-panels // group), 1 if large else panels)
    return np.ascontiguousarray(out[:n, :n])


def differences(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows (N, K) less a row c among them whose largest magnitude is the median one.

    Returns:
        the differences, in panels, flat; their inner products with c, (N,) padded to whole panels;
        and the square of c. All in float64.
    """
    rows = rows if rows.flags.carray else rows.copy()
    n, k = rows.shape
    panels = -(-n // WIDTH)
    sizes = np.empty(n, rows.dtype)
    _sizes(rows.ravel(), sizes, k)
    center = rows[np.argsort(sizes)[(n - 1) // 2]].astype(np.float64)
    out, along = np.empty(panels * k * WIDTH), np.empty(panels * WIDTH)
    grain = max(1, PIECE // (WIDTH * max(k, 1)))
    flat = rows.ravel()
    share(lambda start, stop: _subtract(flat, n, center, out, along, start, stop), panels, grain)
    return out, along, float(center @ center)


@Kernel
def _sizes(flat: Any, sizes: Any, k: int) -> None:
    for i in range(len(sizes)):
        sizes[i] = largest_magnitude(flat, i * k, (i + 1) * k)


@Kernel
def _subtract(flat: Any, n: int, center: Any, out: Any, along: Any, start: int, stop: int) -> None:
    k = len(center)
    for panel in range(start, stop):
        for low in range(panel * WIDTH, panel * WIDTH + WIDTH, LANES):
            at, source = panel * WIDTH * k + low % WIDTH, low * k
            count = min(LANES, n - low)
            total, p = splat(0.0), 0
            if count == LANES:
                while p + LANES <= k:
                    total = _turned(flat, source + p, k, center, p, out, at + p * WIDTH, total)
                    p += LANES
            while p < k:
                to = at + p * WIDTH
                store(out, to, splat(0.0))
                for i in range(count):
                    out[to + i] = np.float64(flat[source + p + i * k]) - center[p]
                total = fma(load(out, to), repeated(center, p), total)
                p += 1
            store(along, low, total)


@intrinsic
def _turned(
    typingctx: Any, rows: Any, at: Any, width: Any, center: Any, first: Any, out: Any, to: Any,
    along: Any,
) -> Any:  # fmt: skip
    """Write ``LANES`` samples times as many inputs, less the center's, with the samples side by
    side: a transposition in registers.

    Args:
        rows: flat; the samples' numbers start at ``at``, a row ``width`` after the other.
        center: the inputs' numbers start at ``first``.
        out: the samples of the first input start at ``to``, those of the next ``WIDTH`` later.
        along: a vector; the inner products of the differences with the center are added to it.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, at, width, center, first, out, to, along = args
        of_rows, of_center, of_out = (signature.args[number] for number in (0, 3, 5))
        step = at.type
        shift = loaded(builder, context, of_center, center, first)
        vectors = []
        for row in range(LANES):
            offset = builder.add(at, builder.mul(width, step(row)))
            vector = widened(builder, context, of_rows, rows, offset)
            vectors.append(builder.fsub(vector, shift))
        for distance in (1, 2, 4):
            for row in range(LANES):
                if row & distance == 0:
                    pair = vectors[row], vectors[row + distance]
                    for number, base in ((row, 0), (row + distance, distance)):
                        chosen = [
                            lane + base if lane & distance == 0 else lane + base + LANES - distance
                            for lane in range(LANES)
                        ]
                        index = ir.Constant(ir.VectorType(ir.IntType(32), LANES), chosen)
                        vectors[number] = builder.shuffle_vector(*pair, index)
        for number, vector in enumerate(vectors):
            place = builder.add(to, step(number * WIDTH))
            stored(builder, context, of_out, out, place, vector)
            place = builder.add(first, step(number))
            factor = repeated_at(builder, context, of_center, center, place)
            along = fused(builder, vector, factor, along)
        return along

    integer = types.intp
    arguments = rows, integer, integer, center, integer, out, integer, along
    return along(*arguments), codegen


@Kernel
def _gram(
    dx: Any, dg: Any, along_x: Any, along_g: Any, size_x: float, size_g: float, out: Any,
    group: int, start: int, stop: int,
) -> None:  # fmt: skip
    """Rows of tiles, a group of them at a time."""
    n = len(along_x)
    panels = n // WIDTH
    square_x, square_g = splat(size_x), splat(size_g)
    n_inputs, n_outputs = len(dx) // len(along_x), len(dg) // len(along_x)
    # One tile for each panel of the group and each panel that it meets.
    tiles_x, tiles_g = np.empty(group * WIDTH * n), np.empty(group * WIDTH * n)
    for item in range(start, stop):
        # The last panels meet the most others: they come first, so that threads end together.
        high = panels - item * group
        low = max(high - group, 0)
        _products(dx, low, high, n_inputs, tiles_x)
        _products(dg, low, high, n_outputs, tiles_g)
        for other in range(high):
            first = max(low, other) * WIDTH
            for row in range(first, high * WIDTH):
                a_x, a_g = repeated(along_x, row), repeated(along_g, row)
                for column in range(0, WIDTH, LANES):
                    at = (other * (high - low) * WIDTH + row - low * WIDTH) * WIDTH + column
                    along = other * WIDTH + column
                    products = product_of_rows(
                        load(tiles_x, at), load(tiles_g, at), a_x, load(along_x, along), a_g,
                        load(along_g, along), square_x, square_g,
                    )  # fmt: skip
                    store(out, row * n + along, products)
            for row in range(first, high * WIDTH):
                for column in range(other * WIDTH, min(other * WIDTH + WIDTH, row)):
                    out[column * n + row] = element(out, row * n + column)


@jit
def product_of_rows(
    dx_dx: float, dg_dg: float, x_i: float, x_j: float, g_i: float, g_j: float,
    size_x: float, size_g: float,
) -> float:  # fmt: skip
    """The inner product of two centered rows.

    Args:
        dx_dx, dg_dg: inner products of the differences from the central row's factors: numbers or
            vectors, as are those below.
        x_i, x_j, g_i, g_j: inner products of the differences with those factors.
        size_x, size_g: squares of those factors.
    """
    cross = g_i * (dx_dx + x_j) + g_j * (dx_dx + x_i)
    return dg_dg * (dx_dx + x_i + x_j + size_x) + cross + size_g * dx_dx


@jit
def _products(panels: Any, low: int, high: int, k: int, tiles: Any) -> None:
    """Inner products of the samples of the panels low to high - 1 with those of all panels before.

    ``DEPTH`` inputs of all panels stay in the second-level cache while they meet.
    """
    zero = splat(0.0)
    group = high - low
    for i in range(0, group * WIDTH * high * WIDTH, LANES):
        store(tiles, i, zero)
    for begin in range(0, k, DEPTH):
        depth = min(DEPTH, k - begin)
        for other in range(high):
            b = (other * k + begin) * WIDTH
            for row in range(max(other - low, 0) * WIDTH, group * WIDTH, ROWS):
                a = ((low + row // WIDTH) * k + begin) * WIDTH + row % WIDTH
                _add_products(panels, a, b, depth, tiles, (other * group * WIDTH + row) * WIDTH)


@intrinsic
def _add_products(
    typingctx: Any, panels: Any, a: Any, b: Any, depth: Any, tiles: Any, at: Any
) -> Any:  # fmt: skip
    """Add the products of ``ROWS`` samples of one panel with all of another, in registers.

    Args:
        panels: factors; those of the samples start at ``a``, those of the other panel at ``b``.
        depth: how many inputs are summed over.
        tiles: the products, (ROWS, WIDTH), start at ``at``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        panels, a, b, depth, tiles, at = args
        of_panels, of_tiles, step = signature.args[0], signature.args[4], a.type
        places = [
            builder.add(at, step(row * WIDTH + column))
            for row in range(ROWS)
            for column in range(0, WIDTH, LANES)
        ]
        sums = [
            cgutils.alloca_once_value(builder, loaded(builder, context, of_tiles, tiles, place))
            for place in places
        ]
        with cgutils.for_range(builder, depth, intp=step) as loop:
            offset = builder.mul(loop.index, step(WIDTH))
            others = [
                loaded(
                    builder, context, of_panels, panels,
                    builder.add(builder.add(b, offset), step(column)),
                )
                for column in range(0, WIDTH, LANES)
            ]  # fmt: skip
            first = builder.add(a, offset)
            for number, total in enumerate(sums):
                row, column = divmod(number, len(others))
                if column == 0:
                    place = builder.add(first, step(row))
                    factor = repeated_at(builder, context, of_panels, panels, place)
                more = fused(builder, factor, others[column], builder.load(total))
                builder.store(more, total)
        for place, total in zip(places, sums, strict=True):
            stored(builder, context, of_tiles, tiles, place, builder.load(total))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(panels, integer, integer, integer, tiles, integer), codegen
