"""The mean of what is left when the smallest and the largest values of every coordinate are cut
off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.headroom import headroom, restored
from chainrob.robustifiers.trimming import Trimming, central_weights
from chainrob.sample_gradients.operator_base import Array, Fused


@dataclass(frozen=True, repr=False)
class TrimmedMean(Trimming):
    r"""Coordinate-wise trimmed mean: drop the k smallest and the k largest values, average the
    others.

    .. math:: \hat g = \frac{1}{N - 2k} \sum_{i = k + 1}^{N - k} g_{(i)}

    Breakdown point k rows. Translation- and scale-equivariant. Cost: order statistics of every
    coordinate.

    Args:
        fraction: share of the rows cut off at each end, in [0, 0.5): k = floor(fraction * N).
        count: k itself, instead of a fraction. One of the two must be given.

    Raises:
        ValueError: both or neither given, out of range, or 2 * count >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.TrimmedMean(count=1)(np.array([[1.0], [2.0], [3.0], [-1e9]]))
        array([1.5])

    References:
        D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, Byzantine-robust distributed learning:
        towards optimal statistical rates, ICML 2018 (option II).
    """

    def fused(self, n_samples: int) -> Fused | None:
        return Fused("trimmed_mean", (self.trim(n_samples),))

    def reduce(self, values: Array) -> Array:
        return trimmed_mean(values, self.trim(values.shape[-2]))

    def coordinate_weights(self, values: Array) -> Array:
        return central_weights(values, self.trim(values.shape[-2]))

    def derivative(self, values: Array) -> Array:
        return self.coordinate_weights(values) / values.shape[-2]


def trimmed_mean(values: Array, k: int) -> Array:
    """The mean of the values of rank k to N - k - 1 of every coordinate: (*R, N, d) to (*R, d)."""
    xp = array_module(values)
    n = values.shape[-2]
    values, exponents = headroom(values)
    if k == 0:
        return restored(values.mean(axis=-2), exponents)
    if xp is np:
        ordered = np.partition(values, sorted({k, n - k - 1}), axis=-2)
    else:
        ordered = xp.sort(values, axis=-2)
    return restored(ordered[..., k : n - k, :].mean(axis=-2), exponents)
