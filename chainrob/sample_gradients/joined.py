"""Several parameters as one row: what ``scope='layer'`` and ``scope='model'`` hand to a weighting
robustifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import prod
from operator import add, and_
from typing import Any

import numpy as np

from chainrob.sample_gradients.normalized import larger
from chainrob.sample_gradients.operator_base import (
    Array,
    Derivative,
    Index,
    Reduction,
    RowSquares,
    SampleGradients,
)


class Joined(SampleGradients):
    """Row i is the concatenation of row i of every part; estimates come back as a tuple, one array
    a part.

    Args:
        parts: operators with the same N and the same replicas.
    """

    def __init__(self, parts: Sequence[SampleGradients]) -> None:
        if not parts:
            raise ValueError("Joined: parts must hold at least one operator, found none")
        self.parts = tuple(parts)
        self.replicas, self.n_samples = parts[0].replicas, parts[0].n_samples
        self.layers: list[tuple[Any, Any]] = []
        """Each operator and the bias beside it, if there is one."""
        given, biases = set(map(id, parts)), {}
        size, self.dtype = 0, parts[0].dtype
        for part in parts:
            if part.n_samples != self.n_samples or part.replicas != self.replicas:
                raise ValueError(
                    f"Joined: all parts must have the same replicas and number of samples, found "
                    f"{sorted({(one.replicas, one.n_samples) for one in parts})}"
                )
            size += prod(part.shape)
            self.dtype = np.promote_types(self.dtype, part.dtype)
            if id(part.weights) in given:
                biases[id(part.weights)] = part
        self.shape = (size,)
        for part in parts:
            if id(part.weights) not in given:
                self.layers.append((part, biases.get(id(part))))

    @property
    def parameters(self) -> tuple[SampleGradients, ...]:
        return self.parts

    @property
    def xp(self) -> Any:
        return self.parts[0].xp

    def each(self, answer: Callable[[SampleGradients], Any]) -> Any:
        return tuple([answer(part) for part in self.parts])

    def zeros(self) -> Any:
        return self.each(lambda part: part.zeros())

    def weighted_sum(self, weights: Array) -> Any:
        weights = weights.astype(self.compute_dtype, copy=False)  # once, not in every part
        return self.each(lambda part: part.weighted_sum(weights))

    def squared_norms(self) -> Array:
        return reduce(add, [one.squared_norms() for one in self._products()])

    def gram(self) -> Array:
        return reduce(add, [one.gram() for one in self._products()])

    def centered_gram(self) -> Array:
        # Each part may center on another row: together that is still one common translation of all
        # rows.
        return reduce(add, [one.centered_gram() for one in self._products()])

    def _products(self) -> list[Any]:
        """The parts, a bias as one more input of its weights."""
        return [one if bias is None else one.with_bias() for one, bias in self.layers]

    def mean(self) -> Any:
        return self.each(lambda part: part.mean())

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        found: dict[int, Any] = {}
        for weights, bias in self.layers:
            both = None if bias is None else weights.reduce_with_bias(reduction, dtype, squares)
            if both is not None:
                found[id(weights)], found[id(bias)] = both
                continue
            found[id(weights)] = weights.reduce(reduction, dtype, squares)
            if bias is not None:
                found[id(bias)] = bias.reduce(reduction, dtype, squares)
        return tuple([found[id(part)] for part in self.parts])

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        """The parts' tiles one after the other, each index with the part's number in front."""
        for number, part in enumerate(self.parts):
            for index, values in part.tiles(budget):
                yield (slice(number, number + 1), *index), values

    def materialize(self, limit: int | None = None) -> Array:
        return self.xp.concatenate([part.materialize(limit) for part in self.parts], axis=-1)

    def take(self, rows: Array) -> Joined:
        return Joined(self.each(lambda part: part.take(rows)))

    def replica(self, index: tuple[int | slice, ...]) -> Joined:
        return Joined(self.each(lambda part: part.replica(index)))

    def units(self) -> SampleGradients:
        raise ValueError("Joined: joined parameters have no common output units; use the parts")

    def finite_rows(self) -> Array:
        return reduce(and_, [part.finite_rows() for part in self.parts])

    def surely_finite(self) -> Array:
        # Where a layer's factors are of ordinary size, so are their sums, except in float16.
        if self.dtype == np.float16:
            return reduce(and_, [part.surely_finite() for part in self.parts])
        return reduce(and_, [one.surely_finite() for one, _ in self.layers])

    def unflatten(self, estimate: Array) -> Any:
        """An estimate (*R, D) cut into the parts, each in its own shape and dtype."""
        pieces, start = [], 0
        for part in self.parts:
            piece = estimate[..., start : start + part.size]
            pieces.append(part.unflatten(piece).astype(part.dtype, copy=False))
            start += part.size
        return tuple(pieces)

    def magnitude(self) -> Any:
        return larger(*[part.magnitude() for part in self.parts])

    def scaled_down(self, exponent: Any) -> SampleGradients:
        return Joined(self.each(lambda part: part.scaled_down(exponent)))

    # -- double backward

    def projections(self, direction: Any) -> Array:
        parts = zip(self.parts, direction, strict=True)
        return sum(part.projections(piece) for part, piece in parts)

    def pullback_weights(
        self, weights: Array, mixing: Array | None, cotangent: Any
    ) -> tuple[Any, ...]:
        parts = zip(self.parts, cotangent, strict=True)
        return tuple(part.pullback_weights(weights, mixing, piece) for part, piece in parts)

    def pullback_coordinates(self, derivative: Derivative, cotangent: Any) -> tuple[Any, ...]:
        parts = zip(self.parts, cotangent, strict=True)
        return tuple(part.pullback_coordinates(derivative, piece) for part, piece in parts)
