"""The centered Gram matrix of outer products; see ``OuterProducts.centered_gram`` for the formula.

The differences of the rows from a central one lie in *panels* of ``WIDTH`` samples, all factors of
one input side by side. Tiles of the two Gram matrices, WIDTH x WIDTH, are formed in registers, a
few inputs of all panels at a time, and joined while they are in the cache. Threads share the rows
of tiles evenly where the symmetric product of a matrix library uses one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.simd import element, fma, load, repeated, splat, store
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

ROWS = 4
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
        low, at = panel * WIDTH, panel * WIDTH * k
        count = min(WIDTH, n - low)
        first = second = splat(0.0)
        for p in range(k):
            c, source = center[p], low * k + p
            if count == WIDTH:  # a loop of known length takes half the time
                for i in range(WIDTH):
                    out[at + i] = np.float64(element(flat, source + i * k)) - c
            else:
                for i in range(count):
                    out[at + i] = np.float64(flat[source + i * k]) - c
                for i in range(count, WIDTH):
                    out[at + i] = 0.0
            first = fma(load(out, at), splat(c), first)
            second = fma(load(out, at + LANES), splat(c), second)
            at += WIDTH
        store(along, low, first)
        store(along, low + LANES, second)


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
        depth = min(DEPTH, k - begin) * WIDTH
        for other in range(high):
            b = (other * k + begin) * WIDTH
            for row in range(max(other - low, 0) * WIDTH, group * WIDTH, ROWS):
                a = ((low + row // WIDTH) * k + begin) * WIDTH + row % WIDTH
                at = (other * group * WIDTH + row) * WIDTH
                c00, c01 = load(tiles, at), load(tiles, at + 8)
                c10, c11 = load(tiles, at + 16), load(tiles, at + 24)
                c20, c21 = load(tiles, at + 32), load(tiles, at + 40)
                c30, c31 = load(tiles, at + 48), load(tiles, at + 56)
                for p in range(0, depth, WIDTH):
                    b0, b1 = load(panels, b + p), load(panels, b + p + 8)
                    a0, a1 = repeated(panels, a + p), repeated(panels, a + p + 1)
                    a2, a3 = repeated(panels, a + p + 2), repeated(panels, a + p + 3)
                    c00, c01 = fma(a0, b0, c00), fma(a0, b1, c01)
                    c10, c11 = fma(a1, b0, c10), fma(a1, b1, c11)
                    c20, c21 = fma(a2, b0, c20), fma(a2, b1, c21)
                    c30, c31 = fma(a3, b0, c30), fma(a3, b1, c31)
                store(tiles, at, c00)
                store(tiles, at + 8, c01)
                store(tiles, at + 16, c10)
                store(tiles, at + 24, c11)
                store(tiles, at + 32, c20)
                store(tiles, at + 40, c21)
                store(tiles, at + 48, c30)
                store(tiles, at + 56, c31)
