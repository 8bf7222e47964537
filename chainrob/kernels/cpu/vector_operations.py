"""Arithmetic of plain vectors and matrices inside kernels."""

from __future__ import annotations

from typing import Any

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.compiling import jit
from chainrob.kernels.cpu.simd import absolute, larger, load, splat


@jit
def inner(u: Any, v: Any) -> float:
    """The inner product, in four sums: one would be a chain of additions that wait in line."""
    n = len(u)
    a = b = c = d = 0.0
    i = 0
    while i + 4 <= n:
        a += u[i] * v[i]
        b += u[i + 1] * v[i + 1]
        c += u[i + 2] * v[i + 2]
        d += u[i + 3] * v[i + 3]
        i += 4
    while i < n:
        a += u[i] * v[i]
        i += 1
    return (a + b) + (c + d)


@jit
def combine(vector: Any, matrix: Any, out: Any) -> None:
    """The rows of a matrix weighted by a vector, in all: lanes run along the result.

    With a symmetric matrix it is the product of matrix and vector.
    """
    n = len(out)
    for j in range(n):
        out[j] = 0.0
    i = 0
    while i + 4 <= len(vector):
        a, b, c, d = vector[i], vector[i + 1], vector[i + 2], vector[i + 3]
        for j in range(n):
            out[j] += (matrix[i, j] * a + matrix[i + 1, j] * b) + (
                matrix[i + 2, j] * c + matrix[i + 3, j] * d
            )
        i += 4
    if i + 2 <= len(vector):
        a, b = vector[i], vector[i + 1]
        for j in range(n):
            out[j] += matrix[i, j] * a + matrix[i + 1, j] * b
        i += 2
    if i < len(vector):
        for j in range(n):
            out[j] += matrix[i, j] * vector[i]


@jit
def ranked(values: Any, rank: int) -> float:
    """The value of a rank, by quickselect; the values are reordered."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


@jit
def largest_magnitude(values: Any, start: int, stop: int) -> float:
    """The largest |value| of a run of a flat array; 0 where it is empty."""
    lanes = simd.lanes(values)
    widest = splat(values.dtype.type(0))
    at = start
    while at + lanes <= stop:
        widest = larger(widest, absolute(load(values, at)))
        at += lanes
    size = simd.largest(widest)
    for i in range(at, stop):
        size = max(size, abs(values[i]))
    return size
