"""What every operator of sample gradients answers.

Index legend, used in all files of this folder: ``R`` replica axes (none in ordinary use; one row of
an ensemble, or one output unit, is one replica), ``N`` samples, ``S`` positions within a sample
(further batch axes, pixels, time steps), ``Q`` outputs, ``P`` inputs, ``D`` coordinates of one
gradient (Q * P for a weight matrix).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.reduction import Array, Fused, Reduction, RowSquares

__all__ = [
    "MATERIALIZE_LIMIT",
    "TILE_BUDGET",
    "Array",
    "Fused",
    "Index",
    "Reduction",
    "RowSquares",
    "SampleGradients",
    "block_matrix",
    "central_row",
    "squared_distances",
]

Index = tuple[slice, ...]
"""Where a tile lies in the parameter: one slice an axis of ``shape``."""

TILE_BUDGET = 1 << 21
"""Numbers that one tile may hold (8 MiB in float32): all samples of as many coordinates as fit."""

MATERIALIZE_LIMIT = 1 << 28
"""Numbers that ``materialize`` is willing to build (1 GiB in float32)."""


class SampleGradients(abc.ABC):
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
        """(G - 1 c^T)(G - 1 c^T)^T for a row-like centre c of the operator's choice: (*R, N, N),
        float64.

        Distances and every estimate whose weights add up to one are the same for all c. The centre
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

    def by_replica(self) -> SampleGradients:
        """The same operator, whose ``reduce`` hands over tiles with their replica axes; others may
        leave them out, which only a reduction that differs between replicas can tell.
        """
        return self

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

    def squared_norms(self) -> Array:
        """Squared Euclidean norms of the rows: (*R, N), float64."""
        return self.xp.ascontiguousarray(_diagonal(self.gram()))

    def squared_distances(self) -> Array:
        """Squared distances between the rows: (*R, N, N), float64, symmetric, never negative, zero
        on the diagonal.
        """
        return squared_distances(self.centered_gram())

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

    def moments(self, ddof: int = 0) -> tuple[Array, Array]:
        """Mean and variance of every coordinate, each (*R, *shape), in ``compute_dtype``.

        Args:
            ddof: the variance divides by N - ddof; with N <= ddof it is zero.
        """
        divisor = max(self.n_samples - ddof, 1)

        def variance(values: Array) -> Array:
            deviations = values - values.mean(axis=-2, keepdims=True)
            return (deviations * deviations).sum(axis=-2) / divisor

        dtype = self.compute_dtype
        return self.reduce(lambda values: values.mean(axis=-2), dtype), self.reduce(variance, dtype)

    def block_means(self, n_blocks: int) -> SampleGradients:
        """The means of ``n_blocks`` contiguous blocks of rows whose sizes differ by one at most."""
        from chainrob.sample_gradients.mixed import Blocks  # mixed.py builds on this file

        return Blocks(self, n_blocks)

    def mix(self, matrix: Array, *, affine: bool = True) -> SampleGradients:
        """The operator whose rows are ``matrix`` @ G, for a matrix (*R, M, N).

        Args:
            affine: whether every row of the matrix adds up to one, as in averages (but not in
                clipping).
        """
        from chainrob.sample_gradients.mixed import Mixed  # mixed.py builds on this file

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

    def split(self, estimate: Array) -> Any:
        """An estimate (*R, D) in the parameter's own shape."""
        return estimate.reshape((*self.replicas, *self.shape))


def central_row(array: Array) -> Array:
    """A row of ordinary size to centre on: of ``array`` (*R, N, K) the row of median norm,
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
    """Squared distances between rows from their (centred) Gram matrix, both (*R, N, N).

    Symmetric to the last bit, never negative, zero on the diagonal.
    """
    xp = array_module(gram)
    norms = _diagonal(gram)
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


def _diagonal(matrix: Array) -> Array:
    return array_module(matrix).diagonal(matrix, axis1=-2, axis2=-1)
