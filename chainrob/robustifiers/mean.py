"""The plain mean: what ordinary back-propagation does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrob.robustifiers.robustifier import Estimate, Robustifier
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class Mean(Robustifier):
    r"""The arithmetic mean of the sample gradients.

    .. math:: \hat g = \frac1N \sum_i g_i

    In a robust layer it gives the stock gradient. Breakdown point 0: one row carries it anywhere.
    Equivariant under every affine map. Cost: one matrix product.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.Mean()(np.array([[1.0, 2.0], [3.0, 6.0]]))
        array([2., 4.])
    """

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        return Estimate(gradients.mean(), _ones(gradients) if watch else None)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        weights = _ones(gradients) / gradients.n_samples
        return gradients.pullback_weights(weights, None, cotangent)


def _ones(gradients: SampleGradients) -> Array:
    return gradients.xp.ones((*gradients.replicas, gradients.n_samples), np.float64)
