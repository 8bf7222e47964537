"""Sample gradients that are known a rectangle of coordinates at a time: convolutions, embeddings,
sums.

A subclass says what all rows hold at a rectangle; Gram matrices, norms and reductions follow from
one pass over the rectangles, with memory bounded by the budget of a tile.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from chainrob.sample_gradients.base import TILE_BUDGET, Array, Index, SampleGradients, central_row
from chainrob.sample_gradients.normalized import magnitude, scaled_down


class Tiled(SampleGradients):
    """An operator without replica axes, given by ``values``, ``weighted_sum`` and ``take``.

    Its output units, for ``scope='unit'``, are the entries of the parameter's first axis; a
    subclass whose units lie elsewhere overrides the four ``unit``-methods.
    """

    replicas: tuple[int, ...] = ()

    @abc.abstractmethod
    def values(self, index: Index) -> Array:
        """All rows at a rectangle of coordinates: (N, d), in ``compute_dtype``."""

    def rectangles(self, budget: int) -> Iterator[Index]:
        """Rectangles that cover the parameter, each of at most ``budget`` numbers in all rows."""
        return blocks(self.shape, max(1, budget // max(1, self.n_samples)))

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        for index in self.rectangles(budget or TILE_BUDGET):
            yield index, self.values(index)

    def gram(self) -> Array:
        return self._summed_products(centered=False)

    def centered_gram(self) -> Array:
        # Each tile may centre on another row: together that is one common translation of all rows.
        return self._summed_products(centered=True)

    def squared_norms(self) -> Array:
        out = self.xp.zeros(self.n_samples, np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            out += (rows * rows).sum(axis=-1)
        return out

    def finite_rows(self) -> Array:
        out = self.xp.ones(self.n_samples, bool)
        with np.errstate(over="ignore", invalid="ignore"):
            for _, values in self.tiles():
                out &= self.xp.isfinite(values).all(axis=-1)
        return out

    def replica(self, index: tuple[int | slice, ...]) -> SampleGradients:
        if index:
            raise IndexError(f"{type(self).__name__} has no replica axes, found index {index}")
        return self

    # -- output units

    def units(self) -> SampleGradients:
        return Units(self, 0, self.n_units)

    @property
    def n_units(self) -> int:
        return self.shape[0]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """Shape of the parameters of one output unit."""
        return self.shape[1:]

    def unit_values(self, units: slice, index: Index) -> Array:
        """All rows of some units, at a rectangle of one unit's coordinates: (U, N, d)."""
        values = self.values((units, *index))
        values = values.reshape((self.n_samples, units.stop - units.start, -1))
        return values.swapaxes(0, 1)

    @abc.abstractmethod
    def unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        """Some units' rows with their own weights (U, N): (U, *unit_shape), in ``dtype``."""

    def join_units(self, estimate: Array) -> Array:
        """Estimates of all units (U, *unit_shape) in the parameter's own shape."""
        return estimate.reshape(self.shape)

    # -- inside

    def _summed_products(self, *, centered: bool) -> Array:
        out = self.xp.zeros((self.n_samples, self.n_samples), np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            rows = rows - central_row(rows) if centered and rows.size else rows
            out += self.xp.matmul(rows, rows.swapaxes(-1, -2))
        return out


class Units(SampleGradients):
    """Replica u holds the rows of output unit u of a tiled operator.

    Args:
        base: the layer's operator.
        start, stop: which of its units.
    """

    def __init__(self, base: Tiled, start: int, stop: int) -> None:
        self.base = base
        self.start, self.stop = start, stop
        self.replicas = (stop - start,)
        self.n_samples = base.n_samples
        self.shape = base.unit_shape
        self.dtype = base.dtype

    @property
    def xp(self) -> Any:
        return self.base.xp

    def weighted_sum(self, weights: Array) -> Array:
        return self.base.unit_weighted_sum(weights, slice(self.start, self.stop))

    def gram(self) -> Array:
        return self._summed_products(centered=False)

    def centered_gram(self) -> Array:
        return self._summed_products(centered=True)

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        count = max(1, (budget or TILE_BUDGET) // max(1, self.n_samples * self.replicas[0]))
        for index in blocks(self.shape, count):
            yield index, self.base.unit_values(slice(self.start, self.stop), index)

    def take(self, rows: Array) -> Units:
        base = self.base.take(rows)
        assert isinstance(base, Tiled)
        return Units(base, self.start, self.stop)

    def replica(self, index: tuple[int | slice, ...]) -> SampleGradients:
        (chosen,) = index
        if isinstance(chosen, slice):
            start, stop, step = chosen.indices(self.replicas[0])
            if step != 1:
                raise IndexError(f"Units: a slice of replicas must have step 1, found {step}")
            return Units(self.base, self.start + start, self.start + max(stop, start))
        return OneUnit(self.base, self.start + range(self.replicas[0])[int(chosen)])

    def units(self) -> SampleGradients:
        raise ValueError("Units: one output unit has no output units of its own")

    def finite_rows(self) -> Array:
        out = self.xp.ones((*self.replicas, self.n_samples), bool)
        with np.errstate(over="ignore", invalid="ignore"):
            for _, values in self.tiles():
                out &= self.xp.isfinite(values).all(axis=-1)
        return out

    def surely_finite(self) -> Array:
        return self.base.surely_finite()

    def _summed_products(self, *, centered: bool) -> Array:
        out = self.xp.zeros((*self.replicas, self.n_samples, self.n_samples), np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            rows = rows - central_row(rows) if centered and rows.size else rows
            out += self.xp.matmul(rows, rows.swapaxes(-1, -2))
        return out


class OneUnit(Tiled):
    """The rows of one output unit of a tiled operator, without a replica axis."""

    def __init__(self, base: Tiled, unit: int) -> None:
        self.base = base
        self.unit = slice(unit, unit + 1)
        self.n_samples = base.n_samples
        self.shape = base.unit_shape
        self.dtype = base.dtype

    @property
    def xp(self) -> Any:
        return self.base.xp

    def values(self, index: Index) -> Array:
        return self.base.unit_values(self.unit, index)[0]

    def weighted_sum(self, weights: Array) -> Array:
        return self.base.unit_weighted_sum(weights[None], self.unit)[0]

    def take(self, rows: Array) -> OneUnit:
        base = self.base.take(rows)
        assert isinstance(base, Tiled)
        return OneUnit(base, self.unit.start)

    def units(self) -> SampleGradients:
        raise ValueError("OneUnit: one output unit has no output units of its own")

    def unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        raise ValueError("OneUnit: one output unit has no output units of its own")


def blocks(shape: tuple[int, ...], count: int) -> Iterator[Index]:
    """Rectangles of at most ``count`` (at least one) coordinates that cover an array of ``shape``.

    They run along the first axis as far as whole entries of it fit, else inside one entry.
    """
    if not shape:
        yield ()
        return
    inner = prod(shape[1:])
    if inner <= count or len(shape) == 1:
        step = max(1, count // max(inner, 1))
        rest = tuple(slice(0, extent) for extent in shape[1:])
        for start in range(0, shape[0], step):
            yield (slice(start, min(start + step, shape[0])), *rest)
        return
    for first in range(shape[0]):
        for index in blocks(shape[1:], count):
            yield (slice(first, first + 1), *index)


@magnitude.register(Units)
@magnitude.register(OneUnit)
def _(gradients: Any) -> int:
    return magnitude(gradients.base)


@scaled_down.register(Units)
def _(gradients: Units, exponent: int) -> SampleGradients:
    base = scaled_down(gradients.base, exponent)
    assert isinstance(base, Tiled)
    return Units(base, gradients.start, gradients.stop)


@scaled_down.register(OneUnit)
def _(gradients: OneUnit, exponent: int) -> SampleGradients:
    base = scaled_down(gradients.base, exponent)
    assert isinstance(base, Tiled)
    return OneUnit(base, gradients.unit.start)
