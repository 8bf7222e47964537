"""Sample gradients that are known a rectangle of coordinates at a time: convolutions, embeddings,
sums.

A subclass says what all rows hold at a rectangle; Gram matrices, norms and reductions follow from
one pass over the rectangles, with memory bounded by the budget of a tile.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from copy import copy
from math import prod

import numpy as np

from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.factored import Factored
from chainrob.sample_gradients.operator_base import Array, Index, SampleGradients


class Tiled(Factored):
    """An operator without replica axes, given by ``_values``, ``_weighted_sum`` and its factors.

    Its output units are the entries of the parameter's first axis; a subclass whose units lie
    elsewhere overrides ``n_units``, ``unit_shape``, ``_unit_values`` and ``join_units``. The units
    in ``unit`` are the replicas, or, where it is a number, one of them is the whole operator.
    """

    replicas: tuple[int, ...] = ()
    unit: slice | int | None = None
    """Which output units the rows are of; None: the rows of the whole parameter."""
    full_shape: tuple[int, ...]
    """Shape of the whole parameter."""

    @abc.abstractmethod
    def _values(self, index: Index) -> Array:
        """All rows of the parameter at a rectangle of coordinates: (N, d)."""

    @abc.abstractmethod
    def _weighted_sum(self, weights: Array) -> Array:
        """All rows with weights (N,): the parameter's shape, in ``dtype``."""

    @abc.abstractmethod
    def _unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        """Some units' rows with their own weights (U, N): (U, *unit_shape), in ``dtype``."""

    @abc.abstractmethod
    def _made_of(self, *factors: Array) -> Tiled:
        """The whole operator of other factors."""

    def values(self, index: Index) -> Array:
        if self.unit is None:
            return self._values(index)
        values = self._unit_values(self._units, index)
        return values if self.replicas else values[0]

    def weighted_sum(self, weights: Array) -> Array:
        if self.unit is None:
            return self._weighted_sum(weights)
        total = self._unit_weighted_sum(weights.reshape((-1, self.n_samples)), self._units)
        return total if self.replicas else total[0]

    def rectangles(self, budget: int) -> Iterator[Index]:
        numbers = max(1, self.n_samples * prod(self.replicas))
        return blocks(self.shape, max(1, budget // numbers))

    def with_factors(self, *factors: Array) -> Tiled:
        whole = self._made_of(*factors)
        return whole if self.unit is None else whole._of_units(self.unit)

    def gram(self) -> Array:
        return self._gram_of_tiles(centered=False)

    def centered_gram(self) -> Array:
        return self._gram_of_tiles(centered=True)

    def finite_rows(self) -> Array:
        out = self.xp.ones((*self.replicas, self.n_samples), bool)
        with np.errstate(over="ignore", invalid="ignore"):
            for _, values in self.tiles():
                out &= self.xp.isfinite(values).all(axis=-1)
        return out

    def with_pullback(self) -> SampleGradients:
        return Dense(self.materialize().reshape((self.n_samples, *self.shape)))

    # -- output units

    def units(self) -> SampleGradients:
        if self.unit is not None:
            raise ValueError(
                f"{type(self).__name__}: one output unit has no output units of its own"
            )
        return self._of_units(slice(0, self.n_units))

    def replica(self, index: tuple[int | slice, ...]) -> SampleGradients:
        if not index:
            return self
        if not self.replicas:
            raise IndexError(f"{type(self).__name__} has no replica axes, found index {index}")
        (chosen,) = index
        first = self._units.start
        if not isinstance(chosen, slice):
            return self._of_units(first + range(self.replicas[0])[int(chosen)])
        start, stop, step = chosen.indices(self.replicas[0])
        if step != 1:
            raise IndexError(f"Units: a slice of replicas must have step 1, found {step}")
        return self._of_units(slice(first + start, first + max(stop, start)))

    @property
    def n_units(self) -> int:
        return self.full_shape[0]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """Shape of the parameters of one output unit."""
        return self.full_shape[1:]

    def _unit_values(self, units: slice, index: Index) -> Array:
        """All rows of some units, at a rectangle of one unit's coordinates: (U, N, d)."""
        values = self._values((units, *index))
        values = values.reshape((self.n_samples, units.stop - units.start, -1))
        return values.swapaxes(0, 1)

    @property
    def _units(self) -> slice:
        unit = self.unit
        return unit if isinstance(unit, slice) else slice(unit, (unit or 0) + 1)

    def _of_units(self, unit: slice | int) -> Tiled:
        part = copy(self)
        part.unit = unit
        part.replicas = (unit.stop - unit.start,) if isinstance(unit, slice) else ()
        part.shape = self.unit_shape
        return part


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
