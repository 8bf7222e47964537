"""Rows longer than a limit are shortened to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ldexp
from typing import ClassVar

from chainrob.robustifiers.gram import row_norms
from chainrob.robustifiers.parameters import require_positive
from chainrob.robustifiers.pre_aggregation import Mixing, clipping_matrix
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class ClipNorm(Mixing):
    r"""Norm clipping: a row longer than ``max_norm`` is shortened to that length.

    .. math:: y_i = g_i \min\Big(1, \frac{c}{\lVert g_i \rVert}\Big)

    ``ClipNorm(c) >> Mean()`` is the clipped mean of differentially private training: bounded for
    any number of bad rows (each pulls by c / N at most), and biased where good rows are longer. The
    limit is absolute, so it is not scale-equivariant, nor does it stay under translation;
    equivariant under rotation. Cost: the rows' norms.

    Args:
        max_norm: c, in units of one sample's loss gradient.

    Raises:
        ValueError: max_norm is no positive number.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.ClipNorm(1.0)(np.array([[0.5, 0.0], [30.0, 40.0]]))
        array([[0.5, 0. ],
               [0.6, 0.8]])

    References:
        M. Abadi et al., Deep learning with differential privacy, CCS 2016.
    """

    max_norm: float

    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "max_norm")

    def matrix(self, gradients: SampleGradients) -> Array:
        found = row_norms(gradients)
        xp = gradients.xp
        limit = self.max_norm
        if isinstance(found.exponent, int):
            limit = ldexp(limit, -found.exponent)
        else:
            limit = xp.ldexp(xp.full((), limit), -found.exponent)
        return clipping_matrix(found, limit, xp)
