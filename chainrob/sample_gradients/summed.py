"""Rows that add up: a parameter that is used in several places or time steps of one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrob.sample_gradients.base import Array, Index, SampleGradients
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.embedding import EmbeddingGradients
from chainrob.sample_gradients.normalized import larger, magnitude, scaled_down
from chainrob.sample_gradients.outer_product import OuterProducts
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
    first = parts[0]
    if len(parts) == 1:
        return first
    if all(type(part) is OuterProducts for part in parts):
        return _one_outer_product([part for part in parts if isinstance(part, OuterProducts)])
    if all(type(part) is EmbeddingGradients for part in parts):
        return _one_embedding([part for part in parts if isinstance(part, EmbeddingGradients)])
    if all(type(part) is Dense for part in parts):
        arrays = [part.rows for part in parts if isinstance(part, Dense)]
        return Dense(sum(arrays[1:], arrays[0]), len(first.replicas))
    return Summed(parts)


def _one_outer_product(parts: Sequence[OuterProducts]) -> OuterProducts:
    xp = parts[0].xp
    lead = (*parts[0].replicas, parts[0].n_samples)

    def joined(arrays: list[Array]) -> Array:
        full = [xp.broadcast_to(one, (*lead, *one.shape[-2:])) for one in arrays]
        return xp.concatenate(full, axis=-2)

    return OuterProducts(joined([one.x for one in parts]), joined([one.gy for one in parts]))


def _one_embedding(parts: Sequence[EmbeddingGradients]) -> EmbeddingGradients:
    xp = parts[0].xp
    ids = xp.concatenate([one.ids for one in parts], axis=1)
    gy = xp.concatenate([one.gy for one in parts], axis=1)
    return EmbeddingGradients(ids, gy, parts[0].shape[0])


class Summed(Tiled):
    """Row n is the sum of row n of every part, whatever the parts are.

    Args:
        parts: operators without replica axes, of one shape and one N.
    """

    def __init__(self, parts: Sequence[SampleGradients]) -> None:
        for part in parts:
            if part.replicas or not isinstance(part, Tiled | OuterProducts | Dense):
                raise TypeError(f"Summed: cannot add a {type(part).__name__} of {part.replicas}")
        self.parts = tuple(parts)
        self.n_samples = parts[0].n_samples
        self.shape = parts[0].shape
        self.dtype = np.result_type(*(part.dtype for part in parts))

    @property
    def xp(self) -> Any:
        return self.parts[0].xp

    def values(self, index: Index) -> Array:
        total = _values(self.parts[0], index).astype(self.compute_dtype)
        for part in self.parts[1:]:
            total += _values(part, index)
        return total

    def weighted_sum(self, weights: Array) -> Array:
        return sum(part.weighted_sum(weights) for part in self.parts)

    def take(self, rows: Array) -> Summed:
        return Summed([part.take(rows) for part in self.parts])

    def unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        raise ValueError("Summed: the rows of several uses have no output units in common")


def _values(part: SampleGradients, index: Index) -> Array:
    """All rows of any operator at a rectangle of coordinates: (N, d)."""
    if isinstance(part, Tiled):
        return part.values(index)
    if isinstance(part, OuterProducts):
        return part._values(*index)
    assert isinstance(part, Dense)
    values = part.rows[(slice(None), *index)].astype(part.compute_dtype, copy=False)
    return values.reshape((part.n_samples, -1))


@magnitude.register
def _(gradients: Summed) -> Any:
    return larger(*(magnitude(part) for part in gradients.parts))


@scaled_down.register
def _(gradients: Summed, exponent: Any) -> Summed:
    return Summed([scaled_down(part, exponent) for part in gradients.parts])
