"""The longest rows are shortened to the length of the longest of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.gram import row_norms
from chainrob.robustifiers.pre_aggregation import Mixing, clipping_matrix
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class AdaptiveRobustClipping(BadRows, Mixing):
    r"""Adaptive robust clipping (ARC): the k longest rows are shortened to the length of the
    (k+1)-th longest.

    .. math:: y_i = g_i \min\Big(1, \frac{c}{\lVert g_i \rVert}\Big), \qquad
        c = \lVert g \rVert_{(k+1)}, \quad k = \Big\lfloor \frac{2 f (N - f)}{N} \Big\rfloor

    with norms in falling order. As k >= f, c is no larger than the longest good row's norm: f bad
    rows of any size become ordinary. Used before a robustifier; 2f < N. Equivariant under scale and
    rotation, not under translation. Cost: the rows' norms.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.AdaptiveRobustClipping(f=1)(np.array([[1.0], [2.0], [-3.0], [1e9]]))[:, 0]
        array([ 1.,  2., -3.,  3.])

    References:
        Y. Allouah, R. Guerraoui, N. Gupta, A. Jellouli, G. Rizk and J. Stephan, Boosting robustness
        by clipping gradients in distributed learning, 2024.
    """

    affine: ClassVar[bool] = False

    def matrix(self, gradients: SampleGradients) -> Array:
        n, xp = gradients.n_samples, gradients.xp
        n_clipped = 2 * self.f * (n - self.f) // n
        found = row_norms(gradients)
        limit = xp.sort(found.norms, axis=-1)[..., n - 1 - n_clipped][..., None]
        return clipping_matrix(found, limit, xp)
