"""Distances between rows from their inner products: to the nearest neighbors, and to all.

Measured gain over the array code: 2.2 for 100 rows, 2.7 for 64 and 256. That is 0.06 ms of the
0.2 ms that Krum would take at 2 -> 10 with 100 samples, and 0.4 of 12 ms at 784 -> 1000 with 256.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.vector_operations import ranked

FEW = 8
"""Rows left out of a sum, or in it, up to which they are found without sorting."""

BLOCK = 8
"""Rows at a time where a triangle is mirrored: a cache line of what is written."""


def nearest_sums(gram: np.ndarray, count: int, squared: bool) -> np.ndarray:
    """The sum of the ``count`` least (squared) distances of every row to the rows, itself included.

    Args:
        gram: inner products (T, N, N), float64.
        count: 1 to N.
        squared: whether the distances are squared.

    Returns:
        array (T, N).
    """
    gram = gram if gram.flags.carray else gram.copy()
    distances = np.empty(gram.shape)
    _distances(gram, distances, squared)
    n = gram.shape[-1]
    if min(count, n - count) > FEW:
        distances.sort(axis=-1)
        return distances[..., :count].sum(axis=-1)
    sums = np.empty(gram.shape[:-1])
    _sums_of_least(distances, count, sums)
    return sums


@Kernel
def _distances(gram: Any, out: Any, squared: bool) -> None:
    for replica in range(len(gram)):
        distances(gram[replica], out[replica])
    if not squared:
        flat = out.reshape(-1)
        for i in range(len(flat)):
            flat[i] = np.sqrt(flat[i])


@jit
def distances(gram: Any, out: Any) -> None:
    """Squared distances between rows: symmetric, never negative, zero on the diagonal."""
    n = len(gram)
    norms = np.empty(n)
    for i in range(n):
        norms[i] = gram[i, i]
    for i in range(n):
        norm = norms[i]
        for j in range(n):
            square = norm + norms[j] - 2.0 * gram[i, j]
            out[i, j] = square if square > 0.0 else 0.0
        out[i, i] = 0.0
    # The halves of a Gram matrix may differ by rounding, which must not decide between rows.
    for start in range(0, n - BLOCK + 1, BLOCK):
        for i in range(start + BLOCK, n):
            for k in range(BLOCK):
                out[i, start + k] = out[start + k, i]
    for i in range(n):
        for j in range(i - i % BLOCK, i):
            out[i, j] = out[j, i]


@Kernel
def _sums_of_least(distances: Any, count: int, sums: Any) -> None:
    n = distances.shape[1]
    kept = min(count, n - count)
    of_least = kept == count
    # The matrix is symmetric, so lanes run along its rows: lane j sees all distances of row j.
    best, passing = np.empty((kept, n)), np.empty(n)
    for replica in range(len(distances)):
        best[:] = np.inf if of_least else 0.0
        total = sums[replica]
        total[:] = 0.0
        for i in range(n):
            passing[:] = distances[replica, i]
            # What is kept are the least or the largest so far, in order; each new one finds its
            # place, and pushes another out at the end.
            for k in range(kept):
                kept_row = best[k]
                if of_least:
                    for j in range(n):
                        low = min(kept_row[j], passing[j])
                        passing[j] = max(kept_row[j], passing[j])
                        kept_row[j] = low
                else:
                    for j in range(n):
                        high = max(kept_row[j], passing[j])
                        passing[j] = min(kept_row[j], passing[j])
                        kept_row[j] = high
            if not of_least:  # the zeros that the largest began with come out too, and add nothing
                for j in range(n):
                    total[j] += passing[j]
        if of_least:
            for k in range(kept):
                for j in range(n):
                    total[j] += best[k, j]


@jit
def medoid(distances: Any, tie: float, weights: Any) -> None:
    """All weight on the row with the least median distance to the rows, shared where rows tie.

    Args:
        distances: squared distances (N, N); changed.
        tie: relative difference up to which medians are equal.
        weights: the result, (N,).
    """
    n = len(distances)
    least = np.inf
    for i in range(n):
        row = distances[i]
        enough = least * (1.0 + tie)
        nearer = 0
        for j in range(n):
            nearer += row[j] <= enough
        # A selection is worth its time only where the median is among the least so far.
        weights[i] = ranked(row, n // 2) if nearer > n // 2 else np.inf
        least = min(least, weights[i])
    chosen = 0
    for i in range(n):
        weights[i] = weights[i] <= least * (1.0 + tie)
        chosen += weights[i]
    for i in range(n):
        weights[i] /= chosen
