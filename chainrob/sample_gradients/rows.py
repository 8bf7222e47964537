"""Small helpers for arrays of rows and their Gram matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.reduction import Array
from chainrob.sample_gradients.row_index import PADDING_LIMIT


def central_row(array: Array) -> Array:
    """A row of ordinary size to center on: of ``array`` (*R, N, K) the row of median norm,
    (*R, 1, K).

    It is a data row and no mean, because one row 1e15 times the rest would drag any mean with it.
    """
    xp = array_module(array)
    if array.shape[-1] == 0:
        return array[..., :1, :]
    norms = xp.abs(array).max(axis=-1)
    middle = xp.argsort(norms, axis=-1)[..., (array.shape[-2] - 1) // 2]
    return xp.take_along_axis(array, middle[..., None, None], axis=-2)


def products(rows: Array) -> Array:
    """Inner products of rows (*R, N, K): (*R, N, N)."""
    return rows @ rows.swapaxes(-1, -2)


def centered_products(x: Array, gy: Array, constant: float) -> Array:
    """Inner products (*R, N, N) of the outer products gy_n x_n^T less a common row.

    With x = xc + dx and gy = gc + dg, the centered row is dg x^T + gc dx^T: its products come from
    the two Gram matrices of the differences, so that what the rows have in common never meets their
    differences.

    Args:
        x: inputs, (*R, N, P), float64.
        gy: output gradients, (*R, N, Q), float64.
        constant: square of one more input that is the same in all samples.
    """
    xc, gc = central_row(x), central_row(gy)
    dx, dg = x - xc, gy - gc
    along_x = (dx @ xc.swapaxes(-1, -2))[..., 0]
    along_g = (dg @ gc.swapaxes(-1, -2))[..., 0]
    size_x, size_g = (xc * xc).sum(axis=-1), (gc * gc).sum(axis=-1)
    dx_dx = products(dx)
    x_dx = dx_dx + along_x[..., None, :]
    x_x = x_dx + (along_x + (size_x + constant))[..., :, None]
    cross = along_g[..., :, None] * x_dx
    return products(dg) * x_x + cross + cross.swapaxes(-1, -2) + size_g[..., None] * dx_dx


def squared_distances(gram: Array) -> Array:
    """Squared distances between rows from their (centered) Gram matrix, both (*R, N, N).

    Symmetric to the last bit, never negative, zero on the diagonal.
    """
    xp = array_module(gram)
    norms = xp.diagonal(gram, axis1=-2, axis2=-1)
    products = gram + gram.swapaxes(-1, -2)
    distances = xp.maximum(norms[..., :, None] + norms[..., None, :] - products, 0.0)
    index = xp.arange(gram.shape[-1])
    distances[..., index, index] = 0.0
    return distances


@lru_cache(maxsize=32)
def block_matrix(n_samples: int, n_blocks: int, xp: Any = np) -> Array:
    """(B, N) float64: row b averages the b-th contiguous block of samples. Not to be changed: the
    next call is answered with the same array.
    """
    edges = (xp.arange(n_blocks + 1) * n_samples) // n_blocks
    start, stop = edges[:-1, None], edges[1:, None]
    index = xp.arange(n_samples)
    return ((index >= start) & (index < stop)) / (stop - start)


def members_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The rows that each mixed row is made of, and their shares in it, both (M, S); what fills up a
    mixed row has share 0.

    Args:
        matrix: one row a mixed row, (M, N).

    Returns:
        None where mixed rows would take more than ``PADDING_LIMIT`` times the rows.
    """
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    most = int(counts.max(initial=1))
    if len(matrix) * most > PADDING_LIMIT * matrix.shape[1]:
        return None
    place = np.arange(rows.size) - (np.cumsum(counts) - counts)[rows]
    index, share = np.zeros((len(matrix), most), np.int64), np.zeros((len(matrix), most))
    index[rows, place], share[rows, place] = columns, matrix[rows, columns]
    return index, share


def largest_entry(rows: Array) -> Array:
    """The largest absolute value along the last axis; 0 where it is empty."""
    xp = array_module(rows)
    return xp.abs(rows).max(axis=-1) if rows.shape[-1] else xp.zeros(rows.shape[:-1])
