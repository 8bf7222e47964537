"""Several parameters as one row: what ``scope='layer'`` and ``scope='model'`` hand to a weighting
robustifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
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
        if any(
            part.n_samples != self.n_samples or part.replicas != self.replicas for part in parts
        ):
            counts = {(part.replicas, part.n_samples) for part in parts}
            raise ValueError(
                f"Joined: all parts must have the same replicas and number of samples, found "
                f"{sorted(counts)}"
            )
        self.shape = (sum([part.size for part in parts]),)
        self.dtype = np.result_type(*[part.dtype for part in parts])

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
        return reduce(add, [part.squared_norms() for part in self.parts])

    def gram(self) -> Array:
        return reduce(add, [one.gram() for one in self._products()])

    def centered_gram(self) -> Array:
        # Each part may center on another row: together that is still one common translation of all
        # rows.
        return reduce(add, [one.centered_gram() for one in self._products()])

    def _products(self) -> list[SampleGradients]:
        """The parts, a bias as one more input of its weights."""
        given = {id(part) for part in self.parts}
        biases = [part for part in self.parts if id(part.weights) in given]
        if not biases:
            return list(self.parts)
        with_bias = {id(part.weights): part.weights.with_bias() for part in biases if part.weights}
        rest = [part for part in self.parts if part not in biases]
        return [with_bias.get(id(part), part) for part in rest]

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        return self.each(lambda part: part.reduce(reduction, dtype, squares))

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
        # What says it of the weights looks at all that a bias beside them is made of.
        given = {id(part) for part in self.parts}
        asked = [part for part in self.parts if id(part.weights) not in given]
        return reduce(and_, [part.surely_finite() for part in asked])

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
