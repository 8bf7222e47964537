"""Every row becomes the mean of its nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass

from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.pre_aggregation import Mixing
from chainrob.robustifiers.selection import TIE, smallest
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array, squared_distances


@dataclass(frozen=True, repr=False)
class NearestNeighborMixing(BadRows, Mixing):
    r"""Nearest-neighbor mixing (NNM): row i becomes the mean of the N - f rows nearest to it, the
    row itself among them.

    .. math:: y_i = \frac{1}{N - f} \sum_{j \in \mathcal N_i} g_j

    It gives the robustifier behind it rows that scatter less, and with it the optimal order of
    error; 2f < N. Rows at the same distance where the choice ends share their places. Equivariant
    under translation, scale and rotation. Cost: one Gram matrix and two products of N x N matrices.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [2.5], [1e9]])
        >>> chainrob.NearestNeighborMixing(f=2)(rows)[:4, 0].round(4)
        array([1.    , 1.    , 1.8333, 1.8333])

    References:
        Y. Allouah, S. Farhadkhani, R. Guerraoui, N. Gupta, R. Pinot and J. Stephan, Fixing by
        mixing: a recipe for optimal Byzantine ML under heterogeneity, AISTATS 2023.
    """

    def matrix(self, gradients: SampleGradients) -> Array:
        count = gradients.n_samples - self.f
        gram = gram_matrix(gradients, centered=True, propagate=True)
        matrix = smallest(squared_distances(gram.products), count, tie=TIE) / count
        if gram.bad is None:
            return matrix
        return gradients.xp.where(gram.bad[..., None, None], float("nan"), matrix)
