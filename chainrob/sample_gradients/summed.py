"""Rows that add up: a parameter that is used in several places or time steps of one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrob.sample_gradients.factored import Factored
from chainrob.sample_gradients.normalized import larger
from chainrob.sample_gradients.operator_base import Array, Index, SampleGradients
from chainrob.sample_gradients.row_index import RowIndex
from chainrob.sample_gradients.row_sums import RowSums
from chainrob.sample_gradients.tiled import Tiled


def add_up(parts: Sequence[SampleGradients]) -> SampleGradients:
    """The operator whose row n is the sum of row n of every part.

    Outer products and embeddings of T uses are one with T times the positions; arrays are added;
    anything else is added a tile at a time.

    Args:
        parts: operators of one parameter, with the same N and the same replicas.

    Raises:
        ValueError: no parts, or parts that differ in shape, replicas or number of samples.
    """
    if not parts:
        raise ValueError("add_up: parts must hold at least one operator, found none")
    alike = {(part.n_samples, part.shape, part.replicas) for part in parts}
    if len(alike) > 1:
        raise ValueError(
            f"add_up: all parts must have the same number of samples, shape and replicas, found "
            f"{sorted(alike)}"
        )
    if any(part.of_rows for part in parts):
        parts = _of_rows(parts)
    first = parts[0]
    if len(parts) == 1:
        return first
    alike_in_kind = all(type(part) is type(first) for part in parts)
    total = first.added_up(parts) if alike_in_kind else None
    return Summed(parts) if total is None else total


def _of_rows(parts: Sequence[SampleGradients]) -> Sequence[SampleGradients]:
    """Operators of rows and of samples in one form: one operator, or the samples of each."""
    wrapped: list[Any] = []
    for part in parts:
        own = RowIndex(np.arange(part.n_samples), part.n_samples)
        wrapped.append(part if part.of_rows else RowSums(part, own))
    total = wrapped[0].added_up(wrapped)
    if total is not None:
        return [total]
    resolved = [part.resolved() for part in parts]
    if any(part.of_rows for part in resolved):
        raise NotImplementedError(
            f"uses of one parameter whose rows are named by samples() must be of one kind and "
            f"size, found {sorted({type(part.base).__name__ for part in wrapped})} of different "
            f"shapes"
        )
    return resolved


class Summed(Tiled):
    """Row n is the sum of row n of every part, whatever the parts are.

    Args:
        parts: operators without replica axes, of one shape and one N.
    """

    def __init__(self, parts: Sequence[SampleGradients]) -> None:
        for part in parts:
            if part.replicas or not isinstance(part, Factored):
                raise TypeError(f"Summed: cannot add a {type(part).__name__} of {part.replicas}")
        self.parts: list[Any] = list(parts)
        self.n_samples = parts[0].n_samples
        self.shape = self.full_shape = parts[0].shape
        self.dtype = np.result_type(*(part.dtype for part in parts))

    @property
    def xp(self) -> Any:
        return self.parts[0].xp

    @property
    def factors(self) -> tuple[Array, ...]:
        return tuple(factor for part in self.parts for factor in part.factors)

    def numbers_per_sample(self) -> int:
        return sum(part.numbers_per_sample() for part in self.parts)

    def map_factors(self, answer: Callable[[Array, int], Array]) -> Summed:
        return Summed([part.map_factors(answer) for part in self.parts])

    def magnitude(self) -> Any:
        return larger(*[part.magnitude() for part in self.parts])

    def scaled_down(self, exponent: Any) -> Summed:
        return Summed([part.scaled_down(exponent) for part in self.parts])

    def _values(self, index: Index) -> Array:
        total = self.parts[0].values(index).astype(self.compute_dtype)
        for part in self.parts[1:]:
            total += part.values(index)
        return total

    def _weighted_sum(self, weights: Array) -> Array:
        return sum(part.weighted_sum(weights) for part in self.parts)

    def units(self) -> SampleGradients:
        raise ValueError("Summed: the rows of several uses have no output units in common")

    def _made_of(self, *factors: Array) -> Tiled:
        raise NotImplementedError("Summed: the parts know what they are made of")

    def _unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        raise ValueError("Summed: the rows of several uses have no output units in common")
