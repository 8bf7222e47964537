"""Sample gradients that are at hand as an array: a bias, or any (N, D) array of a user."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.base import (
    TILE_BUDGET,
    Array,
    Index,
    Reduction,
    RowSquares,
    SampleGradients,
    central_row,
)


class Dense(SampleGradients):
    """Rows given as an array (*R, N, *shape).

    Args:
        rows: array (*R, N, *shape); NumPy or CuPy, floating point.
        n_replica_axes: how many leading axes are replicas.
    """

    def __init__(self, rows: Array, n_replica_axes: int = 0) -> None:
        self.rows = rows
        self.replicas = rows.shape[:n_replica_axes]
        self.n_samples = rows.shape[n_replica_axes]
        self.shape = rows.shape[n_replica_axes + 1 :]
        self.dtype = rows.dtype

    @property
    def xp(self) -> Any:
        return array_module(self.rows)

    @property
    def flat(self) -> Array:
        """The rows (*R, N, D) in ``compute_dtype``."""
        rows = self.rows.reshape((*self.replicas, self.n_samples, self.size))
        return rows.astype(self.compute_dtype, copy=False)

    def weighted_sum(self, weights: Array) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False)
        total = self.xp.matmul(weights[..., None, :], self.flat)
        return total.reshape((*self.replicas, *self.shape)).astype(self.dtype, copy=False)

    def gram(self) -> Array:
        return _gram(self.flat.astype(np.float64, copy=False))

    def centered_gram(self) -> Array:
        rows = self.flat.astype(np.float64, copy=False)
        return _gram(rows - central_row(rows))

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        flat = self.flat
        if len(self.shape) != 1:
            # Tiles must be addressable by one slice an axis: a tile is a run along the first axis.
            first, rest = (self.shape[0], prod(self.shape[1:])) if self.shape else (1, 1)
        else:
            first, rest = self.shape[0], 1
        per_row = max(1, prod(self.replicas) * self.n_samples * rest)
        step = max(1, (budget or TILE_BUDGET) // per_row)
        for start in range(0, first, step):
            stop = min(start + step, first)
            index: Index = (slice(start, stop),) if self.shape else ()
            yield index, flat[..., start * rest : stop * rest]

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        # Rows are outer products with a single output whose gradient is one.
        flat = self.flat[..., None, :]
        ones = self.xp.ones((*flat.shape[:-1], 1), flat.dtype)
        out = reduction.of_outer_products(flat, ones, squares)
        if out is None:
            return super()._reduce(reduction, dtype, squares)
        out = out.reshape((*self.replicas, *self.shape))
        return out.astype(dtype or self.dtype, copy=False)

    def take(self, rows: Array) -> Dense:
        axis = len(self.replicas)
        return Dense(self.xp.take(self.rows, rows, axis=axis), axis)

    def replica(self, index: tuple[int | slice, ...]) -> Dense:
        rows = self.rows[index]
        return Dense(rows, rows.ndim - 1 - len(self.shape))

    def units(self) -> Dense:
        axis = len(self.replicas)
        return Dense(self.xp.moveaxis(self.rows, axis + 1, axis), axis + 1)

    def surely_finite(self) -> Array:
        # One fast pass; an overflow of the sum is a doubt only.
        flat = self.flat
        return self.xp.isfinite(self.xp.vdot(flat, flat))

    def finite_rows(self) -> Array:
        return self.xp.isfinite(self.flat).all(axis=-1)


def _gram(rows: Array) -> Array:
    return array_module(rows).matmul(rows, rows.swapaxes(-1, -2))
