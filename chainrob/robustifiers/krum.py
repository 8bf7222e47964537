"""The row that lies nearest to its neighbors, or the mean of the best few of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from chainrob.kernels import array_module
from chainrob.kernels import nearest_sums as compiled
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.parameters import require_choice, require_flag, require_integer
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE, smallest
from chainrob.sample_gradients.operator_base import Array, squared_distances

NEIGHBORS = ("n-f-2", "n-f-1", "n-f")
Neighbors = Literal["n-f-2", "n-f-1", "n-f"]


@dataclass(frozen=True, repr=False)
class Krum(BadRows, Weighting):
    r"""Krum: the row with the least sum of squared distances to its N - f - 2 nearest neighbors.

    .. math:: \hat g = g_{i^*}, \qquad i^* = \arg\min_i s_i, \qquad
        s_i = \sum_{j \in \mathcal N_i} \lVert g_i - g_j \rVert^2

    with N_i the N - f - 2 *other* rows nearest to i. Rows with the same score (always two of them
    where there is one neighbor only) share the weight, so that the answer does not depend on the
    order of the rows; the paper takes the first. Breakdown point f rows, 2f + 2 < N; with f = 0 any
    N will do, and a row always has one neighbor at least, if there is one. Equivariant under
    translation, scale and rotation. Cost: one Gram matrix.

    Published packages differ from the paper: some sum over N - f - 1 or N - f neighbors, some let
    the row itself, at distance 0, take one of the places, some do not square the distances. The
    options below reproduce them.

    Args:
        f: number of rows assumed bad.
        neighbors: how many neighbors: ``'n-f-2'`` (the paper), ``'n-f-1'`` or ``'n-f'``.
        count_self: whether the row itself takes one of their places.
        squared: whether the distances are squared (the paper).

    Raises:
        ValueError: f is no integer of at least 0, an unknown option, or 2f + 2 >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [2.5], [4.0], [1e9]])
        >>> chainrob.Krum(f=1)(rows)
        array([1.])

    References:
        P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, Machine learning with
        adversaries: Byzantine tolerant gradient descent, NeurIPS 2017.
    """

    neighbors: Neighbors = field(default="n-f-2", kw_only=True)
    count_self: bool = field(default=False, kw_only=True)
    squared: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "neighbors", NEIGHBORS)
        require_flag(self, "count_self")
        require_flag(self, "squared")

    def check(self, n_samples: int) -> None:
        if self.f and 2 * self.f + 2 >= n_samples:
            raise ValueError(
                f"{type(self).__name__}: 2f + 2 must be below the number of samples, found "
                f"f={self.f} with {n_samples} samples"
            )

    def weights(self, gram: Array) -> Array:
        return smallest(self.scores(gram), 1, tie=TIE)

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None

    def scores(self, gram: Array) -> Array:
        """s_i of every row: (*R, N)."""
        n = gram.shape[-1]
        n_others = n - self.f - (2, 1, 0)[NEIGHBORS.index(self.neighbors)] - self.count_self
        # The row itself, or one that equals it, is the nearest of all and adds nothing.
        return nearest_sums(gram, 1 + min(max(n_others, 1), n - 1), self.squared)


def nearest_sums(gram: Array, count: int, squared: bool) -> Array:
    """The sum of the ``count`` least (squared) distances of every row to the rows, itself included:
    (*R, N).
    """
    n = gram.shape[-1]
    sums = compiled(gram.reshape(-1, n, n), count, squared)
    if sums is not None:
        return sums.reshape(gram.shape[:-1])
    return nearest_sums_by_arrays(gram, count, squared)


def nearest_sums_by_arrays(gram: Array, count: int, squared: bool) -> Array:
    """As ``nearest_sums``, in array code: the definition that its compiled form meets."""
    xp = array_module(gram)
    distances = squared_distances(gram)
    if not squared:
        distances = xp.sqrt(distances)
    return xp.sort(distances, axis=-1)[..., :count].sum(axis=-1)


@dataclass(frozen=True, repr=False)
class MultiKrum(Krum):
    r"""Multi-Krum: the mean of the m rows with the lowest Krum scores.

    .. math:: \hat g = \frac1m \sum_{i \in S} g_i, \qquad S = \text{the } m \text{ rows of least }
        s_i

    Scores, options and breakdown point are those of ``Krum``; rows with the same score where the
    choice ends share their places. The scores are computed once, as in the paper; the variant that
    chooses row after row and scores anew in between is another estimator. Equivariant under
    translation, scale and rotation. Cost: one Gram matrix.

    Args:
        f: number of rows assumed bad.
        m: number of rows averaged, from 1 (Krum) to N - f, which is the default and what a larger
            m is cut down to where rows that are not finite have been dropped.
        neighbors: how many neighbors: ``'n-f-2'`` (the paper), ``'n-f-1'`` or ``'n-f'``.
        count_self: whether the row itself takes one of their places.
        squared: whether the distances are squared (the paper).

    Raises:
        ValueError: as ``Krum``; m is no positive integer, or m > N - f at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [2.5], [4.0], [1e9]])
        >>> chainrob.MultiKrum(f=1, m=2)(rows)
        array([1.75])

    References:
        P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, Machine learning with
        adversaries: Byzantine tolerant gradient descent, NeurIPS 2017.
    """

    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m is not None:
            require_integer(self, "m", 1)

    def check(self, n_samples: int) -> None:
        super().check(n_samples)
        if self.m is not None and self.m > n_samples - self.f:
            raise ValueError(
                f"MultiKrum: m must not exceed the number of samples less f, found m={self.m} with "
                f"{n_samples} samples and f={self.f}"
            )

    def for_rows_left(self, n_samples: int) -> MultiKrum:
        most = n_samples - self.f
        return replace(self, m=most) if self.m is not None and self.m > most > 0 else self

    def weights(self, gram: Array) -> Array:
        m = gram.shape[-1] - self.f if self.m is None else self.m
        return smallest(self.scores(gram), m, tie=TIE) / m
