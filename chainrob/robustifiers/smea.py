"""The mean of the N - f rows whose covariance has the smallest largest eigenvalue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE
from chainrob.sample_gradients.operator_base import TILE_BUDGET, Array, squared_distances

MAX_SUBSETS = 50_000
"""Subsets that the search is willing to look at (some seconds)."""


@dataclass(frozen=True, repr=False)
class SMEA(BadRows, Weighting):
    r"""Smallest maximum eigenvalue averaging (SMEA): the mean of the subset of N - f rows whose
    covariance has the least largest eigenvalue.

    .. math:: \hat g = \frac{1}{N - f} \sum_{i \in S^*} g_i, \qquad
        S^* = \arg\min_{\lvert S \rvert = N - f} \lambda_{\max}\Big(\frac{1}{\lvert S \rvert}
        \sum_{i \in S} (g_i - \bar g_S)(g_i - \bar g_S)^\top\Big)

    Eigenvalues come from the Gram matrix of the subset and are exact; the published package (byzfl)
    takes one step of a power iteration from a random vector. Subsets are looked at in the order of
    a lower bound of the eigenvalue, the trace over the rank, and the search ends where it exceeds
    the least eigenvalue found. Subsets that tie are averaged. All C(N, f) subsets have to be
    listed, so more than 50,000 are refused.

    Breakdown point f rows, 2f < N. Equivariant under translation, scale and rotation. Cost: one
    Gram matrix, and up to C(N, f) eigenvalues of (N - f) x (N - f), one replica after the
    other, waiting for a device each time.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0; 2f >= N, or more than 50,000 subsets, at the
            call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e9, 0.0]])
        >>> chainrob.SMEA(f=1)(rows)
        array([0.5, 0.5])

    References:
        Y. Allouah, R. Guerraoui, N. Gupta, R. Pinot and J. Stephan, On the
        privacy-robustness-utility trilemma in distributed learning, ICML 2023.
    """

    def check(self, n_samples: int) -> None:
        super().check(n_samples)
        n_subsets = comb(n_samples, self.f)
        if n_subsets > MAX_SUBSETS:
            raise ValueError(
                f"SMEA: the {n_samples - self.f} rows to average are sought among {n_subsets:.3g} "
                f"subsets of {n_samples}, over the limit of {MAX_SUBSETS}; take a smaller f, fewer "
                f"rows, or another robustifier (CAF is a fast relative)"
            )

    def weights(self, gram: Array) -> Array:
        xp = array_module(gram)
        n = gram.shape[-1]
        flat = gram.reshape(-1, n, n)
        chosen = xp.stack([self._of_one(one) for one in flat])
        return chosen.reshape(gram.shape[:-1])

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None

    def _of_one(self, gram: Array) -> Array:
        xp = array_module(gram)
        n = gram.shape[-1]
        size = n - self.f
        kept = xp.asarray(_membership(n, self.f))
        # The trace of a subset's covariance is the sum of its squared distances over 2 size^2.
        distances = squared_distances(gram)
        bounds = (xp.matmul(kept, distances) * kept).sum(axis=-1) / (2.0 * size**2)
        bounds = bounds / max(size - 1, 1)
        order = xp.argsort(bounds)
        values = xp.full(len(kept), np.inf)
        least = np.inf
        step = max(1, min(256, TILE_BUDGET // size**2))
        for start in range(0, len(kept), step):
            chunk = order[start : start + step]
            if float(bounds[chunk[0]]) > least * (1.0 + TIE):
                break
            rows = xp.nonzero(kept[chunk])[1].reshape(-1, size)
            values[chunk] = _largest_eigenvalues(gram[rows[:, :, None], rows[:, None, :]])
            least = min(least, float(values[chunk].min()))
        best = values <= least * (1.0 + TIE)
        return kept[best].mean(axis=0) / size


def _largest_eigenvalues(grams: Array) -> Array:
    """Of the covariances of rows with these Gram matrices (M, n, n): (M,)."""
    xp = array_module(grams)
    means = grams.mean(axis=-1, keepdims=True)
    centered = grams - means - means.swapaxes(-1, -2) + means.mean(axis=-2, keepdims=True)
    return xp.maximum(xp.linalg.eigvalsh(centered)[..., -1], 0.0) / grams.shape[-1]


@lru_cache(maxsize=8)
def _membership(n: int, f: int) -> np.ndarray:
    """All subsets of n - f of n rows, one a row of zeros and ones: (C(n, f), n), read-only."""
    dropped = np.array(list(combinations(range(n), f)), np.intp).reshape(comb(n, f), f)
    kept = np.ones((len(dropped), n))
    np.put_along_axis(kept, dropped, 0.0, axis=1)
    kept.flags.writeable = False
    return kept
