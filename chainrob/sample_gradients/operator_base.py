"""What every operator of sample gradients answers, and linear combinations of its rows.

``default_answers`` has what most operators leave as it is.

Index legend, used in all files of this folder: ``R`` replica axes (none in ordinary use; one row of
an ensemble, or one output unit, is one replica), ``N`` samples, ``S`` positions within a sample
(further batch axes, pixels, time steps), ``Q`` outputs, ``P`` inputs, ``D`` coordinates of one
gradient (Q * P for a weight matrix).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from chainrob._renamed import renamed_attribute
from chainrob.kernels import mixed_gram
from chainrob.sample_gradients.default_answers import DefaultAnswers
from chainrob.sample_gradients.pullback import Derivative, Differentiable
from chainrob.sample_gradients.reduction import AmongZeros, Array, Fused, Reduction, RowSquares
from chainrob.sample_gradients.rows import block_matrix, squared_distances

__all__ = [
    "MATERIALIZE_LIMIT",
    "TILE_BUDGET",
    "AmongZeros",
    "Array",
    "Derivative",
    "Fused",
    "Index",
    "Mixed",
    "Reduction",
    "RowSquares",
    "SampleGradients",
    "block_matrix",
    "squared_distances",
]

Index = tuple[slice, ...]
"""Where a tile lies in the parameter: one slice an axis of ``shape``."""

TILE_BUDGET = 1 << 21
"""Numbers that one tile may hold (8 MiB in float32): all samples of as many coordinates as fit."""

MATERIALIZE_LIMIT = 1 << 28
"""Numbers that ``materialize`` is willing to build (1 GiB in float32)."""


class SampleGradients(DefaultAnswers, Differentiable, abc.ABC):
    """The matrix G of N sample gradients (rows) of one parameter, as an operator.

    Attributes:
        replicas: leading axes R that no operation mixes; ``()`` in ordinary use.
        n_samples: N.
        shape: shape of the parameter, of ``size`` D.
        dtype: dtype of the estimate handed back; sums run in ``compute_dtype``, at least float32.
    """

    replicas: tuple[int, ...]
    n_samples: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def compute_dtype(self) -> np.dtype:
        return np.promote_types(self.dtype, np.float32)

    @property
    @abc.abstractmethod
    def xp(self) -> Any:
        """NumPy or CuPy."""

    # -- linear questions

    @abc.abstractmethod
    def weighted_sum(self, weights: Array) -> Array:
        """G^T w: weights (*R, N) to (*R, *shape), in ``dtype``."""

    @abc.abstractmethod
    def gram(self) -> Array:
        """G G^T, the inner products of the rows: (*R, N, N), float64."""

    @abc.abstractmethod
    def centered_gram(self) -> Array:
        """(G - 1 c^T)(G - 1 c^T)^T for a row-like center c of the operator's choice: (*R, N, N),
        float64.

        Distances and every estimate whose weights add up to one are the same for all c. The center
        is a row of ordinary size, subtracted before any product is formed: neither a large common
        mean nor one huge row then costs the digits of the differences between the others.
        """

    @abc.abstractmethod
    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        """Pairs (index, values): values (*R, N, d) are all rows at the d coordinates ``index`` of
        the parameter.

        Args:
            budget: numbers one tile may hold, ``TILE_BUDGET`` unless given; at least one coordinate
                is always taken.
        """

    @abc.abstractmethod
    def take(self, rows: Array) -> SampleGradients:
        """The operator of the chosen rows only (indices along N, the same in all replicas)."""

    @abc.abstractmethod
    def replica(self, index: tuple[int | slice, ...]) -> SampleGradients:
        """Some replicas: an integer takes one and drops its axis, a slice keeps the axis."""

    @abc.abstractmethod
    def units(self) -> SampleGradients:
        """The same rows with the parameter's first axis moved to the replicas: one problem an
        output unit.
        """

    @abc.abstractmethod
    def finite_rows(self) -> Array:
        """(*R, N) booleans: the rows without NaN and infinity."""

    def all_finite(self) -> bool:
        """Whether every row is finite; cheaper than ``finite_rows`` where that is possible.

        On a device this waits for one number where all rows are finite.
        """
        return bool(self.surely_finite()) or bool(self.finite_rows().all())

    def surely_finite(self) -> Array:
        """A boolean () that is true only if every row is finite, from a quick look; it stays where
        the rows are.
        """
        return self.finite_rows().all()

    # -- built on them

    def mean(self) -> Array:
        """The plain mean of the rows: (*R, *shape)."""
        xp = self.xp
        weights = xp.full(
            (*self.replicas, self.n_samples), 1.0 / self.n_samples, self.compute_dtype
        )
        return self.weighted_sum(weights)

    def total(self) -> Array:
        """The plain sum of the rows: (*R, *shape)."""
        return self.weighted_sum(self.xp.ones((*self.replicas, self.n_samples), self.compute_dtype))

    def squared_norms(self) -> Array:
        """Squared Euclidean norms of the rows: (*R, N), float64."""
        return self.xp.ascontiguousarray(self.xp.diagonal(self.gram(), axis1=-2, axis2=-1))

    def reduce(
        self,
        reduction: Reduction | Callable[[Array], Array],
        dtype: Any = None,
        squares: RowSquares | None = None,
    ) -> Any:
        """Apply a coordinate-wise reduction to all coordinates: (*R, *shape).

        Args:
            reduction: called with tiles (*R, N, d) in ``compute_dtype``; a plain function stands
                for its definition alone.
            dtype: dtype of the result, ``self.dtype`` unless given.
            squares: sums (*R, N) to which the rows' squares are added in the same pass.
        """
        if not isinstance(reduction, Reduction):
            reduction = Reduction(reduction)
        return self._reduce(reduction, dtype, squares)

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        """``reduce`` tile by tile; an operator that knows a faster way overrides it."""
        out = self.xp.empty((*self.replicas, *self.shape), dtype or self.dtype)
        lead = (slice(None),) * len(self.replicas)
        for index, values in self.tiles():
            target = out[(*lead, *index, ...)]  # the ellipsis: a view even where there are no axes
            target[...] = reduction.of_values(values, squares).reshape(target.shape)
        return out

    def block_means(self, n_blocks: int) -> SampleGradients:
        """The means of ``n_blocks`` contiguous blocks of rows whose sizes differ by one at most."""
        return Mixed(self, block_matrix(self.n_samples, n_blocks, self.xp))

    def mix(self, matrix: Array, *, affine: bool = True) -> SampleGradients:
        """The operator whose rows are ``matrix`` @ G, for a matrix (*R, M, N).

        Args:
            affine: whether every row of the matrix adds up to one, as in averages (but not in
                clipping).
        """
        return Mixed(self, matrix, affine=affine)

    def materialize(self, limit: int | None = None) -> Array:
        """All rows as one array (*R, N, D): the slow oracle of tests, and what a plain callable is
        given.

        Raises:
            MemoryError: if that takes more than ``limit`` (``MATERIALIZE_LIMIT``) numbers.
        """
        limit = MATERIALIZE_LIMIT if limit is None else limit
        count = prod(self.replicas) * self.n_samples * self.size
        if count > limit:
            raise MemoryError(
                f"materialize: {self.n_samples} gradients of {self.size} numbers"
                f"{f' in {self.replicas} replicas' if self.replicas else ''} are {count} numbers, "
                f"over the limit of {limit}; use a robustifier of chainrob, which works without "
                f'them, or scope="unit"'
            )
        out = self.xp.empty((*self.replicas, self.n_samples, *self.shape), self.compute_dtype)
        lead = (slice(None),) * (len(self.replicas) + 1)
        for index, values in self.tiles():
            target = out[lead + index]
            target[...] = values.reshape(target.shape)
        return out.reshape((*self.replicas, self.n_samples, self.size))

    def unflatten(self, estimate: Array) -> Any:
        """An estimate (*R, D) in the parameter's own shape."""
        return estimate.reshape((*self.replicas, *self.shape))

    split = renamed_attribute("split", "unflatten")

    def zeros(self) -> Any:
        """An estimate of zeros."""
        return self.xp.zeros((*self.replicas, *self.shape), self.dtype)


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
        combined = weights.astype(np.float64, copy=False)[..., None, :] @ self.matrix
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
        # Mixed rows may coincide where the rows did not, so they are centered once more; and what
        # rounding cannot tell from the center is put there.
        sizes = xp.abs(self.matrix)
        rounding = ((sizes @ xp.abs(base)) * sizes).sum(axis=-1)
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
        compiled = reduction.fused is not None and reduction.mix is None and self.xp is np
        if not compiled or self.matrix.ndim > 2:
            return self._reduce_tiles(reduction, dtype, squares)

        def of_part(part: SampleGradients) -> Any:
            rows = part.combined(self.matrix)
            if rows is not None:
                return rows.reduce(reduction, dtype or part.dtype, squares)
            mixed = self if part is self.base else Mixed(part, self.matrix, affine=self.affine)
            return mixed._reduce_tiles(reduction, dtype, squares)

        return self.base.each(of_part)

    def _reduce_tiles(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        last = reduction.mix
        mix = self._combine if last is None else lambda values: last(self._combine(values))
        # Output units that are mixed each in its own way are no longer one layer to their base.
        by_replica = reduction.by_replica or self.matrix.ndim > 2
        return self.base.reduce(reduction._replace(mix=mix, by_replica=by_replica), dtype, squares)

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        for index, values in self.base.tiles(budget):
            yield index, self._combine(values)

    def materialize(self, limit: int | None = None) -> Array:
        return self._combine(self.base.materialize(limit))

    def unflatten(self, estimate: Array) -> Any:
        return self.base.unflatten(estimate)

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
        touched = (self.xp.abs(self.matrix) @ bad[..., None])[..., 0]
        return touched == 0.0

    def magnitude(self) -> Any:
        return self.base.magnitude()

    def scaled_down(self, exponent: Any) -> SampleGradients:
        return Mixed(self.base.scaled_down(exponent), self.matrix, affine=self.affine)

    def each(self, answer: Callable[[SampleGradients], Any]) -> Any:
        return self.base.each(lambda part: answer(Mixed(part, self.matrix, affine=self.affine)))

    def projections(self, direction: Any) -> Array:
        return (self.matrix @ self.base.projections(direction)[..., None])[..., 0]

    def pullback_weights(
        self, weights: Array, mixing: Array | None, cotangent: Any
    ) -> tuple[Any, ...]:
        back = self.matrix.swapaxes(-1, -2)
        weights = (back @ weights[..., None].astype(np.float64))[..., 0]
        if mixing is not None:
            mixing = back @ mixing @ self.matrix
        return self.base.pullback_weights(weights, mixing, cotangent)

    def pullback_coordinates(self, derivative: Derivative, cotangent: Any) -> tuple[Any, ...]:
        def through(values: Array) -> Array:
            matrix = self.matrix.astype(values.dtype, copy=False)
            mixed = derivative(matrix @ values)
            return matrix.swapaxes(-1, -2) @ mixed

        return self.base.pullback_coordinates(through, cotangent)

    def _congruent(self, gram: Array) -> Array:
        return self.matrix @ gram @ self.matrix.swapaxes(-1, -2)

    def _combine(self, values: Array) -> Array:
        return self.matrix.astype(values.dtype, copy=False) @ values
