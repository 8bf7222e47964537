"""Small helpers for arrays of rows and their Gram matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.reduction import Array


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
