"""Krum chooses rows one after the other, and a trimmed mean of their coordinates follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chainrob.kernels import array_module
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.estimates import Estimate, in_chunks
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.mean_around_median import MeanAroundMedian
from chainrob.robustifiers.robustifier import Robustifier
from chainrob.robustifiers.selection import TIE
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array, squared_distances


@dataclass(frozen=True, repr=False)
class Bulyan(BadRows, Robustifier):
    r"""Bulyan: Krum chooses N - 2f rows, and in every coordinate the N - 4f of their values nearest
    to their median are averaged.

    1. Of the m rows that are left take the one with the least sum of squared distances to its
       m - f - 2 nearest others (one at least), until :math:`\theta = N - 2f` are taken.
    2. With med the coordinate-wise median of the rows taken,

    .. math:: \hat g = \frac1\beta \sum_{i \in S} g_i, \qquad
        S = \text{the } \beta = \theta - 2f \text{ indices of least } \lvert g_i - \mathrm{med}
        \rvert, \text{ in every coordinate apart}

    Rows with the same score (always two of them where there is one neighbor only) are told apart by
    their distances to all that are left, so that the answer does not depend on the order of the
    rows.

    Breakdown point f rows, 4f + 2 < N; with f = 0, the mean of any N. Krum alone lets through a row
    that is far off in one of very many coordinates; here such a value is trimmed. Equivariant under
    translation and scale. Cost: one Gram matrix, N^2 operations for each row taken, one after the
    other, and two order statistics of every coordinate.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0, or 4f + 2 >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [2.5], [4.0], [5.0], [1e9]])
        >>> chainrob.Bulyan(f=1)(rows).round(3)
        array([2.333])

    References:
        E. M. El Mhamdi, R. Guerraoui and S. Rouault, The hidden vulnerability of distributed
        learning in Byzantium, ICML 2018.
    """

    def check(self, n_samples: int) -> None:
        if self.f and 4 * self.f + 2 >= n_samples:
            raise ValueError(
                f"Bulyan: 4f + 2 must be below the number of samples, found f={self.f} with "
                f"{n_samples} samples"
            )

    @property
    def second(self) -> MeanAroundMedian:
        """The robustifier of the rows that were taken."""
        return MeanAroundMedian(2 * self.f, nonfinite=self.nonfinite)

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        def answer(part: SampleGradients) -> Estimate:
            if not self.f:
                return self.second._estimate(part, watch)
            matrix = self._matrix(part)
            found = self.second._estimate(part.mix(matrix), watch)
            if found.weights is None:
                return found
            scale = matrix.shape[-1] / matrix.shape[-2]
            weights = part.xp.matmul(found.weights[..., None, :], matrix)[..., 0, :]
            return found._replace(weights=weights * scale)

        return in_chunks(gradients, answer)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        # A small move of the rows does not change which are taken.
        return self.second._pullback(self._taken(gradients), cotangent)

    def _taken(self, gradients: SampleGradients) -> SampleGradients:
        return gradients.mix(self._matrix(gradients)) if self.f else gradients

    def _matrix(self, gradients: SampleGradients) -> Array:
        gram = gram_matrix(gradients, centered=True, propagate=self.nonfinite == "propagate")
        matrix = chosen_by_krum(gram.products, self.f)
        if gram.bad is None:
            return matrix
        return gradients.xp.where(gram.bad[..., None, None], float("nan"), matrix)


def chosen_by_krum(gram: Array, f: int) -> Array:
    """One row a choice, 1 at the row of the Gram matrix (*R, N, N) that was chosen, or its share at
    each of several equal ones: (*R, N - 2f, N).
    """
    xp = array_module(gram)
    n = gram.shape[-1]
    distances = squared_distances(gram)
    # Every row's others, from near to far; the row itself never counts.
    index = xp.arange(n)
    apart = distances.copy()
    apart[..., index, index] = xp.inf
    order = xp.argsort(apart, axis=-1)[..., : n - 1]
    near_to_far = xp.take_along_axis(apart, order, axis=-1)
    left = xp.ones(gram.shape[:-1], bool)
    chosen = []
    for m in range(n, 2 * f, -1):
        there = xp.take_along_axis(left[..., None, :], order, axis=-1)
        counted = there & (xp.cumsum(there, axis=-1) <= max(m - f - 2, 1))
        scores = xp.where(left, xp.where(counted, near_to_far, 0.0).sum(axis=-1), xp.inf)
        best = scores <= scores.min(axis=-1, keepdims=True) * (1.0 + TIE)
        totals = xp.where(left[..., None, :], distances, 0.0).sum(axis=-1)
        take = xp.argmin(xp.where(best, totals, xp.inf), axis=-1)
        chosen.append(index == take[..., None])
        left = left & ~chosen[-1]
    # Rows that are equal share what any of them is given.
    equal = (distances == 0.0).astype(gram.dtype)
    equal = equal / equal.sum(axis=-1, keepdims=True)
    return xp.matmul(xp.stack(chosen, axis=-2).astype(gram.dtype), equal)
