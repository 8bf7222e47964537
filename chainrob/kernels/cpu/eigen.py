"""The largest eigenvalue of a symmetric matrix and its eigenvector, without all the others.

Lanczos' method with every new vector made orthogonal to all before: after k steps the matrix is a
tridiagonal one T of k rows on the vectors found, whose largest eigenpair (theta, z) is known to be
that of the matrix but for a residual of b |z_k|, b what is left over by the last step. It ends
where that is no more than rounding. LAPACK finds all N eigenvectors, or is asked where N is small
or the end is long in coming.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.vector_operations import combine, inner

FEW = 4
"""Rows of a matrix up to which LAPACK is the faster one."""

EPS = float(np.finfo(np.float64).eps)

TINY = float(np.finfo(np.float64).tiny)

EVERY = 4
"""Steps between two looks at T."""

GOLDEN = 0.6180339887498949
"""Its multiples less their whole parts are a start without any pattern, the same at every call."""


def largest_eigenpair(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of positive semidefinite matrices (T, N, N): values (T,) and vectors (T, N)."""
    count, n = matrices.shape[:2]
    if n <= FEW:
        return _all_of(matrices)
    matrices = matrices if matrices.flags.carray else matrices.copy()
    values, vectors, found = np.empty(count), np.empty((count, n)), np.empty(count, np.bool_)
    _largest(matrices, 32 + n // 4, values, vectors, found)
    if not found.all():
        values[~found], vectors[~found] = _all_of(matrices[~found])
    return values, vectors


def _all_of(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrices)
    return values[:, -1], vectors[:, :, -1]


@Kernel
def _largest(matrices: Any, most: int, values: Any, vectors: Any, found: Any) -> None:
    n = matrices.shape[1]
    most = min(most, n)
    basis = np.empty((most + 1, n))
    work = np.empty((5, most))
    for replica in range(len(matrices)):
        values[replica], found[replica] = _lanczos(
            matrices[replica], most, basis, work, vectors[replica]
        )


@jit
def _lanczos(matrix: Any, most: int, basis: Any, work: Any, vector: Any) -> Any:
    """The eigenvalue, and whether it is one; ``vector`` is left holding the eigenvector."""
    n = len(matrix)
    diagonal, beside, z = work[0], work[1], work[2]
    for j in range(n):
        vector[j] = (j + 1) * GOLDEN % 1.0 - 0.5
    unit = 0.0
    for j in range(n):
        unit = max(unit, matrix[j, j])
    if not unit >= TINY:  # nothing, or as good as that
        vector[:] = 0.0
        vector[0] = 1.0
        return 0.0, unit == 0.0
    # One product takes out what the matrix maps to zero.
    _product(matrix, vector, unit, basis[0])
    basis[0] /= np.sqrt(inner(basis[0], basis[0]))
    theta, size = 0.0, 0.0
    for k in range(most):
        rest = basis[k + 1]
        _product(matrix, basis[k], unit, rest)
        diagonal[k] = inner(basis[k], rest)
        for _ in range(2):  # once leaves rounding of the length taken out, twice of what is left
            for i in range(k + 1):
                along = inner(basis[i], rest)
                for j in range(n):
                    rest[j] -= along * basis[i, j]
        beside[k] = np.sqrt(inner(rest, rest))
        size = max(size, abs(diagonal[k]) + beside[k])
        over = beside[k] <= EPS * size  # the vectors found are a space of their own
        if over or k % EVERY == EVERY - 1 or k == most - 1:
            theta = _top(diagonal, beside, k + 1, theta)
            _top_vector(diagonal, beside, k + 1, theta, work[3], work[4], z)
            if over or beside[k] * abs(z[k]) <= 4.0 * EPS * theta:
                combine(z[: k + 1], basis, vector)
                vector /= np.sqrt(inner(vector, vector))
                return theta * unit, True
        rest /= beside[k]
    return theta * unit, False


@jit
def _product(matrix: Any, vector: Any, unit: float, out: Any) -> None:
    """The product over the largest entry: no square of it is out of range."""
    combine(vector, matrix, out)
    for j in range(len(out)):
        out[j] /= unit


@jit
def _top(diagonal: Any, beside: Any, k: int, low: float) -> float:
    """The largest eigenvalue of T, by bisection: a number is above it where T less that number has
    negative pivots only. That of a smaller T is a bound from below.
    """
    high = 0.0
    for i in range(k):
        reach = beside[i] if i < k - 1 else 0.0
        high = max(high, diagonal[i] + reach + (beside[i - 1] if i else 0.0))
    high *= 1.0 + 4.0 * EPS
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        pivot, above = diagonal[0] - middle, True
        for i in range(1, k):
            if pivot >= 0.0:
                above = False
                break
            pivot = diagonal[i] - middle - beside[i - 1] * beside[i - 1] / pivot
        if above and pivot < 0.0:
            high = middle
        else:
            low = middle


@jit
def _top_vector(
    diagonal: Any, beside: Any, k: int, theta: float, down: Any, up: Any, z: Any
) -> None:
    """The eigenvector of T, of length one, by elimination from both ends: where the two meet in the
    least pivot the vector is large, and from there it is written down to either side.
    """
    down[0], up[k - 1] = diagonal[0] - theta, diagonal[k - 1] - theta
    for i in range(1, k):
        down[i] = diagonal[i] - theta - beside[i - 1] * beside[i - 1] / _not_zero(down[i - 1])
    for i in range(k - 2, -1, -1):
        up[i] = diagonal[i] - theta - beside[i] * beside[i] / _not_zero(up[i + 1])
    meet, least = 0, np.inf
    for i in range(k):
        pivot = abs(down[i] + up[i] - (diagonal[i] - theta))
        if pivot < least:
            meet, least = i, pivot
    z[meet] = 1.0
    for i in range(meet - 1, -1, -1):
        z[i] = -beside[i] * z[i + 1] / _not_zero(down[i])
    for i in range(meet + 1, k):
        z[i] = -beside[i - 1] * z[i - 1] / _not_zero(up[i])
    length = np.sqrt(inner(z[:k], z[:k]))
    for i in range(k):
        z[i] /= length


@jit
def _not_zero(pivot: float) -> float:
    return pivot if pivot != 0.0 else 1e-300
