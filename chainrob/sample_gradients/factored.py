"""What operators have in common whose rows are made of arrays with a sample axis.

From those arrays, the factors, follow the operator of other samples (``take``, and MPI's exchange),
the size of the rows and their scaled form; from the values at a rectangle follow tiles and Gram
matrices.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import (
    TILE_BUDGET,
    Array,
    Index,
    SampleGradients,
)
from chainrob.sample_gradients.rows import central_row, products

HEADROOM = 200
"""How far, in powers of two, the typical row may be pushed below 1 to make room for the largest."""


class Factored(SampleGradients):
    """An operator given by ``factors``, ``with_factors``, ``rectangles`` and ``values``."""

    @property
    @abc.abstractmethod
    def factors(self) -> tuple[Array, ...]:
        """The arrays that the rows are made of; rows are linear in each that holds floats."""

    @abc.abstractmethod
    def with_factors(self, *factors: Array) -> SampleGradients:
        """The same operator of other arrays."""

    def sample_axis(self, factor: Array) -> int:
        """Which axis of a factor counts the samples."""
        return 0

    @abc.abstractmethod
    def rectangles(self, budget: int) -> Iterator[Index]:
        """Rectangles that cover the parameter, each of at most ``budget`` numbers in all rows."""

    @abc.abstractmethod
    def values(self, index: Index) -> Array:
        """All rows at a rectangle of coordinates: (*R, N, d), in ``compute_dtype``."""

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        for index in self.rectangles(budget or TILE_BUDGET):
            yield index, self.values(index)

    # -- the factors

    def map_factors(self, answer: Callable[[Array, int], Array]) -> SampleGradients:
        return self.with_factors(*[answer(one, self.sample_axis(one)) for one in self.factors])

    def take(self, rows: Array) -> Any:
        return self.map_factors(lambda factor, axis: self.xp.take(factor, rows, axis=axis))

    def numbers_per_sample(self) -> int:
        shapes = [(one.shape, self.sample_axis(one)) for one in self.factors]
        return sum(prod(shape[:axis]) * prod(shape[axis + 1 :]) for shape, axis in shapes)

    def magnitude(self) -> Any:
        return sum(self._exponent(one) for one in self.factors if one.dtype.kind == "f")

    def scaled_down(self, exponent: Any) -> SampleGradients:
        # Each factor gets ordinary size by itself: 1e200 times 1e-200 is an ordinary row.
        factors = list(self.factors)
        *others, last = [i for i, one in enumerate(factors) if one.dtype.kind == "f"]
        for i in others:
            own = self._exponent(factors[i])
            factors[i] = self.xp.ldexp(factors[i], -own)
            exponent = exponent - own
        factors[last] = self.xp.ldexp(factors[last], -exponent)
        return self.with_factors(*factors)

    def _exponent(self, factor: Array) -> Any:
        axis = self.sample_axis(factor) + 1
        return _typical_exponent(factor.reshape((*factor.shape[:axis], prod(factor.shape[axis:]))))

    # -- by tiles

    def squared_norms(self) -> Array:
        out = self.xp.zeros((*self.replicas, self.n_samples), np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            out += (rows * rows).sum(axis=-1)
        return out

    def _gram_of_tiles(self, *, centered: bool) -> Array:
        # Each tile may center on another row: together that is one common translation of all rows.
        out = self.xp.zeros((*self.replicas, self.n_samples, self.n_samples), np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            rows = rows - central_row(rows) if centered and rows.size else rows
            out += products(rows)
        return out


def _typical_exponent(rows: Array) -> Any:
    """Of rows (..., K): the median's exponent, raised for the sake of a far larger maximum."""
    xp = array_module(rows)
    if rows.size == 0:
        return 0
    norms = xp.abs(rows).max(axis=-1).astype(np.float64, copy=False).ravel()
    # Rows that are zero or not finite have no say: they are sorted to the end, and not counted.
    ordinary = xp.isfinite(norms) & (norms > 0.0)
    ranked = xp.sort(xp.where(ordinary, norms, np.inf))
    last = xp.maximum(ordinary.sum() - 1, 0)
    typical = xp.take(ranked, xp.stack([last // 2, last]))
    sizes = xp.log2(xp.where(ordinary.any(), typical, 1.0))  # inf - inf where no row has a say
    exponent = sizes[0] + xp.minimum((sizes[1] - sizes[0]) / 2.0, HEADROOM)
    if xp is np:
        return int(exponent) if ordinary.any() else 0
    return xp.where(ordinary.any(), exponent, 0.0).astype(np.int32)
