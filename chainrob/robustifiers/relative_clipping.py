"""Rows longer than a multiple of the batch's own ordinary length are shortened to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from chainrob.robustifiers.gram import row_norms
from chainrob.robustifiers.parameters import require_choice, require_open_unit, require_positive
from chainrob.robustifiers.pre_aggregation import Mixing, clipping_matrix
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class RelativeClipping(Mixing):
    r"""Norm clipping relative to the batch: a row longer than ``multiple`` times an ordinary length
    is shortened to that.

    .. math:: y_i = g_i \min\Big(1, \frac{c\,\ell}{\lVert g_i \rVert}\Big)

    with the length :math:`\ell` of the batch's own norms: their q-quantile Q
    (``reference='quantile'``), or their mean when those above Q count as Q
    (``reference='winsorized'``). Q is the norm of rank floor(q (N - 1)), counted from 0.
    ``RelativeClipping() >> Mean()`` has bounded influence with no absolute limit. Where the
    ordinary sample is fitted and its gradient near zero, as late in the training of a classifier,
    the few samples that still have something to teach are shortened with the bad ones: with the
    winsorized mean less than with the median.

    A share of bad rows up to 1 - q leaves Q among the good norms. Equivariant under scale and
    rotation, not under translation. Cost: the rows' norms.

    Args:
        multiple: c, above 0.
        quantile: q, in (0, 1).
        reference: ``'quantile'`` or ``'winsorized'``.

    Raises:
        ValueError: a multiple that is not positive, a quantile outside (0, 1), or an unknown
            reference.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [2.0], [-3.0], [1e9]])
        >>> chainrob.RelativeClipping(multiple=2.0)(rows)[:, 0]
        array([ 1.,  2., -3.,  4.])

    References:
        Y. Allouah et al., Boosting robustness by clipping gradients in distributed learning, 2024
        (a limit among the batch's own norms). G. Andrew, O. Thakkar, H. B. McMahan and S.
        Ramaswamy, Differentially private learning with adaptive clipping, NeurIPS 2021 (the
        quantile of the norms; over steps, see ``chainrob.training.RunningClipping``).
    """

    multiple: float = 2.0
    quantile: float = field(default=0.5, kw_only=True)
    reference: Literal["quantile", "winsorized"] = field(default="quantile", kw_only=True)

    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "multiple")
        require_open_unit(self, "quantile")
        require_choice(self, "reference", ("quantile", "winsorized"))

    def matrix(self, gradients: SampleGradients) -> Array:
        xp = gradients.xp
        found = row_norms(gradients)
        return clipping_matrix(found, self.multiple * self._length(found.norms, xp), xp)

    def _length(self, norms: Array, xp: Any) -> Array:
        rank = int(self.quantile * (norms.shape[-1] - 1))
        length = xp.sort(norms, axis=-1)[..., rank, None]
        if self.reference == "winsorized":
            length = xp.minimum(norms, length).mean(axis=-1, keepdims=True)
        return length
