"""The mean of the rows nearest to one that is trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.parameters import require_choice
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE, smallest
from chainrob.sample_gradients.operator_base import Array, squared_distances

PIVOTS = ("first", "last")


@dataclass(frozen=True, repr=False)
class MoNNA(BadRows, Weighting):
    r"""MoNNA's aggregation: the mean of the N - f rows nearest to a trusted row, itself included.

    .. math:: \hat g = \frac{1}{N - f} \sum_{i \in \mathcal N} g_i, \qquad
        \mathcal N = \text{the } N - f \text{ indices of least } \lVert g_i - g_p \rVert

    The pivot p is a row that is known to be good: a node's own gradient, or that of a clean sample
    which is put first (or last) in every batch. Rows at the same distance where the choice ends
    share their places. Where rows that are not finite have been dropped, the first (last) of those
    left is the pivot.

    Breakdown point f rows, 2f < N, as long as the pivot is good; 0 if it is not. Depends on which
    row is the pivot, and on no other order. Equivariant under translation, scale and rotation.
    Cost: one Gram matrix.

    Args:
        f: number of rows assumed bad.
        pivot: which row is trusted, ``'first'`` or ``'last'``.

    Raises:
        ValueError: f is no integer of at least 0, an unknown pivot, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [2.0], [0.0], [5.0], [1e9]])
        >>> chainrob.MoNNA(f=2)(rows)
        array([1.])

    References:
        S. Farhadkhani, R. Guerraoui, N. Gupta, L. N. Hoang, R. Pinot and J. Stephan, Robust
        collaborative learning with linear gradient overhead, ICML 2023.
    """

    pivot: Literal["first", "last"] = field(default="first", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "pivot", PIVOTS)

    def weights(self, gram: Array) -> Array:
        count = gram.shape[-1] - self.f
        row = -PIVOTS.index(self.pivot)
        return smallest(squared_distances(gram)[..., row, :], count, tie=TIE) / count

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None
