"""The median of every coordinate."""

from __future__ import annotations

from dataclasses import dataclass

from chainrob.kernels import array_module
from chainrob.robustifiers.base import CoordinateWise
from chainrob.robustifiers.trimmed_mean import central_weights
from chainrob.sample_gradients.base import Array


@dataclass(frozen=True, repr=False)
class CoordinateMedian(CoordinateWise):
    """The median of every coordinate; for even N the mean of the two middle values.

    Breakdown point (N - 1) // 2 rows. Translation- and scale-equivariant. Cost: order statistics of
    every coordinate.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.CoordinateMedian()(np.array([[1.0, 5.0], [2.0, 6.0], [1e9, -1e9]]))
        array([2., 5.])

    References:
        D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, Byzantine-robust distributed learning:
        towards optimal statistical rates, ICML 2018 (option I).
    """

    def reduce(self, values: Array) -> Array:
        return array_module(values).median(values, axis=-2)

    def coordinate_weights(self, values: Array) -> Array:
        return central_weights(values, (values.shape[-2] - 1) // 2)
