"""Rows that belong together: several rows of a layer that are one sample's.

Tree nodes, words, time steps of sequences of different lengths: a layer sees one row each, and the
gradient of a sample is the sum over its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from chainrob.sample_gradients.factored import Factored
from chainrob.sample_gradients.operator_base import Array, Mixed, SampleGradients
from chainrob.sample_gradients.row_index import RowIndex

Key = TypeVar("Key")


class RowSums(Mixed):
    """The operator whose row n is the sum of the rows of ``base`` that belong to sample n.

    Args:
        base: the operator of the single rows.
        rows: to which sample each of them belongs.
    """

    of_rows = True

    def __init__(self, base: SampleGradients, rows: RowIndex) -> None:
        if rows.index.size != base.n_samples:
            raise ValueError(
                f"RowSums: the index must name a sample for each of {base.n_samples} rows, found "
                f"{rows.index.size}"
            )
        self.rows = rows
        matrix = base.xp.zeros((rows.n_samples, base.n_samples))
        matrix[base.xp.asarray(rows.index), base.xp.arange(base.n_samples)] = 1.0
        super().__init__(base, matrix, affine=False)

    @property
    def units_come_first(self) -> bool:  # type: ignore[override]
        return self.base.units_come_first

    def take(self, rows: Array) -> Mixed:
        """Only rows of the chosen samples are kept: a number that is none must not meet others."""
        chosen = _host(rows)
        if np.unique(chosen).size != chosen.size:
            return super().take(rows)
        place = np.full(self.n_samples, -1)
        place[chosen] = np.arange(chosen.size)
        index = place[self.rows.index]
        kept = np.flatnonzero(index >= 0)
        base = self.base.take(self.xp.asarray(kept))
        return RowSums(base, RowIndex(index[kept], chosen.size))

    def replica(self, index: tuple[int | slice, ...]) -> RowSums:
        return RowSums(self.base.replica(index), self.rows)

    def units(self) -> RowSums:
        return RowSums(self.base.units(), self.rows)

    def join_units(self, estimate: Array) -> Array:
        return self.base.join_units(estimate)

    def scaled_down(self, exponent: Any) -> RowSums:
        return RowSums(self.base.scaled_down(exponent), self.rows)

    def touched(self) -> RowSums:
        return RowSums(self.base.touched(), self.rows)

    def with_pullback(self) -> RowSums:
        return RowSums(self.base.with_pullback(), self.rows)

    def pulled_units(self, pulled: tuple[Array, ...]) -> tuple[Array, ...]:
        return self.base.pulled_units(pulled)

    def resolved(self) -> SampleGradients:
        summed = self.base.row_sums(self.rows)
        return self if summed is None else summed

    def added_up(self, uses: Sequence[Any]) -> SampleGradients | None:
        """Several uses are one with all their rows; a use with one row a node costs one row."""
        base = _concatenated([one.base for one in uses])
        if base is None:
            return None
        index = np.concatenate([one.rows.index for one in uses])
        return RowSums(base, RowIndex(index, self.n_samples)).resolved()

    def _combine(self, values: Array) -> Array:
        return self.rows.sums(values, axis=values.ndim - 2)


def summed_rows(
    operators: Mapping[Key, SampleGradients], rows: RowIndex
) -> dict[Key, SampleGradients]:
    """The operators of one layer with the rows of each sample added up.

    A bias stays the bias of its weights, with which it shares its Gram matrix.
    """
    found: dict[int, SampleGradients] = {}

    def of(one: SampleGradients) -> SampleGradients:
        if id(one) not in found:
            weights = None if one.weights is None else of(one.weights)
            beside: Callable[[], SampleGradients] | None = getattr(weights, "bias", None)
            found[id(one)] = RowSums(one, rows).resolved() if beside is None else beside()
        return found[id(one)]

    return {key: of(one) for key, one in operators.items()}


def _concatenated(parts: Sequence[Any]) -> SampleGradients | None:
    """One operator with the rows of all parts; None where they are not alike."""
    first = parts[0]
    if not isinstance(first, Factored) or any(type(one) is not type(first) for one in parts):
        return None
    columns = list(zip(*[one.factors for one in parts], strict=True))
    axes = [first.sample_axis(column[0]) for column in columns]
    for axis, column in zip(axes, columns, strict=True):
        if len({(*one.shape[:axis], -1, *one.shape[axis + 1 :]) for one in column}) > 1:
            return None
    xp = first.xp
    return first.with_factors(
        *[xp.concatenate(column, axis=axis) for axis, column in zip(axes, columns, strict=True)]
    )


def _host(rows: Any) -> np.ndarray:
    rows = rows.get() if hasattr(rows, "get") else np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows
