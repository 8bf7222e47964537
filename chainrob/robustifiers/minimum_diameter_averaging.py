"""The mean of the N - f rows that lie closest together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np

from chainrob.kernels import array_module, to_host
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE
from chainrob.sample_gradients.operator_base import Array, squared_distances

MAX_STEPS = 30_000
"""Steps of the search after which it is given up (a few seconds)."""


@dataclass(frozen=True, repr=False)
class MinimumDiameterAveraging(BadRows, Weighting):
    r"""Minimum diameter averaging (MDA): the mean of the subset of N - f rows with the least
    diameter.

    .. math:: \hat g = \frac{1}{N - f} \sum_{i \in S^*} g_i, \qquad
        S^* = \arg\min_{\lvert S \rvert = N - f}\; \max_{i, j \in S} \lVert g_i - g_j \rVert

    Subsets often share the least diameter: it is that of one pair. Of these the one with the least
    sum of squared distances is taken, a rule of ours (the paper leaves it open); those that still
    tie are averaged. Where fewer than f rows have to go for the least diameter (rows that repeat,
    values on a grid), no others are dropped: the mean is that of the larger subset, which is as
    narrow.

    The search is exact and does not go through all C(N, f) subsets: rows farther apart than d are
    joined by an edge, and N - f rows of diameter d are what is left by a vertex cover of f rows. A
    cover is found by branching on the row with most edges, in a few steps where the bad rows stand
    apart and in at most about 1.47^f; the least d by bisection. A search of more than 30,000 steps
    is refused.

    Breakdown point f rows, 2f < N. Equivariant under translation, scale and rotation. Cost: one
    Gram matrix, and the search, one replica after the other on the host.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0, 2f >= N at the call, or a search that is
            hopeless.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [3.5], [1e9]])
        >>> chainrob.MinimumDiameterAveraging(f=2)(rows)
        array([1.])

    References:
        P. J. Rousseeuw, Multivariate estimation with high breakdown point, 1985. E. M. El Mhamdi,
        R. Guerraoui and S. Rouault, The hidden vulnerability of distributed learning in Byzantium,
        ICML 2018 (the name is that of El Mhamdi et al., Genuinely distributed Byzantine machine
        learning, PODC 2020).
    """

    def weights(self, gram: Array) -> Array:
        xp = array_module(gram)
        n = gram.shape[-1]
        distances = to_host(squared_distances(gram)).reshape(-1, n, n)
        chosen = np.stack([_Search(one, self).weights() for one in distances])
        return xp.asarray(chosen.reshape(gram.shape[:-1]))

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None


class _Search:
    """Vertex covers of the graph whose edges join rows farther apart than a threshold.

    Sets of rows are the bits of an integer.
    """

    def __init__(self, distances: np.ndarray, robustifier: MinimumDiameterAveraging) -> None:
        self.distances = distances
        self.robustifier = robustifier
        self.f = robustifier.f
        self.n = len(distances)
        self.steps = 0

    def weights(self) -> np.ndarray:
        thresholds = np.unique(self.distances)
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            if self._feasible(thresholds[middle]):
                high = middle
            else:
                low = middle + 1
        covers = list(self._covers(thresholds[low] * (1.0 + TIE)))
        # Where pairs tie, a smaller cover may do: the larger subset is then as narrow.
        fewest = min(cover.bit_count() for cover in covers)
        subsets = [
            self._kept(cover) for cover in dict.fromkeys(covers) if cover.bit_count() == fewest
        ]
        scatter = np.array([self.distances[np.ix_(kept, kept)].sum() for kept in subsets])
        best = scatter <= scatter.min() * (1.0 + TIE)
        weights = np.zeros(self.n)
        for kept in (subset for subset, taken in zip(subsets, best, strict=True) if taken):
            weights[kept] += 1.0 / (len(kept) * best.sum())
        return weights

    def _kept(self, cover: int) -> np.ndarray:
        return np.array([i for i in range(self.n) if not cover >> i & 1])

    def _feasible(self, threshold: float) -> bool:
        return next(self._covers(threshold), None) is not None

    def _covers(self, threshold: float) -> Iterator[int]:
        """All minimal covers of at most f rows, perhaps among others."""
        far = self.distances > threshold
        edges = [int("".join("1" if bit else "0" for bit in row[::-1]), 2) for row in far]
        return self._branch(edges, (1 << self.n) - 1, 0, self.f)

    def _branch(self, edges: list[int], alive: int, cover: int, budget: int) -> Iterator[int]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            n, f = self.n, self.f
            raise ValueError(
                f"{self.robustifier!r}: the search among the {comb(n, f):.3g} subsets of {n - f} "
                f"of {n} rows was given up after {MAX_STEPS} steps; take a smaller f, fewer rows, "
                f"or another robustifier (MultiKrum is a fast relative)"
            )
        degrees = [(edges[i] & alive).bit_count() if alive >> i & 1 else 0 for i in range(self.n)]
        most = max(degrees)
        if most == 0:
            yield cover
            return
        if sum(degrees) > 2 * budget * most:  # so few rows cannot meet all edges
            return
        row = degrees.index(most)
        bit, others = 1 << row, edges[row] & alive
        yield from self._branch(edges, alive & ~bit, cover | bit, budget - 1)
        if most <= budget:
            remaining = alive & ~bit & ~others
            yield from self._branch(edges, remaining, cover | others, budget - most)
