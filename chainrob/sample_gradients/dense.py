"""Sample gradients that are at hand as an array: a bias, or any (N, D) array of a user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module, squared_lengths
from chainrob.sample_gradients.factored import Factored
from chainrob.sample_gradients.operator_base import (
    Array,
    Derivative,
    Index,
    Reduction,
    RowSquares,
    SampleGradients,
)
from chainrob.sample_gradients.row_index import RowIndex
from chainrob.sample_gradients.rows import central_row, products


class Dense(Factored):
    """Rows given as an array (*R, N, *shape).

    Args:
        rows: array (*R, N, *shape); NumPy or CuPy, floating point.
        n_replica_axes: how many leading axes are replicas.
        weights: the weights beside which the rows are a bias.
        of_signals: whether the rows are output gradients alone; those of a bias are.
    """

    def __init__(
        self,
        rows: Array,
        n_replica_axes: int = 0,
        weights: SampleGradients | None = None,
        of_signals: bool = False,
    ) -> None:
        self.rows = rows
        self.replicas = rows.shape[:n_replica_axes]
        self.n_samples = rows.shape[n_replica_axes]
        self.shape = rows.shape[n_replica_axes + 1 :]
        self.dtype = rows.dtype
        self.weights = weights
        self.of_signals = of_signals or weights is not None

    @property
    def xp(self) -> Any:
        return array_module(self.rows)

    @property
    def flat(self) -> Array:
        """The rows (*R, N, D) in ``compute_dtype``."""
        rows = self.rows.reshape((*self.replicas, self.n_samples, prod(self.shape)))
        return rows.astype(self.compute_dtype, copy=False)

    @property
    def factors(self) -> tuple[Array, ...]:
        return (self.rows,)

    def with_factors(self, *factors: Array) -> Dense:
        return self._like(factors[0], len(self.replicas))

    def _like(self, rows: Array, n_replica_axes: int) -> Dense:
        return Dense(rows, n_replica_axes, of_signals=self.of_signals)

    def sample_axis(self, factor: Array) -> int:
        return len(self.replicas)

    def weighted_sum(self, weights: Array) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False)
        total = weights[..., None, :] @ self.flat
        return total.reshape((*self.replicas, *self.shape)).astype(self.dtype, copy=False)

    def gram(self) -> Array:
        return products(self.flat.astype(np.float64, copy=False))

    def squared_norms(self) -> Array:
        return squared_lengths(self.flat)

    def centered_gram(self) -> Array:
        rows = self.flat.astype(np.float64, copy=False)
        return products(rows - central_row(rows))

    def rectangles(self, budget: int) -> Iterator[Index]:
        # Runs along the first axis: a rectangle is one slice an axis.
        if not self.shape:
            yield ()
            return
        rest = tuple(slice(0, extent) for extent in self.shape[1:])
        per_entry = max(1, prod(self.replicas) * self.n_samples * prod(self.shape[1:]))
        step = max(1, budget // per_entry)
        for start in range(0, self.shape[0], step):
            yield (slice(start, min(start + step, self.shape[0])), *rest)

    def values(self, index: Index) -> Array:
        lead = (slice(None),) * (len(self.replicas) + 1)
        rows = self.rows[lead + index].astype(self.compute_dtype, copy=False)
        width = prod(one.stop - one.start for one in index)
        return rows.reshape((*self.replicas, self.n_samples, width))

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        # Rows are outer products with a single output whose gradient is one.
        flat = self.flat[..., None, :]
        ones = self.xp.ones((*flat.shape[:-1], 1), flat.dtype)
        out = reduction.of_outer_products(flat, ones, squares)
        if out is None:
            return super()._reduce(reduction, dtype, squares)
        out = out.reshape((*self.replicas, *self.shape))
        return out.astype(dtype or self.dtype, copy=False)

    def combined(self, matrix: Array) -> Dense:
        flat = self.flat
        rows = matrix.astype(flat.dtype, copy=False) @ flat
        return self._like(rows.reshape((*rows.shape[:-1], *self.shape)), len(self.replicas))

    def row_sums(self, rows: RowIndex) -> Dense:
        axis = len(self.replicas)
        return self._like(rows.sums(self.rows.astype(self.compute_dtype, copy=False), axis), axis)

    def added_up(self, uses: Sequence[Any]) -> Dense:
        return self._like(sum(one.rows for one in uses), len(self.replicas))

    def replica(self, index: tuple[int | slice, ...]) -> Dense:
        rows = self.rows[index]
        return self._like(rows, rows.ndim - 1 - len(self.shape))

    def units(self) -> Dense:
        axis = len(self.replicas)
        return self._like(self.xp.moveaxis(self.rows, axis + 1, axis), axis + 1)

    def pulled_units(self, pulled: tuple[Array, ...]) -> tuple[Array, ...]:
        axis = len(self.replicas)
        return tuple(self.xp.moveaxis(one, axis, axis + 1) for one in pulled)

    def surely_finite(self) -> Array:
        # One fast pass. If the sum overflows, the rows may still be finite: the caller looks.
        flat, xp = self.flat, self.xp
        return xp.isfinite(xp.vdot(flat, flat))

    def finite_rows(self) -> Array:
        return self.xp.isfinite(self.flat).all(axis=-1)

    # -- double backward

    def projections(self, direction: Array) -> Array:
        flat = direction.reshape((*self.replicas, self.size, 1)).astype(np.float64)
        return (self.flat.astype(np.float64, copy=False) @ flat)[..., 0]

    def pullback_weights(
        self, weights: Array, mixing: Array | None, cotangent: Array
    ) -> tuple[Any, ...]:
        dtype = self.compute_dtype
        flat = cotangent.reshape((*self.replicas, 1, self.size))
        rows = weights[..., None].astype(dtype) * flat
        if mixing is not None:
            rows = rows + mixing.astype(dtype) @ self.flat
        return (rows.reshape(self.rows.shape),)

    def pullback_coordinates(self, derivative: Derivative, cotangent: Array) -> tuple[Any, ...]:
        lead = (slice(None),) * len(self.replicas)
        out = self.xp.empty(self.rows.shape, self.compute_dtype)
        for index, values in self.tiles():
            target = out[(*lead, slice(None), *index)]
            at_tile = cotangent[lead + index].reshape((*self.replicas, 1, -1))
            target[...] = (derivative(values) * at_tile).reshape(target.shape)
        return (out,)
