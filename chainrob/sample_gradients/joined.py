"""Several parameters as one row: what ``scope='layer'`` and ``scope='model'`` hand to a weighting
robustifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from chainrob.sample_gradients.base import Array, Index, Reduction, RowSquares, SampleGradients
from chainrob.sample_gradients.outer_product import OuterProducts


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

    def weighted_sum(self, weights: Array) -> Any:
        weights = weights.astype(self.compute_dtype, copy=False)  # once, not in every part
        return tuple([part.weighted_sum(weights) for part in self.parts])

    def gram(self) -> Array:
        return self._sum_of_grams(centered=False)

    def centered_gram(self) -> Array:
        # Each part may centre on another row: together that is still one common translation of all
        # rows.
        return self._sum_of_grams(centered=True)

    def _sum_of_grams(self, *, centered: bool) -> Array:
        left, grams = list(self.parts), []
        while left:
            part, gram = left.pop(0), None
            if isinstance(part, OuterProducts) and left:
                gram = part.joint_gram(left[0], centered=centered)
                if gram is not None:
                    left.pop(0)
            if gram is None:
                gram = part.centered_gram() if centered else part.gram()
            grams.append(gram)
        return reduce(add, grams)

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        return tuple(part.reduce(reduction, dtype, squares) for part in self.parts)

    def moments(self, ddof: int = 0) -> Any:
        pairs = [part.moments(ddof) for part in self.parts]
        return tuple(mean for mean, _ in pairs), tuple(variance for _, variance in pairs)

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        """The parts' tiles one after the other, each index with the part's number in front."""
        for number, part in enumerate(self.parts):
            for index, values in part.tiles(budget):
                yield (slice(number, number + 1), *index), values

    def materialize(self, limit: int | None = None) -> Array:
        return self.xp.concatenate([part.materialize(limit) for part in self.parts], axis=-1)

    def take(self, rows: Array) -> Joined:
        return Joined([part.take(rows) for part in self.parts])

    def replica(self, index: tuple[int | slice, ...]) -> Joined:
        return Joined([part.replica(index) for part in self.parts])

    def units(self) -> SampleGradients:
        raise ValueError("Joined: joined parameters have no common output units; use the parts")

    def finite_rows(self) -> Array:
        finite = self.parts[0].finite_rows()
        for part in self.parts[1:]:
            finite = finite & part.finite_rows()
        return finite

    def surely_finite(self) -> Array:
        sure = self.parts[0].surely_finite()
        for part in self.parts[1:]:
            sure = sure & part.surely_finite()
        return sure

    def split(self, estimate: Array) -> Any:
        """An estimate (*R, D) cut into the parts, each in its own shape and dtype."""
        pieces, start = [], 0
        for part in self.parts:
            piece = estimate[..., start : start + part.size]
            pieces.append(part.split(piece).astype(part.dtype, copy=False))
            start += part.size
        return tuple(pieces)
