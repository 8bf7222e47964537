"""Linear combinations of rows: blocks, buckets, neighbour averages and clipped rows, without
building one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from chainrob.kernels import mixed_gram
from chainrob.sample_gradients.base import (
    Array,
    Index,
    Reduction,
    RowSquares,
    SampleGradients,
    block_matrix,
)
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.outer_product import OuterProducts


class Mixed(SampleGradients):
    """The operator A G, for an operator G of N rows and a matrix A of M new rows.

    Its Gram matrix is A K A^T and its weighted sum G^T (A^T w), so whatever is mixed costs N x N
    numbers at most.

    Args:
        base: the operator G.
        matrix: A, (*R, M, N) or (M, N).
        affine: whether the rows of A add up to one.
    """

    def __init__(self, base: SampleGradients, matrix: Array, *, affine: bool = True) -> None:
        if matrix.shape[-1] != base.n_samples:
            raise ValueError(
                f"Mixed: matrix must have {base.n_samples} columns, one a row of the base, found "
                f"{matrix.shape[-1]}"
            )
        self.base = base
        self.matrix = matrix.astype(np.float64, copy=False)
        self.affine = affine
        self.replicas = base.replicas
        self.n_samples = matrix.shape[-2]
        self.shape = base.shape
        self.dtype = base.dtype

    @property
    def xp(self) -> Any:
        return self.base.xp

    def weighted_sum(self, weights: Array) -> Any:
        combined = self.xp.matmul(weights.astype(np.float64, copy=False)[..., None, :], self.matrix)
        return self.base.weighted_sum(combined[..., 0, :])

    def gram(self) -> Array:
        return self._congruent(self.base.gram())

    def centered_gram(self) -> Array:
        xp = self.xp
        base = self.base.centered_gram() if self.affine else self.base.gram()
        if not self.replicas:
            gram = mixed_gram(self.matrix, base)
            if gram is not None:
                return gram
        gram = self._congruent(base)
        # Mixed rows may coincide where the rows did not, so they are centred once more; and what
        # rounding cannot tell from the centre is put there.
        sizes = xp.abs(self.matrix)
        rounding = (xp.matmul(sizes, xp.abs(base)) * sizes).sum(axis=-1)
        norms = xp.diagonal(gram, axis1=-2, axis2=-1)
        middle = xp.argsort(norms, axis=-1)[..., (self.n_samples - 1) // 2][..., None, None]
        row = xp.take_along_axis(gram, middle, axis=-2)
        corner = xp.take_along_axis(row, middle, axis=-1)
        gram = gram - row - row.swapaxes(-1, -2) + corner
        rounding = rounding + xp.take_along_axis(rounding, middle[..., 0], axis=-1)
        norms = xp.diagonal(gram, axis1=-2, axis2=-1)
        apart = norms > 32.0 * np.finfo(np.float64).eps * rounding
        return gram * (apart[..., :, None] & apart[..., None, :])

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        # Output units that are mixed each in its own way are no longer one layer to their base.
        base = self.base if self.matrix.ndim == 2 else self.base.by_replica()
        last = reduction.mix
        mix = self._combine if last is None else lambda values: last(self._combine(values))
        return base.reduce(reduction._replace(mix=mix), dtype, squares)

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        for index, values in self.base.tiles(budget):
            yield index, self._combine(values)

    def materialize(self, limit: int | None = None) -> Array:
        return self._combine(self.base.materialize(limit))

    def split(self, estimate: Array) -> Any:
        return self.base.split(estimate)

    def take(self, rows: Array) -> Mixed:
        return Mixed(self.base, self.xp.take(self.matrix, rows, axis=-2), affine=self.affine)

    def replica(self, index: tuple[int | slice, ...]) -> Mixed:
        matrix = self.matrix if self.matrix.ndim == 2 else self.matrix[index]
        return Mixed(self.base.replica(index), matrix, affine=self.affine)

    def units(self) -> Mixed:
        matrix = self.matrix if self.matrix.ndim == 2 else self.matrix[..., None, :, :]
        return Mixed(self.base.units(), matrix, affine=self.affine)

    def finite_rows(self) -> Array:
        bad = (~self.base.finite_rows()).astype(np.float64)
        touched = self.xp.matmul(self.xp.abs(self.matrix), bad[..., None])[..., 0]
        return touched == 0.0

    def _congruent(self, gram: Array) -> Array:
        return self.xp.matmul(self.xp.matmul(self.matrix, gram), self.matrix.swapaxes(-1, -2))

    def _combine(self, values: Array) -> Array:
        return self.xp.matmul(self.matrix.astype(values.dtype, copy=False), values)


class Blocks(Mixed):
    """The means of contiguous blocks of rows.

    Args:
        base: the operator of the rows.
        n_blocks: number of blocks, whose sizes differ by one at most.
    """

    def __init__(self, base: SampleGradients, n_blocks: int) -> None:
        super().__init__(base, block_matrix(base.n_samples, n_blocks, base.xp))

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        if reduction.fused is not None and self.xp is np:
            base, count = self.base, self.n_samples
            if isinstance(base, Joined):
                parts = [Blocks(part, count) for part in base.parts]
                return tuple(part.reduce(reduction, dtype, squares) for part in parts)
            if type(base) is OuterProducts and base.n_positions == 1:
                return base.grouped(count).reduce(reduction, dtype or self.dtype, squares)
            if type(base) is Dense:
                rows = self._combine(base.flat).reshape((*self.replicas, count, *self.shape))
                means = Dense(rows, len(self.replicas))
                return means.reduce(reduction, dtype or self.dtype, squares)
        return super()._reduce(reduction, dtype, squares)
