"""The median of every coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.headroom import headroom, restored
from chainrob.robustifiers.robustifier import CoordinateWise
from chainrob.robustifiers.trimming import median_derivative
from chainrob.sample_gradients.operator_base import AmongZeros, Array, Fused


@dataclass(frozen=True, repr=False)
class CoordinateMedian(CoordinateWise):
    r"""The median of every coordinate; for even N the mean of the two middle values.

    .. math:: \hat g = \arg\min_m \sum_i \lvert g_i - m \rvert

    Breakdown point (N - 1) // 2 rows. Translation- and scale-equivariant. Cost: order statistics of
    every coordinate.

    All the weight of a median lies on the middle value of each coordinate, which tells nothing of
    the rows. So ``sample_weights`` is made from the weights of the least-absolute-deviations fit
    that a median is, 1 / max(\|g_i - m\|, their median), scaled to a mean of 1.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.CoordinateMedian()(np.array([[1.0, 5.0], [2.0, 6.0], [1e9, -1e9]]))
        array([2., 5.])

    References:
        D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, Byzantine-robust distributed learning:
        towards optimal statistical rates, ICML 2018 (option I).
    """

    def fused(self, n_samples: int) -> Fused | None:
        return Fused("coordinate_median")

    def among_zeros(self, n_samples: int) -> AmongZeros:
        return AmongZeros(ignored=(n_samples - 1) // 2)

    def reduce(self, values: Array) -> Array:
        values, exponents = headroom(values)
        return restored(array_module(values).median(values, axis=-2), exponents)

    def derivative(self, values: Array) -> Array:
        return median_derivative(values)

    def coordinate_weights(self, values: Array) -> Array:
        xp = array_module(values)
        values, _ = headroom(values)
        center = xp.median(values, axis=-2, keepdims=True)
        distances = xp.abs(values - center)
        middle = xp.median(distances, axis=-2, keepdims=True)
        # More than half of the values at the median, up to rounding: the others have no weight.
        middle = xp.maximum(middle, 16.0 * np.finfo(values.dtype).eps * xp.abs(center))
        near = distances <= middle
        weights = xp.where(near, 1.0, middle / xp.where(near, 1.0, distances))
        return weights / weights.mean(axis=-2, keepdims=True)
